"""The loop: what it refuses, what a run's folder holds, and that plain training and NR are one loop."""

import json
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nrfx
from nrfx.errors import TrainingError, UsageError
from nrfx.experiment.config import RunConfig, learning_rate
from nrfx.experiment.data import Dataset, Images
from nrfx.experiment.loop import train
from nrfx.experiment.record import Epoch
from nrfx.experiment.scores import Scores
from nrfx.training.events import Event, Measurement
from tests.zoo import AuxNet, norms, vgg_bn

QUICK = RunConfig(epochs=2, batch_size=8, interval=2, search=1.0)


def dataset(count: int = 40, size: int = 16, classes: int = 5) -> Dataset:
    """Images whose brightest quarter tells their class."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(classes, (count,), generator=generator)
    images = Images(torch.randn(count, 3, size, size, generator=generator) + y[:, None, None, None], y)
    return Dataset("squares", classes, images, images, images)


def network(model: nn.Module | None = None) -> nrfx.TracedModule:
    return nrfx.trace(vgg_bn() if model is None else model, torch.zeros(2, 3, 16, 16))


@torch.no_grad()
def half_dead() -> tuple[nrfx.TracedModule, nrfx.Budget]:
    gm = network()
    for norm in norms(gm):
        norm.weight[: norm.num_features // 2 + 1] = 0
    return gm, nrfx.Budget.relative(gm, params=1.0)


@dataclass
class Recorder:
    """A watcher that remembers what it was told."""

    told: list[object] = field(default_factory=list)
    forecast: str = ""

    def begins(self, forecast: str) -> None:
        self.forecast = forecast

    def measured(self, measurement: Measurement) -> None:
        self.told.append(measurement)

    def rejuvenated(self, event: Event, before: Scores, after: Scores) -> None:
        self.told.append((event, before, after))

    def trained(self, epoch: Epoch) -> None:
        self.told.append(epoch)


# What it refuses


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch_size": -1}, {"lr": float("nan")}, {"search": 0.0}, {"optimizer": "lion"}]
)
def test_a_config_out_of_range_is_refused_by_name(wrong: dict[str, float | str]) -> None:
    with pytest.raises(TrainingError, match=next(iter(wrong))):
        RunConfig(**wrong)


def test_a_folder_that_holds_a_run_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("mine")
    with pytest.raises(UsageError, match="holds a run already"):
        train(network(), dataset(), QUICK, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    assert (tmp_path / "log.jsonl").read_text() == "mine"


@pytest.mark.parametrize(("data", "message"), [
    (dataset(count=7), r"batch of 8 is larger than the training part of squares: 7 images"),
    (dataset(size=8), r"traced for images of \[3, 16, 16\], and squares has \[3, 8, 8\]"),
    (dataset(classes=6), r"needs logits \[N, 6\], and the network returns \[2, 5\]"),
])  # fmt: skip
def test_what_does_not_fit_together_is_refused_before_a_file_is_written(
    data: Dataset, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        train(network(), data, QUICK, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_auxiliary_heads_are_left_to_a_loop_of_ones_own() -> None:
    with pytest.raises(TrainingError, match="auxiliary heads"):
        train(network(AuxNet(5)), dataset(), QUICK)


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    with pytest.raises(TrainingError, match="not finite"):
        train(network(), dataset(), replace(QUICK, lr=1e30))


# Plain training


def test_without_a_budget_the_network_is_trained_as_it_is(tmp_path: Path) -> None:
    gm = network()
    run = train(gm, dataset(), replace(QUICK, epochs=15), out=tmp_path / "run")
    assert run.module is gm
    assert run.events == ()
    assert {epoch.lam for epoch in run.epochs} == {0.0}
    assert run.epochs[-1].loss < run.epochs[0].loss
    assert run.test.error < 50


def test_the_seed_decides_the_run() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(0)
        return train(network(), dataset(), replace(QUICK, seed=seed)).module.get_parameter("0.weight")

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


# Neural Rejuvenation


def test_a_run_with_a_budget_rejuvenates_within_it_and_trains_on() -> None:
    gm, budget = half_dead()
    recorder = Recorder()
    run = train(gm, dataset(), QUICK, budget, watcher=recorder)
    (event,) = run.events
    told = recorder.told[0][0]
    assert run.module is told.result.module
    assert (event.step, event.alpha, event.params) == (told.step, told.result.alpha, run.params)
    assert run.params <= budget.params
    assert [type(one) for one in recorder.told] == [tuple, Epoch, Epoch]
    assert run.note == ""


def test_a_run_says_at_its_start_how_long_dying_takes() -> None:
    recorder = Recorder()
    train(network(), dataset(), QUICK, nrfx.Budget.relative(network(), params=1.0), watcher=recorder)
    assert "dies after" in recorder.forecast and "The search ends at step 10" in recorder.forecast
    plain = Recorder()
    train(network(), dataset(), QUICK, watcher=plain)
    assert plain.forecast == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shrink_beta", -1.0),
        ("spare", "small"),
        ("penalty", "square"),
        ("weighted", "steps"),
        ("raise_lambda", "soon"),
        ("interval", 0),
    ],
)
def test_what_a_run_says_of_its_search_reaches_the_rejuvenator(name: str, value: Any) -> None:
    gm, budget = half_dead()
    with pytest.raises(TrainingError, match=f"^{name} is {re.escape(repr(value))}"):
        train(gm, dataset(), replace(QUICK, **{name: value}), budget)


def test_the_validation_loss_is_the_same_on_both_sides_of_an_event() -> None:
    gm, budget = half_dead()
    recorder = Recorder()
    train(gm, dataset(), QUICK, budget, watcher=recorder)
    _, before, after = recorder.told[0]
    assert after.recalibrated.loss == pytest.approx(before.recalibrated.loss, rel=1e-4)
    assert after.lagging_loss == pytest.approx(before.lagging_loss, rel=1e-4)
    assert after.recalibrated.loss != pytest.approx(after.lagging_loss, rel=1e-2)


@pytest.mark.parametrize(("scheme", "more"), [("removed", math.log(5)), ("dense", 0.0)])
def test_each_head_has_a_loss_of_its_own(scheme: str, more: float) -> None:
    gm, budget = half_dead()
    config = RunConfig(epochs=2, batch_size=40, shift=0, lr=1e-9, interval=1, search=1.0, scheme=scheme, rescale=False)
    run = train(gm, dataset(), config, budget)
    assert len(run.events) == 1
    # At this learning rate nothing moves, and the logits of the new head are 0.
    assert run.epochs[1].loss == pytest.approx(run.epochs[0].loss + more, rel=1e-3)


def test_events_without_a_limit_each_set_the_counter_of_epochs_back() -> None:
    gm, budget = half_dead()
    config = replace(QUICK, epochs=3, interval=5, max_events=None, restart=True, trigger=1.0, search=1.0)
    run = train(gm, dataset(), config, budget)
    assert run.events[0].epoch == 1 and run.epochs[0].epochs == 4
    assert len(run.epochs) == run.events[-1].epoch + 3


def test_a_run_whose_trigger_is_never_reached_says_so_and_ends_as_plain_training() -> None:
    gm = network()
    run = train(gm, dataset(), replace(QUICK, search=0.5), nrfx.Budget.relative(gm, params=1.0))
    assert run.events == ()
    assert "ends at step 5 without a rejuvenation" in run.note
    assert run.epochs[-1].lr < QUICK.lr / 2


def test_a_run_shorter_than_an_interval_measures_at_the_end_of_its_search() -> None:
    gm = network()
    run = train(
        gm, dataset(), replace(QUICK, epochs=1, interval=None, search=0.5), nrfx.Budget.relative(gm, params=1.0)
    )
    assert "after 2 steps" in run.note


def test_the_learning_rate_is_constant_up_to_the_event_and_then_falls_from_its_start() -> None:
    config = RunConfig(lr=1.0, epochs=1)
    rates = [learning_rate(config, step, per_epoch=10, start=0, fall_from=4) for step in range(11)]
    assert rates[:5] == [1.0] * 5
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[7] == pytest.approx(0.5)
    assert rates[10] == pytest.approx(0.0)
    assert learning_rate(config, 9, per_epoch=10, start=0, fall_from=None) == 1.0


def test_the_folder_of_a_run_holds_its_config_its_log_and_the_network(tmp_path: Path) -> None:
    gm, budget = half_dead()
    run = train(gm, dataset(), QUICK, budget, tmp_path / "a" / "run")
    assert sorted(path.name for path in (tmp_path / "a" / "run").iterdir()) == [
        "config.json",
        "log.jsonl",
        "model.safetensors",
    ]
    config = json.loads((tmp_path / "a" / "run" / "config.json").read_text())
    assert config["budget"] == {"params": budget.params, "flops": None}
    log = [json.loads(line) for line in (tmp_path / "a" / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in log] == ["event", "epoch", "epoch"]
    assert log[0]["step"] == 2
    assert {"loss", "train_error", "validation_error", "r_params", "r_flops", "lam"} <= log[1].keys()
    loaded = nrfx.load(tmp_path / "a" / "run" / "model.safetensors", vgg_bn())
    x = dataset().test.x
    assert torch.equal(loaded.eval()(x), run.module(x))


@pytest.mark.parametrize("epochs, told", [(2, "No epoch was sparse"), (6, "")])
def test_a_sparse_phase_that_found_no_room_is_told(epochs: int, told: str, tmp_path: Path) -> None:
    gm, budget = half_dead()
    run = train(gm, dataset(), replace(QUICK, epochs=epochs, search=0.5, dsd=0.3), budget, out=tmp_path / "run")
    assert run.note.startswith(told) and bool(run.note) == bool(told), run.note
