"""How a run trains, as frozen values, and the learning rate that follows from it."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from nrfx.choices import Reinitialize, Scheme
from nrfx.errors import TrainingError
from nrfx.files import validated

OptimizerName = Literal["sgd", "adamw"]
Schedule = Literal["cosine", "steps"]


def _limit(value: object) -> object:
    """A limit as TOML can state it: it has no None."""
    if isinstance(value, str) and value != "unlimited":
        raise ValueError("a whole number or 'unlimited'")
    return None if isinstance(value, str) else value


@validated(TrainingError)
@dataclass(frozen=True)
class Settings:
    """How a run trains, but for what its row decides: what a recipe file may say.

    Args:
        epochs: passes over the training part.
        batch_size: images a step; an incomplete last batch is dropped.
        lr: the learning rate at the start, and during the search if the schedule is a cosine.
        optimizer: "sgd" or "adamw".
        momentum: of SGD.
        weight_decay: of either.
        schedule: "cosine" falls to 0 along a half cosine, after the search if there is one; "steps" multiplies the
            learning rate by `decay` at each of the milestones.
        milestones: epochs of the counter (which begins at 0) for schedule "steps".
        decay: for schedule "steps".
        restart: an event sets the epoch counter back to 0, as in the paper: the run then is longer than `epochs` by the
            epochs before the last event.
        shift: pixels by which images in memory are moved at random.
        flip: mirror half of the images in memory, at random.
        trigger, delta_lambda, delta_r, max_events, shrink_beta: see Rejuvenator.
        interval: steps between two measurements; None for an epoch, or the whole search if that is shorter.
        search: the fraction of the epochs in which a rejuvenation may happen.
        dsd: the part of the weights that a sparse phase leaves out, see `nrfx.experiment.sparse`; 0 for no such phase.

    Raises:
        TrainingError: a value is of another type, or out of range.
    """

    epochs: PositiveInt = 30
    batch_size: PositiveInt = 16
    lr: PositiveFloat = 0.02
    optimizer: OptimizerName = "sgd"
    momentum: NonNegativeFloat = 0.9
    weight_decay: NonNegativeFloat = 0.0
    schedule: Schedule = "cosine"
    milestones: Annotated[tuple[int, ...], Field(strict=False)] = ()
    decay: PositiveFloat = 0.1
    restart: bool = False
    shift: NonNegativeInt = 1
    flip: bool = False
    trigger: float = 0.5
    interval: PositiveInt | None = None
    delta_lambda: float = 5e-5
    delta_r: float = 0.01
    max_events: Annotated[int | None, BeforeValidator(_limit)] = 1
    shrink_beta: float = 0.0
    search: Annotated[float, Field(gt=0, le=1)] = 0.5
    dsd: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def __post_init__(self) -> None:
        if bool(self.milestones) != (self.schedule == "steps") or list(self.milestones) != sorted(set(self.milestones)):
            raise TrainingError(
                f"milestones are {list(self.milestones)} for schedule {self.schedule!r}; expected rising epochs "
                'such as milestones = [30, 60] for schedule = "steps", and none for the cosine.'
            )


@validated(TrainingError)
@dataclass(frozen=True)
class RunConfig(Settings):
    """How a run trains.

    Args:
        seed: of the order of the images and of new weights.
        scheme, rescale, reallocate, reinitialize: see nrfx.rejuvenate.

    Raises:
        TrainingError: as for Settings.
    """

    seed: int = 0
    scheme: Scheme = "attention"
    rescale: bool = True
    reallocate: bool = True
    reinitialize: Reinitialize = "rejuvenated"


def learning_rate(config: RunConfig, step: int, per_epoch: int, start: int, fall_from: int | None) -> float:
    """The learning rate of a step.

    Args:
        config: of the run.
        step: steps before this one.
        per_epoch: steps of an epoch.
        start: the step at which the epoch counter was last 0.
        fall_from: where a cosine begins to fall; None for not yet.

    >>> cosine = RunConfig(lr=0.8, epochs=10)
    >>> [round(learning_rate(cosine, step, 10, start=0, fall_from=20), 3) for step in (0, 20, 60, 100)]
    [0.8, 0.8, 0.4, 0.0]
    >>> steps = RunConfig(lr=0.8, epochs=3, schedule="steps", milestones=(1, 2))
    >>> [round(learning_rate(steps, step, 10, start=5, fall_from=None), 3) for step in (5, 14, 15, 25)]
    [0.8, 0.8, 0.08, 0.008]
    """
    if config.schedule == "steps":
        epoch = (step - start) // per_epoch
        return config.lr * config.decay ** sum(epoch >= milestone for milestone in config.milestones)
    if fall_from is None or step <= fall_from:
        return config.lr
    end = start + config.epochs * per_epoch
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - fall_from) / (end - fall_from)))
