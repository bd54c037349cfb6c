"""How a run trains, as one frozen value, and the learning rate that follows from it."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from nrfx.choices import CrossWeights, PenaltyName, RaiseLambda, Reinitialize, Scheme, Spare, Weighted
from nrfx.errors import TrainingError
from nrfx.plan.options import GAMMA_NEW, RESCALE_LIMIT

OptimizerName = Literal["sgd", "adamw"]
Schedule = Literal["cosine", "steps"]

WARMUP = 200
"""Steps of a warm-up by default, in a run that is long enough."""


@dataclass(frozen=True)
class RunConfig:
    """How a run trains.

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
        warmup: steps after each event in which the learning rate rises in equal parts up to the schedule's; 0 for none,
            as in the paper; None for 200, or a twentieth of the run where that is less.
        shift: pixels by which images in memory are moved at random.
        flip: mirror half of the images in memory, at random.
        seed: of the order of the images and of new weights.
        trigger, delta_r, max_events, penalty, weighted, spare, raise_lambda, shrink_beta: see Rejuvenator.
        delta_lambda: None to choose it from the length of the search, so that a gamma that the loss has no use for dies
            after a quarter of it.
        interval: steps between two measurements; None for an epoch, or a twentieth of the search if that is shorter.
        search: the fraction of the epochs in which a rejuvenation may happen.
        until: the last step of the search, in place of `search`; None for that.
        scheme, rescale, reallocate, reinitialize, gamma_new, rescale_limit, cross: see nrfx.rejuvenate.
        dsd: the part of the weights that a sparse phase leaves out, see `nrfx.experiment.sparse`; 0 for no such phase.

    Raises:
        TrainingError: a value is out of range.
    """

    epochs: int = 30
    batch_size: int = 16
    lr: float = 0.02
    optimizer: OptimizerName = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = "cosine"
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    restart: bool = False
    warmup: int | None = None
    shift: int = 1
    flip: bool = False
    seed: int = 0
    trigger: float = 0.5
    interval: int | None = None
    delta_lambda: float | None = 5e-5
    delta_r: float = 0.01
    max_events: int | None = 1
    penalty: PenaltyName = "proximal"
    weighted: Weighted = "budget"
    spare: Spare = "large"
    raise_lambda: RaiseLambda = "slow"
    shrink_beta: float = 0.0
    search: float = 0.5
    until: int | None = None
    scheme: Scheme = "attention"
    rescale: bool = True
    reallocate: bool = True
    reinitialize: Reinitialize = "rejuvenated"
    gamma_new: float | None = GAMMA_NEW
    rescale_limit: float | None = RESCALE_LIMIT
    cross: CrossWeights = "zero"
    dsd: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr", "decay"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise TrainingError(f"{name} is {value!r}; expected a positive number.")
        for name in ("momentum", "weight_decay"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise TrainingError(f"{name} is {value!r}; expected 0 or a positive number.")
        for name in ("interval", "until"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TrainingError(f"{name} is {value!r}; expected a number of steps, 1 or more, or None.")
        if not 0 < self.search <= 1:
            raise TrainingError(f"search is {self.search!r}; expected a fraction of the epochs above 0 and up to 1.")
        if not 0 <= self.dsd < 1:
            raise TrainingError(f"dsd is {self.dsd!r}; expected the part of the weights to leave out, such as 0.3.")
        for name, unit in {"shift": "pixels", "warmup": "steps"}.items():
            value = getattr(self, name)
            if value is not None and value < 0:
                raise TrainingError(f"{name} is {value!r}; expected a number of {unit}, 0 or more.")
        self._check_schedule()

    def _check_schedule(self) -> None:
        for name, kind in {"optimizer": OptimizerName, "schedule": Schedule}.items():
            if getattr(self, name) not in get_args(kind):
                raise TrainingError(f"{name} is {getattr(self, name)!r}; expected {' or '.join(get_args(kind))}.")
        if bool(self.milestones) != (self.schedule == "steps") or list(self.milestones) != sorted(set(self.milestones)):
            raise TrainingError(
                f"milestones are {list(self.milestones)} for schedule {self.schedule!r}; expected rising epochs "
                'such as milestones = [30, 60] for schedule = "steps", and none for the cosine.'
            )


def learning_rate(
    config: RunConfig, step: int, per_epoch: int, start: int, fall_from: int | None, last_event: int | None = None
) -> float:
    """The learning rate of a step: the schedule's, times (steps since the last event) / warmup in a warm-up.

    The step right behind the event is the first since it, so that step number `warmup` has the schedule's again.

    Args:
        config: of the run.
        step: steps before this one.
        per_epoch: steps of an epoch.
        start: the step at which the epoch counter was last 0.
        fall_from: where a cosine begins to fall; None for not yet.
        last_event: steps before the last event; None for no event yet.

    >>> cosine = RunConfig(lr=0.8, epochs=10)
    >>> [round(learning_rate(cosine, step, 10, start=0, fall_from=20), 3) for step in (0, 20, 60, 100)]
    [0.8, 0.8, 0.4, 0.0]
    >>> steps = RunConfig(lr=0.8, epochs=3, schedule="steps", milestones=(1, 2))
    >>> [round(learning_rate(steps, step, 10, start=5, fall_from=None), 3) for step in (5, 14, 15, 25)]
    [0.8, 0.8, 0.08, 0.008]
    >>> warmed = RunConfig(lr=0.8, epochs=10, warmup=4)
    >>> [round(learning_rate(warmed, step, 10, 0, None, last_event=20), 3) for step in (20, 21, 22, 23, 24)]
    [0.2, 0.4, 0.6, 0.8, 0.8]
    """
    scheduled = _scheduled(config, step, per_epoch, start, fall_from)
    warmup = warmup_of(config, per_epoch)
    if last_event is None or step >= last_event + warmup:
        return scheduled
    return scheduled * (step + 1 - last_event) / warmup


def warmup_of(config: RunConfig, per_epoch: int) -> int:
    """The steps of a warm-up of a run with so many steps an epoch.

    >>> [warmup_of(RunConfig(epochs=epochs), per_epoch=100) for epochs in (1, 20, 90)]
    [5, 100, 200]
    """
    return min(WARMUP, config.epochs * per_epoch // 20) if config.warmup is None else config.warmup


def _scheduled(config: RunConfig, step: int, per_epoch: int, start: int, fall_from: int | None) -> float:
    if config.schedule == "steps":
        epoch = (step - start) // per_epoch
        return config.lr * config.decay ** sum(epoch >= milestone for milestone in config.milestones)
    if fall_from is None or step <= fall_from:
        return config.lr
    end = start + config.epochs * per_epoch
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - fall_from) / (end - fall_from)))
