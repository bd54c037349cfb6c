"""Settings: what is refused, and the learning rates that follow from them."""

from dataclasses import replace

import pytest

from nrfx.errors import TrainingError
from nrfx.experiment.config import RunConfig, learning_rate


@pytest.mark.parametrize("wrong", [
    {"decay": 0.0},
    {"dsd": 1.0},
    {"shift": -1},
    {"warmup": -1},
    {"interval": 0},
    {"momentum": -0.1},
    {"weight_decay": -1e-4},
    {"weight_decay": float("nan")},
    {"schedule": "linear"},
    {"milestones": (3,)},
    {"schedule": "steps"},
    {"schedule": "steps", "milestones": (30, 20)},
])  # fmt: skip
def test_a_setting_out_of_range_is_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(TrainingError, match="milestones" if "steps" in wrong.values() else next(iter(wrong))):
        RunConfig(**wrong)


def test_a_step_schedule_counts_epochs_from_where_the_counter_was_0() -> None:
    config = RunConfig(epochs=3, lr=1.0, schedule="steps", milestones=(1, 2), decay=0.5)
    rates = [learning_rate(config, step, per_epoch=2, start=0, fall_from=None) for step in range(6)]
    assert rates == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    again = [learning_rate(config, step, per_epoch=2, start=4, fall_from=4) for step in range(4, 10)]
    assert again == rates


def test_a_cosine_that_begins_anew_takes_all_epochs() -> None:
    config = RunConfig(epochs=10, lr=1.0)
    rates = [learning_rate(config, step, per_epoch=1, start=4, fall_from=4) for step in (4, 9, 14)]
    assert rates == pytest.approx([1.0, 0.5, 0.0])


@pytest.mark.parametrize("config", [
    RunConfig(epochs=6, lr=0.8, warmup=5),
    RunConfig(epochs=6, lr=0.8, warmup=5, schedule="steps", milestones=(1, 2)),
], ids=lambda config: config.schedule)  # fmt: skip
@pytest.mark.parametrize("start", [0, 12], ids=["goes on", "restarts"])
def test_behind_an_event_the_rate_rises_in_equal_parts_up_to_that_of_the_schedule(
    config: RunConfig, start: int
) -> None:
    event, per_epoch, plain = 10, 4, replace(config, warmup=0)
    place = {"per_epoch": per_epoch, "start": start, "fall_from": max(event, start), "last_event": event}
    for step in range(event, event + 20):
        expected = learning_rate(plain, step, **place) * min(1.0, (step - event + 1) / 5)
        assert learning_rate(config, step, **place) == pytest.approx(expected, rel=1e-15), step
    assert learning_rate(config, event, **place) == pytest.approx(learning_rate(plain, event, **place) / 5)


def test_without_an_event_nothing_is_warmed_up() -> None:
    config = RunConfig(epochs=6, lr=0.8, warmup=5)
    assert [learning_rate(config, step, 4, start=0, fall_from=None) for step in range(8)] == [0.8] * 8
