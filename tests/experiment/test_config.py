"""Settings: what is refused, and the learning rates that follow from them."""

import pytest

from nrfx.errors import TrainingError
from nrfx.experiment.config import RunConfig, learning_rate


@pytest.mark.parametrize("wrong", [
    {"decay": 0.0},
    {"dsd": 1.0},
    {"shift": -1},
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
