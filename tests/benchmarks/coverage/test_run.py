"""The coverage table on tiny networks: what it finds, that it finds faults, and that no process can stop a run."""

import copy
import csv
import gc
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import nrfx
from benchmarks.coverage import run
from benchmarks.coverage.check import Examination
from benchmarks.coverage.dead import WAYS, calibrate_traced, plant
from benchmarks.coverage.models import Entry, entries
from benchmarks.coverage.page import page, summary, worst
from benchmarks.coverage.row import Row, row_of, row_of_cells
from benchmarks.coverage.shares import general, shares
from benchmarks.networks import calibrate
from benchmarks.table import progress_bar, write_csv
from nrfx.analysis.spaces import channels_of


@pytest.fixture(autouse=True, scope="module")
def frozen() -> Iterator[None]:
    """Keeps imported objects out of the garbage collections that the checks run often."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def unit(in_width: int, width: int, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_width, width, kernel, padding=kernel // 2, groups=groups)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())


class Residual(nn.Module):
    """A stem, a block with a grouped convolution on its stream, three plain units and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 12)
        self.inner = unit(12, 12, groups=3)
        self.outer = unit(12, 12, kernel=1)
        self.last = nn.Sequential(unit(12, 16), unit(16, 20), unit(20, 16, kernel=1))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.last(x + self.outer(self.inner(x)))
        return self.head(x.mean((2, 3)))


class Refusing(Residual):
    """Its control flow depends on values: no trace."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 1e9 else super().forward(-x)


def aborted() -> nn.Module:
    os.abort()


def endless() -> nn.Module:
    while True:
        pass


@dataclass(frozen=True)
class Tiny(Entry):
    """An entry that builds a class of this file."""

    def build(self) -> nn.Module:
        made: nn.Module = globals()[self.name]()
        return made


def tiny(name: str) -> Tiny:
    return Tiny("torchvision", name, "ResNet", (3, 8, 8))


def examined(name: str) -> Row:
    values: dict[str, Any] = {}
    Examination(tiny(name), values.update, repeats=1).run()
    return row_of({"model": name, "source": "torchvision", "family": "ResNet", "input": "3x8x8"} | values)


def test_dropped_constants_are_found_and_named_with_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nrfx, "rejuvenate", partial(nrfx.rejuvenate, constants=False))
    row = examined("Residual")
    assert len(row.failures) == 6 and row.cases == 0
    assert all("outputs differ by" in failure for failure in row.failures)


def test_a_model_that_cannot_be_traced_is_a_row_with_the_reason() -> None:
    row = examined("Refusing")
    assert (row.built, row.traced, row.cases) == (True, False, 0)
    assert row.failures[0].startswith("trace: TraceError: ")


def test_a_process_that_dies_or_takes_too_long_is_a_row_with_the_step() -> None:
    with progress_bar(Console(quiet=True)) as progress:
        task = progress.add_task("")
        dead, slow = (run.row(tiny(name), run.Limits(1 << 34, 1.0), progress, task) for name in ("aborted", "endless"))
    assert dead.failures == ("build: the process died with exit code -6",)
    assert slow.failures == ("build: the process was killed; its limits are 16 GiB and 1 s of CPU time",)


def test_a_sound_network_passes_every_check() -> None:
    row = examined("Residual")
    assert row.failures == ()
    assert (row.params_equal, row.flops_equal, row.uncounted) == (True, True, 0)
    assert row.cases == 6 and row.free == row.mortal == 1
    assert row.r_coupled is not None and row.r_live is not None and row.r_coupled < row.r_live < 1


def test_dead_sets_hit_streams_whole_groups_and_single_gammas() -> None:
    traced = nrfx.trace(Residual(), torch.zeros(2, 3, 8, 8))
    channels = channels_of(traced)
    dead: list[Mapping[str, Tensor]] = []
    for seed in range(20):
        plant(traced, channels, torch.Generator().manual_seed(seed))
        dead.append({name: traced.get_parameter(name) == 0 for name in ("stem.1.weight", "outer.1.weight")})
        groups = (traced.get_parameter("inner.1.weight") == 0).view(3, 4).float().mean(1)
        dead[-1]["groups"] = groups  # type: ignore[index]
    whole = [bool(((d["groups"] == 0) | (d["groups"] == 1)).all()) for d in dead]
    alike = [torch.equal(d["stem.1.weight"], d["outer.1.weight"]) for d in dead]
    assert 0 < sum(whole) < 20 and 0 < sum(alike) < 20
    assert 0.4 < float(torch.stack([d["stem.1.weight"].float().mean() for d in dead]).mean()) < 0.6
    assert all(0.45 < tied + (1 - tied) * loose < 0.55 for _, tied, loose in WAYS.values())


class Own(nn.BatchNorm2d):
    """A norm with a forward of its own, which is traced into."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def test_norms_that_were_traced_into_are_calibrated_as_modules_are() -> None:
    torch.manual_seed(0)
    convs = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
    net = nn.Sequential(convs[0], Own(8, momentum=0.3), nn.ReLU(), convs[1], nn.BatchNorm2d(4)).double()
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    traced = copy.deepcopy(nrfx.trace(net, images))
    assert not any(node.op == "call_module" and node.target == "1" for node in traced.graph.nodes)
    calibrate_traced(traced, channels_of(traced), images)
    calibrate(net, lambda model: model.train()(images))
    for name in ("1.running_mean", "1.running_var", "4.running_mean", "4.running_var"):
        torch.testing.assert_close(traced.get_buffer(name), net.get_buffer(name), rtol=1e-9, atol=1e-12)


def test_shares_count_weights_with_their_bias_and_name_what_holds_the_rest() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1), nn.Softmax(1), nn.Conv2d(6, 4, 1))
    channels = channels_of(nrfx.trace(net, torch.zeros(2, 3, 4, 4)))
    got = shares(net, channels)
    first, second, third = 3 * 8 + 8, 8 * 6 + 6, 6 * 4 + 4
    assert got.mortal == got.free == (first + second) / (first + second + third)
    assert got.pins == (f"{third / (first + second + third):.1%} the network's output",)


def test_like_reasons_count_together() -> None:
    assert general("layer1.0.conv2 reads only some") == general("layer2.1.conv2 reads only some")
    assert general("meets the network's input") == "meets the network's input"


def test_rows_survive_the_cache_and_the_csv(tmp_path: Path) -> None:
    row = Row(
        "a", "torchvision", "VGG", "3x8x8", traced=True, params=7, free=0.5, pins=("1.0% x", "2.0% y"), share=None
    )
    assert row_of(json.loads(json.dumps(asdict(row)))) == row
    write_csv([row], tmp_path / "table.csv")
    with (tmp_path / "table.csv").open() as file:
        assert [row_of_cells(cells) for cells in csv.DictReader(file)] == [row]


def test_the_page_names_missed_goals_and_every_failure() -> None:
    bad = Row("vgg11", "torchvision", "VGG", "3x8x8", mortal=0.1, scaled=0.5, failures=("trace: TraceError: no",))
    good = Row("vit", "timm", "vision_transformer", "3x8x8", mortal=0.7, difference_live=float("nan"))
    text = page([bad, good])
    assert "- vgg11: trace: TraceError: no" in text
    assert "Every check holds for 0 of 1 of torchvision, 1 of 1 of timm." in text
    assert summary([bad])[0][5:7] == ("50 %", "95%, missed")
    assert str(worst(1.0, float("nan"))) == "nan" and worst(None, None) is None


def test_all_classification_segmentation_and_video_models_of_torchvision_are_named() -> None:
    chosen = list(entries())
    assert len({entry.title for entry in chosen}) == len(chosen)
    assert sum(entry.source == "torchvision" for entry in chosen) >= 95
    assert all(entry.family != "other" for entry in chosen)
    assert len({entry.family for entry in chosen if entry.source == "timm"}) >= 20
