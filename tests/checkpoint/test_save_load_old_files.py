"""Files that earlier versions of nrfx.save and nrfx train wrote, kept in data/saved: they load, and mean what they did.

Beside each network are an input x and what came of it: `given` in the mode as saved, `eval` after that, and `trained`
in eval mode after three more steps of its optimizer and Rejuvenator.
"""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

import nrfx
from benchmarks.soundness.trained import Company, Viewed, adamw, plain, sgd, train
from nrfx.cli.train import resumed
from nrfx.experiment.record import read_log
from nrfx.models import resolve
from nrfx.training.rejuvenator import Rejuvenator

SAVED = Path(__file__).parent.parent / "data" / "saved"


class Deep(nn.Module):
    """A padded depthwise convolution, behind which channels are held by their betas."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.each, self.last = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.second, self.third = nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.each(self.norm(self.first(x)).relu())).relu()
        return self.head(self.third(self.second(x)).relu().mean((2, 3)))


def rejuvenator(model: nn.Module, optimizer: Optimizer, scheme: str) -> Rejuvenator:
    return Rejuvenator(
        model, optimizer, nrfx.Budget.relative(model, params=0.7), 0.6, 2, max_events=2, shrink_beta=0.5, scheme=scheme
    )


MAKE: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Optimizer]]] = {
    "attention": (plain, sgd),
    "removed": (plain, adamw),
    "dense": (Deep, sgd),
    "compact": (Viewed, sgd),
}


def metadata(path: Path) -> Any:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["nrfx"])


@pytest.mark.parametrize("name", MAKE)
def test_a_file_of_an_earlier_version_loads_and_goes_on(name: str, tmp_path: Path) -> None:
    make, optimizer_of = MAKE[name]
    fresh = nrfx.trace(make(), torch.zeros(2, 3, 4, 4))
    optimizer = optimizer_of(fresh)
    nr = None if name == "compact" else rejuvenator(fresh, optimizer, name)
    loaded = nrfx.load(SAVED / f"{name}.safetensors", fresh, optimizer, nr)
    expected = load_file(SAVED / f"{name}.expected.safetensors")
    assert loaded.training
    with torch.no_grad():
        torch.testing.assert_close(loaded(expected["x"]), expected["given"])
        torch.testing.assert_close(copy.deepcopy(loaded).eval()(expected["x"]), expected["eval"])
    nrfx.save(tmp_path / "again", loaded, optimizer, nr)
    again = metadata(tmp_path / "again")
    if nr is not None:  # which files of before did not have
        assert again["rejuvenator"]["dict"].pop("falls") == []
        assert again["rejuvenator"]["dict"].pop("weights")
        assert again["rejuvenator"]["dict"].pop("mean") is None
    assert again == metadata(SAVED / f"{name}.safetensors")
    if nr is None:
        assert loaded.get_parameter("first.weight").is_contiguous(memory_format=torch.channels_last)
        assert loaded.get_parameter("a.weight") is loaded.get_parameter("b.weight")
        assert not loaded.get_parameter("a.bias").requires_grad
    else:
        assert (nr.events, nr.module) == (1, loaded)
        assert nr.state_dict()["betas"] == ({"norm.bias": [0, 1]} if name == "dense" else {})
    train(Company(loaded, optimizer, nr), range(5, 8))
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(expected["x"]), expected["trained"])


def test_the_log_of_an_earlier_version_is_read() -> None:
    lines = [json.loads(line) for line in (SAVED / "run" / "log.jsonl").read_text().splitlines()]
    log = read_log(SAVED / "run")
    assert [line["kind"] for line in lines] == ["event", "epoch", "epoch"]
    for line, record in zip(lines, (*log.events, *log.epochs), strict=True):
        assert {name: getattr(record, name) for name in line if name not in ("kind", "notes")} == {
            name: value for name, value in line.items() if name not in ("kind", "notes")
        }
    assert log.events[0].notes == ()


def test_the_settings_of_a_run_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    shutil.copy(SAVED / "run" / "config.json", tmp_path)
    (tmp_path / "state.json").touch()
    job = resumed(tmp_path, {"data_root": None})
    told = json.loads((SAVED / "run" / "config.json").read_text())
    config = json.loads(json.dumps(asdict(job.recipe.config)))
    plain = {
        "penalty": "sign",
        "weighted": "alike",
        "spare": "none",
        "raise_lambda": "slow",
        "cross": "zero",
        "warmup": 0,
    }
    assert config == {name: told.get(name, plain.get(name)) for name in config}  # `plain` as before there was a choice
    assert job.to_plain() == {name: told[name] for name in job.to_plain()}
    assert (job.recipe.row.name, config["milestones"], config["max_events"]) == ("NR+DSD", [1, 2], None)


def test_what_was_not_weighted_is_pulled_alike_and_the_old_place_of_a_network_is_found(tmp_path: Path) -> None:
    told = json.loads((SAVED / "run" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**told, "weighted": None}))
    (tmp_path / "state.json").touch()
    assert resumed(tmp_path, {"data_root": None}).recipe.config.weighted == "alike"
    assert resolve("nrfx.experiment.demo:digits_net", None, None, [(2, 1, 8, 8)]).module is not None
