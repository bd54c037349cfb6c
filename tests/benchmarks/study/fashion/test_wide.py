"""The study for a GPU, on the CPU: runs are kept as they end, none starts when the time is over."""

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.study.fashion import loop, networks, wide
from benchmarks.study.fashion.networks import head, shape_of, unit
from benchmarks.study.fashion.page import page
from benchmarks.study.fashion.runs import kept
from nrfx.experiment.data import Dataset, Images
from tests.benchmarks.study.fashion.test_tables import line

SMALL = nn.MaxPool2d(4)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network in the place of the wide one, and few images."""

    def few(count: int) -> Images:
        return Images(
            torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(count) % 10
        )

    monkeypatch.setattr(networks, "vgg19_cifar", lambda classes: nn.Sequential(SMALL, unit(3, 8), unit(8, 8), *head(8)))
    monkeypatch.setattr(wide, "images", lambda root, device, most: Dataset("few", 10, *map(few, (128, 20, 20))))
    monkeypatch.setattr(loop, "EVERY", 4)


def called(to: Path, *more: str) -> int:
    return wide.main(["--data-root", ".", "--device", "cpu", "--quick", "--to", str(to), *more])


def test_each_row_runs_through_an_event_and_a_second_call_adds_the_next_seed_alone(tmp_path: Path) -> None:
    assert called(tmp_path, "--seeds", "1") == 0
    first = kept(tmp_path / wide.FILE)
    assert [each.row for each in first.values()] == [*wide.ROWS]
    assert [each.events for each in first.values()] == [0, 1, 1]
    assert {each.steps for each in first.values()} == {wide.QUICK.steps}
    assert called(tmp_path, "--seeds", "2") == 0
    both = kept(tmp_path / wide.FILE)
    assert len(both) == 6 and list(both)[:3] == list(first)


@pytest.mark.parametrize("options", [["--quick"], ["--device", "cpu"]])
def test_what_is_tried_does_not_get_among_the_results(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        wide.main(["--data-root", ".", *options])
    assert "--to is missing" in capsys.readouterr().err


def test_no_run_starts_when_the_time_is_over(tmp_path: Path) -> None:
    assert called(tmp_path / "a" / "b", "--seconds", "0") == 0
    assert not (tmp_path / "a" / "b" / wide.FILE).exists()


def test_a_network_over_the_budget_is_an_error() -> None:
    assert wide.is_over(line("NR", params=101), [line(params=100)])
    assert not wide.is_over(line("NR", params=100), [line(params=100)])


def test_the_network_at_its_own_width_takes_whole_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert shape_of(networks.WIDE) == (3, 28, 28) and shape_of("vgg") == (1, 14, 14)
    with torch.device("meta"):
        module = networks.network(networks.WIDE, 0)
    assert sum(p.numel() for p in module.parameters()) == 20_035_018


def test_the_page_says_that_no_gpu_has_run_it_or_has_its_table(tmp_path: Path) -> None:
    lines = [line(row, seed) for row in ("BL", "NR") for seed in range(2)]
    assert "Not run yet" in page(lines, [], [], [], tmp_path / "results.png")
    text = page(lines, [], [], [], tmp_path / "results.png", [line(seed=seed, cpu="GPU of 2026") for seed in range(2)])
    assert "Not run yet" not in text and "GPU of 2026, torch" in text
