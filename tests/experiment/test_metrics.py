"""The numbers of a run for other tools: what is written, what a run that goes on drops, and what is asked for."""

import csv
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nrfx.cli.commands import main
from nrfx.cli.parser import arguments_parser
from nrfx.errors import UsageError
from nrfx.experiment.loop import train
from nrfx.experiment.metrics import Watchers, metrics
from nrfx.experiment.record import Silent, read_log
from tests.experiment.test_loop import QUICK, dataset, half_dead


def rows(path: Path) -> list[tuple[int, str, float]]:
    with path.open(newline="") as file:
        return [(int(line["step"]), line["name"], float(line["value"])) for line in csv.DictReader(file)]


def test_a_run_leaves_its_numbers_as_csv_those_of_its_log(tmp_path: Path) -> None:
    gm, budget = half_dead()
    watchers = Watchers(Silent(), *metrics(("csv", "csv"), tmp_path / "run"))
    run = train(gm, dataset(), replace(QUICK, interval=3), budget, tmp_path / "run", watchers)
    found = rows(tmp_path / "run" / "metrics.csv")
    log = read_log(tmp_path / "run")
    assert [(s, v) for s, name, v in found if name == "loss/validation"] == [
        (epoch.step, epoch.validation_loss) for epoch in log.epochs
    ]
    assert [(s, v) for s, name, v in found if name == "params"] == [(event.step, event.params) for event in log.events]
    assert [v for _, name, v in found if name == "event"] == [*range(1, len(run.events) + 1)] != []
    assert [(s, v) for s, name, v in found if name == "error/lagging"] == [
        (epoch.step, epoch.lagging_error) for epoch in log.epochs
    ]
    for side in ("before", "after"):
        (event,), losses = log.events, {name: v for _, name, v in found if name.startswith("event/")}
        assert losses[f"event/loss {side}"] == getattr(event, f"validation_loss_{side}")
        assert losses[f"event/lagging loss {side}"] == getattr(event, f"lagging_loss_{side}")
    assert {"r", "r/params", "r/flops", "lambda", "lr", "loss/train", "error/train"} <= {name for _, name, _ in found}


def test_a_run_that_goes_on_drops_what_it_writes_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,name,value\n3,r,1.0\n6,r,0.9\n6,lambda,0.1\n9,r,0.8\nbroken")
    (watcher,) = metrics(["csv"], tmp_path)
    watcher._put(6, {"r": 0.5})  # type: ignore[attr-defined]
    watcher._put(9, {"r": 0.4})  # type: ignore[attr-defined]
    assert rows(path) == [(3, "r", 1.0), (6, "r", 0.5), (9, "r", 0.4)]


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    gm, budget = half_dead()
    watchers = Watchers(*metrics(("csv", "tensorboard"), tmp_path / "run"))
    train(gm, dataset(), replace(QUICK, interval=3), budget, tmp_path / "run", watchers)
    events = reader.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    for name in events.Tags()["scalars"]:
        wanted = [(step, value) for step, other, value in rows(tmp_path / "run" / "metrics.csv") if other == name]
        assert [(each.step, pytest.approx(each.value, rel=1e-5)) for each in events.Scalars(name)] == wanted
    assert {"r", "loss/train"} <= set(events.Tags()["scalars"])


def test_without_tensorboard_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"pip install tensorboard, or give --log csv"):
        metrics(("csv", "tensorboard"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_line_takes_names_of_logs_and_refuses_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments_parser().parse_args(["train", "x", "--log", "csv, tensorboard"]).log == ("csv", "tensorboard")
    assert main(["train", "x", "--log", "wandb"]) == 2
    assert "there is no log 'wandb'; expected csv, tensorboard" in capsys.readouterr().err
