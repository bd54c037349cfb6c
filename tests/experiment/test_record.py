"""Runs that are broken off: what cannot be resumed, and that a resumed run ends as it would have."""

import functools
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

import nrfx
from nrfx.cli.train import resumed
from nrfx.errors import CheckpointError, UsageError
from nrfx.experiment.config import RunConfig, learning_rate
from nrfx.experiment.loop import Run, train
from nrfx.experiment.record import Epoch, Silent, read_log
from tests.experiment.test_loop import dataset, half_dead

CONFIG = RunConfig(epochs=4, batch_size=8, interval=3, search=1.0, seed=1, dsd=0.3)


class BreaksOff(Silent):
    """A watcher that ends the run by an exception after an epoch."""

    def __init__(self, after: int) -> None:
        self.after = after

    def trained(self, epoch: Epoch) -> None:
        if epoch.epoch == self.after:
            raise KeyboardInterrupt


def fresh(seed: int = 0) -> tuple[nrfx.TracedModule, nrfx.Budget]:
    torch.manual_seed(seed)
    return half_dead()


def begun(out: Path, after: int, config: RunConfig = CONFIG) -> None:
    """Makes the folder of a run that was broken off after an epoch."""
    out.mkdir(exist_ok=True)
    for name, content in _begun(after, config).items():
        (out / name).write_bytes(content)


@functools.cache
def _begun(after: int, config: RunConfig) -> dict[str, bytes]:
    gm, budget = fresh()
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(KeyboardInterrupt):
            train(gm, dataset(), config, budget, Path(folder), BreaksOff(after))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@functools.cache
def whole(config: RunConfig = CONFIG) -> tuple[Run, dict[str, bytes]]:
    """A run that was not broken off, and its files."""
    gm, budget = fresh()
    with tempfile.TemporaryDirectory() as folder:
        run = train(gm, dataset(), config, budget, Path(folder))
        return run, {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def over(out: Path) -> None:
    """Makes the folder of a run that is over."""
    for name, content in whole()[1].items():
        (out / name).write_bytes(content)


def went_on(out: Path, config: RunConfig = CONFIG) -> Run:
    gm, budget = fresh(seed=17)
    return train(gm, dataset(), config, budget, out, resume=True)


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run that was broken off"):
        went_on(tmp_path)


def test_a_run_that_is_over_cannot_be_resumed(tmp_path: Path) -> None:
    over(tmp_path)
    with pytest.raises(UsageError, match="the run in it is over"):
        went_on(tmp_path)


@pytest.mark.parametrize(("state", "words"), [
    ("{", "state.json cannot be read"),
    ("[]", r"state.json is \[\]; expected a table"),
    ('{"lines": 1}', "state.json lacks 'checkpoint'"),
    ('{"checkpoint": 3}', "state.json: checkpoint is 3; expected a text"),
    ('{"linse": 1}', "'linse' is unknown; close to it: lines"),
    ('{"random": ' + "[" * 999, "state.json cannot be read as JSON: recursion limit"),
])  # fmt: skip
def test_a_state_that_is_none_is_refused(state: str, words: str, tmp_path: Path) -> None:
    begun(tmp_path, after=3)
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(CheckpointError, match=words):
        went_on(tmp_path)


@pytest.mark.parametrize("after", [1, 2, 3, 4])
@pytest.mark.parametrize("restart", [False, True])
def test_a_resumed_run_ends_as_it_would_have(after: int, restart: bool, tmp_path: Path) -> None:
    config = replace(CONFIG, restart=restart)
    run, files = whole(config)
    begun(tmp_path, after, config)
    resumed = went_on(tmp_path, config)
    assert len(run.events) == 1 and len(run.epochs) == (5 if restart else 4)
    assert resumed.events == run.events
    assert [_timeless(epoch) for epoch in resumed.epochs] == [_timeless(epoch) for epoch in run.epochs]
    expected = run.module.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.module.state_dict().items())
    assert resumed.test == run.test
    assert {path.name for path in tmp_path.iterdir()} == files.keys()


def test_a_run_that_is_broken_off_in_a_warm_up_rises_on_where_it_was(tmp_path: Path) -> None:
    """Five steps an epoch, an event behind step 3, and 14 steps of warm-up from there."""
    config = replace(CONFIG, warmup=14)
    gm, budget = fresh()
    whole = train(gm, dataset(), config, budget, tmp_path / "whole")
    begun(tmp_path / "broken", after=3, config=config)
    resumed = went_on(tmp_path / "broken", config)
    assert [event.step for event in whole.events] == [3]
    plain = [learning_rate(config, step, 5, 0, fall_from=3) for step in (4, 9, 14, 19)]
    assert [epoch.lr for epoch in whole.epochs] == pytest.approx(
        [rate * part for rate, part in zip(plain, (2 / 14, 7 / 14, 12 / 14, 1), strict=True)], rel=1e-12
    )
    assert [epoch.lr for epoch in resumed.epochs] == [epoch.lr for epoch in whole.epochs]
    expected = whole.module.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.module.state_dict().items())


def test_a_run_that_still_searches_is_resumed_and_searches_on(tmp_path: Path) -> None:
    config = replace(CONFIG, trigger=0.01)
    begun(tmp_path, after=3, config=config)
    state = json.loads((tmp_path / "state.json").read_text())
    assert (state["fall_from"], state["searched"]) == (None, None)
    assert len(went_on(tmp_path, config).epochs) == 4


def _timeless(epoch: Epoch) -> dict[str, float]:
    return {name: value for name, value in asdict(epoch).items() if name != "seconds"}


def test_plain_training_is_resumed_as_well(tmp_path: Path) -> None:
    run = train(fresh()[0], dataset(), CONFIG)
    with pytest.raises(KeyboardInterrupt):
        train(fresh()[0], dataset(), CONFIG, out=tmp_path, watcher=BreaksOff(3))
    resumed = train(fresh(seed=17)[0], dataset(), CONFIG, out=tmp_path, resume=True)
    expected = run.module.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.module.state_dict().items())


def test_a_log_is_read_as_what_was_logged(tmp_path: Path) -> None:
    over(tmp_path)
    log = read_log(tmp_path)
    assert log.events == whole()[0].events
    assert log.epochs == whole()[0].epochs


@pytest.mark.parametrize(
    ("line", "error", "words"),
    [
        ("nonsense", CheckpointError, "line 1"),
        ('{"kind": "epoch"}', CheckpointError, "line 1 lacks 'epoch'"),
        ('{"kind": "batch"}', CheckpointError, "line 1: kind is 'batch'; expected 'epoch' or 'event'"),
        ('{"kind": "event", "r_parms": 1}', CheckpointError, "'r_parms' is unknown; close to it: r_params"),
        (None, UsageError, "holds no run"),
    ],
)
def test_a_log_that_is_none_is_refused_by_its_line(
    line: str | None, error: type[Exception], words: str, tmp_path: Path
) -> None:
    if line is not None:
        (tmp_path / "log.jsonl").write_text(line + "\n")
    with pytest.raises(error, match=words):
        read_log(tmp_path)


@pytest.mark.parametrize(("change", "words"), [
    ({"epochs": "3"}, "config.json: epochs is '3'; expected a whole number"),
    ({"lr": -1}, "config.json: lr is -1.0; expected a positive number"),
    ({"epoch": 3}, "config.json: 'epoch' is unknown; close to it: epochs"),
    ({"row": "NR-XX"}, "config.json: There is no row 'NR-XX'"),
    ({"data": {"nmae": "digits"}}, "'data.nmae' is unknown; close to it: name"),
    ({"budget": {"params": -1}}, "config.json: Budget params=-1; expected a positive integer"),
    ({"milestones": [2, 1]}, r"config.json: milestones are \[2, 1\] for schedule 'steps'"),
])  # fmt: skip
def test_settings_of_a_run_that_were_changed_into_none_are_refused(
    change: dict[str, object], words: str, tmp_path: Path
) -> None:
    told = json.loads((Path(__file__).parent.parent / "data" / "saved" / "run" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**told, **change}))
    (tmp_path / "state.json").touch()
    with pytest.raises(CheckpointError, match=words):
        resumed(tmp_path, {"data_root": None})


def test_every_line_of_the_log_is_json_with_a_kind(tmp_path: Path) -> None:
    over(tmp_path)
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert kinds == ["event", "epoch", "epoch", "epoch", "epoch"]
