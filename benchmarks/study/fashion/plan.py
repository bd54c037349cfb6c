"""What a run of the study is, and the line that it leaves in the file."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from nrfx.choices import CrossWeights, Measure, PenaltyName, RaiseLambda, Residual, Spare


@dataclass(frozen=True)
class Settings:
    """How every row is trained, and how those of Neural Rejuvenation search.

    Args:
        steps: of plain training, and in all of every other row where it does not say otherwise.
        batch_size, lr, momentum, weight_decay: of SGD; lr falls to 0 along a half cosine, from the event on where there
            is one.
        trigger, interval, delta_lambda, penalty, weighted, spare, raise_lambda: of nrfx.Rejuvenator.
        until: the part of the steps in which an event may happen.
        residual, gamma_new, rescale_limit, cross: of nrfx.rejuvenate.
        warmup: steps behind an event in which the learning rate rises from 0.
    """

    steps: int = 3000
    batch_size: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    trigger: float = 0.25
    interval: int = 20
    delta_lambda: float = 1e-3
    penalty: PenaltyName = "sign"
    weighted: Measure | None = None
    spare: Spare = "none"
    raise_lambda: RaiseLambda = "slow"
    until: float = 0.5
    residual: Residual = "live"
    gamma_new: float | None = None
    rescale_limit: float | None = None
    cross: CrossWeights = "zero"
    warmup: int = 0

    def changed(self) -> dict[str, Any]:
        """The settings that are not as in Settings()."""
        plain = Settings()
        return {name: value for name, value in asdict(self).items() if value != getattr(plain, name)}


OF_FAMILY: Mapping[str, Settings] = {
    "vgg": Settings(),
    "late": Settings(),
    "early": Settings(),
    "level": Settings(),
    "even": Settings(trigger=0.5),
    "resnet": Settings(steps=2000, trigger=0.5),
    "resnet-coupled": Settings(steps=2000, trigger=0.5, residual="coupled"),
    "early resnet": Settings(steps=2000),
    "late resnet": Settings(steps=2000),
    "densenet": Settings(steps=2000, trigger=0.5),
    "late densenet": Settings(steps=2000),
    "other densenet": Settings(steps=2000, trigger=0.5),
    "mobilenet": Settings(steps=2000, trigger=0.5),
    "late mobilenet": Settings(steps=2000),
}
"""Where a family begins: the settings of its runs before anything was chosen."""

BUDGETS: Mapping[str, Mapping[str, float]] = {
    "params": {"params": 1.0},
    "flops": {"flops": 1.0},
    "both": {"params": 1.0, "flops": 1.0},
    "half": {"params": 0.5},
}
"""Name -> the budget, relative to the untrained network."""

NONE_SPARED = ", none spared"
"""Behind the name of a row that searches: with what was chosen, except that all gammas are pulled alike."""

WITHOUT_BUDGET = ("BL", "BL held", "BL longer")
"""Rows that train the network as it is: one run, with "params" in the file, stands in the tables of all budgets."""

UNCHOSEN = (*WITHOUT_BUDGET, "two towers", "random widths", "Network Slimming", "MorphNet", "NR as in the paper")
"""Rows that have nothing of what was chosen."""


@dataclass(frozen=True)
class Task:
    """A run: `row` of `family` from `seed` within `budget`. `test` says whether its test error is looked at."""

    family: str
    row: str
    budget: str
    seed: int
    settings: Settings
    test: bool = True

    @property
    def key(self) -> str:
        """By which a run is known again: all that decides its outcome."""
        told = json.dumps([self.family, self.row, self.budget, self.seed, asdict(self.settings), self.test])
        return hashlib.sha256(told.encode()).hexdigest()[:12]

    def having(self, **settings: Any) -> "Task":
        """The same with other settings."""
        return replace(self, settings=replace(self.settings, **settings))


@dataclass(frozen=True)
class Line:
    """What came of a run. Errors in percent.

    Attributes:
        settings: those that differ from Settings(), as JSON.
        params, flops: of the network in the end.
        event: the step of the (last) event, 0 without one. r, lam, alpha: there.
        events: how many.
        r_end: utilization in the end of the search, where there was no event.
        steps: that the network was trained in all, the search included.
        validation: error on all validation images in the end.
        test: on the test images; None where choices are made.
        curve: step:error of the weights, with recalibrated statistics, on 2,000 validation images; "b" marks the point
            right before an event, "e" the one right after.
        widths: of the convolutions in the end, in their order.
        seconds: of the run, of one core that may have been shared.
    """

    key: str
    family: str
    row: str
    budget: str
    seed: int
    settings: str
    params: int
    flops: int
    event: int
    events: int
    r: float
    lam: float
    alpha: float
    steps: int
    validation: float
    test: float | None
    curve: str
    widths: str
    seconds: float
    torch: str
    date: str
    cpu: str


@dataclass
class Curve:
    """The scores on the way of a run, in order."""

    points: list[str] = field(default_factory=list)

    def add(self, step: int, error: float, mark: str = "") -> None:
        point = f"{step}{mark}:{error:.2f}"
        if point not in self.points[-1:]:
            self.points.append(point)

    def __str__(self) -> str:
        return " ".join(self.points)


def points_of(curve: str) -> list[tuple[int, str, float]]:
    """(step, mark, error) of each point of a line's curve.

    >>> points_of("100:12.50 120b:12.00 120e:12.25")
    [(100, '', 12.5), (120, 'b', 12.0), (120, 'e', 12.25)]
    """
    points = []
    for point in curve.split():
        place, _, error = point.partition(":")
        mark = place.lstrip("0123456789")
        points.append((int(place.removesuffix(mark) if mark else place), mark, float(error)))
    return points
