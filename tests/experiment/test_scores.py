"""Scores: that taking them changes nothing, and that they are those of the weights while running statistics lag."""

import copy
import random
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.errors import TrainingError
from nrfx.experiment import loop
from nrfx.experiment.config import RunConfig
from nrfx.experiment.data import Dataset, Images
from nrfx.experiment.datasets import DataConfig
from nrfx.experiment.datasets import dataset as by_name
from nrfx.experiment.loop import Run, train
from nrfx.experiment.record import Epoch, Silent, read_log
from nrfx.experiment.scores import SAMPLE, SIZE, Score, Scores, score, scores
from nrfx.training.events import Event
from tests.experiment.test_datasets import folder  # noqa: F401 (a fixture)
from tests.experiment.test_loop import QUICK, dataset, half_dead, network
from tests.experiment.test_record import CONFIG

CONSTANT = Scores(Score(1.0, 1, 2), Score(2.0, 2, 2))


def randomness() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), repr(numpy.random.get_state())


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# What must not change


def test_a_score_leaves_the_network_and_its_mode_as_they_are() -> None:
    gm = network().train()
    before = state(gm)
    in_parts = score(gm, dataset().test, size=7)
    assert gm.training and equal(state(gm), before) and in_parts.images == 40
    assert score(gm, dataset().test) == Score(pytest.approx(in_parts.loss, rel=1e-5), in_parts.wrong, 40)


class Drawing(nn.Module):
    """A network that draws a random number in either mode, as some do."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.BatchNorm2d(3), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(self.norm(x).mean((2, 3)))
        return y + 0 * torch.rand_like(y)


def test_scores_leave_tensors_modes_and_all_random_states_as_they_are(folder: Path) -> None:  # noqa: F811
    model, data = Drawing(), by_name(DataConfig("folder", root=str(folder), size=8, workers=0))
    before, buffers, drawn = state(model), list(model.buffers()), randomness()
    found = scores(model.train(), data.train, data.validation, CONFIG)
    assert found.lagging is not None and found.recalibrated != found.lagging
    assert equal(state(model), before) and model.norm.training and randomness() == drawn
    assert all(one is other for one, other in zip(buffers, model.buffers(), strict=True))


class Everything(Silent):
    """A watcher that notes optimizer, network and random states at the end of each epoch and at events."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def rejuvenated(self, event: Event, before: Scores, after: Scores) -> None:
        self.seen.append((state(event.result.module), randomness()))

    def trained(self, epoch: Epoch) -> None:
        kept = {name: value for name, value in asdict(epoch).items() if not name.startswith(("vali", "lag", "sec"))}
        self.seen.append((kept, randomness()))


def test_training_is_the_same_with_and_without_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, optimizer="adamw", flip=True)

    def run(out: Path) -> tuple[Run, list[Any], bytes]:
        torch.manual_seed(0)
        gm, budget = half_dead()
        watcher = Everything()
        done = train(gm, dataset(), config, budget, out, watcher)
        return done, watcher.seen, (out / "model.safetensors").read_bytes()

    scored, seen, file = run(tmp_path / "scored")
    with monkeypatch.context() as patched:
        patched.setattr(loop, "scores", lambda *_: CONSTANT)
        plain, expected, other = run(tmp_path / "plain")
    assert len(scored.events) == 1 and {epoch.validation_loss for epoch in plain.epochs} == {1.0}
    assert file == other  # the network, its running statistics, and the optimizer's state
    assert equal(state(scored.module), state(plain.module)) and scored.test == plain.test
    for one, another in zip(seen, expected, strict=True):
        same = equal(one[0], another[0]) if isinstance(next(iter(one[0].values())), Tensor) else one[0] == another[0]
        assert same and one[1] == another[1]


# What they are


@cache
def trained() -> tuple[nrfx.TracedModule, Dataset]:
    torch.manual_seed(0)
    gm, data = network(), dataset(60)
    train(gm, data, RunConfig(epochs=12, batch_size=6, lr=0.05))
    return gm, data


def displaced() -> tuple[nrfx.TracedModule, Dataset]:
    """A trained network whose running statistics are far from what its norms see."""
    gm, data = copy.deepcopy(trained())
    with torch.no_grad():
        for name, buffer in gm.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.mul_(3).add_(1)
    return gm.train(), data


def test_a_network_whose_statistics_lag_is_scored_by_its_weights() -> None:
    gm, data = displaced()
    found = scores(gm, data.train, data.validation, replace(QUICK, shift=0))
    assert found.lagging == score(gm, data.validation)
    assert found.lagging_error is not None and found.lagging_error > 50 and found.recalibrated.error < 10
    nrfx.recalibrate(gm, [batch.x for batch in data.train.in_order(len(data.train))])
    assert found.recalibrated.loss == pytest.approx(score(gm, data.validation).loss, rel=1e-3)


def test_a_second_time_gives_the_same_scores_and_another_seed_other_images() -> None:
    gm, data = displaced()
    train_part = data.train
    one, again = (scores(gm, train_part, data.validation, QUICK) for _ in range(2))
    other = scores(gm, train_part, data.validation, replace(QUICK, seed=5))
    assert one == again and one.lagging == other.lagging and one.recalibrated != other.recalibrated


def test_statistics_come_from_some_batches_whatever_those_of_the_training_are() -> None:
    count = 6 * SIZE
    images = Images(torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(count).long())
    seen: list[int] = []
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 2))
    model[0].register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    part = images.part(torch.arange(5))
    found = [scores(model, images, part, replace(QUICK, batch_size=size, shift=0)) for size in (2, 32)]
    assert found[0] == found[1] and seen == 2 * [5, *[SIZE] * SAMPLE, 5]


def test_without_batch_norms_there_is_one_score() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 5))
    run = train(network(model), dataset(), QUICK)
    assert {epoch.lagging_loss for epoch in run.epochs} == {epoch.lagging_error for epoch in run.epochs} == {None}
    assert run.epochs[-1].validation_loss == pytest.approx(run.validation.loss)


def test_weights_that_have_no_finite_statistics_are_told() -> None:
    gm, data = displaced()
    with torch.no_grad():
        gm.get_parameter("0.weight").fill_(torch.inf)
    with pytest.raises(TrainingError, match="What 1 sees is not finite"):
        scores(gm, data.train, data.validation, QUICK)


# In a run


def test_a_run_logs_both_scores_and_ends_with_those_of_the_network_that_it_saves(tmp_path: Path) -> None:
    gm, budget = half_dead()
    run = train(gm, dataset(), replace(QUICK, interval=3), budget, tmp_path)
    log = read_log(tmp_path)
    assert log.epochs == run.epochs and log.events == run.events
    (event,), last = log.events, log.epochs[-1]
    for side in ("before", "after"):
        assert getattr(event, f"lagging_loss_{side}") != getattr(event, f"validation_loss_{side}")
        assert 0 <= getattr(event, f"lagging_error_{side}") <= 100
    assert (run.validation.loss, run.validation.error) == (last.lagging_loss, last.lagging_error)
    assert last.validation_loss != last.lagging_loss
    loaded = nrfx.load(tmp_path / "model.safetensors", copy.deepcopy(network()))
    assert score(loaded, dataset().validation) == run.validation
    assert run.numbers()["recalibrated_validation_error"] == last.validation_error
