"""Advice: what an event would make of a network whose gammas have begun to die, and whether that is worth it.

at the trigger  the channels that would be dead with r at the trigger: those that are dead by now or, where r is not so
                low yet, those whose gammas are smallest relative to the largest of their layer
change          of a layer: planned width / width
reshape         how far a plan moves width between layers: the mean over the layers of |log change - its mean|; 0 where
                all layers change by the same factor
steadiness      how far the seeds agree: 1 - (distance of two plans / the most that it can be), in [0, 1]
starves, wastes a layer that gets wider, or narrower, by a tenth or more in the plan of every seed
trial           the network as it is and the planned one, both from scratch, in as many steps on the same images

Whether a gain is to be expected is decided by the trial. Without one it is decided where it can be: an event that does
not come, or that leaves the shape as it is, brings none. The thresholds were chosen on networks and images that are
named in benchmarks/study/advice/settings.py.

Not handled: liveness by a criterion of the user's own, networks under fully_shard.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from math import exp, log
from statistics import mean
from typing import Any, Literal

from nrfx.choices import Measure
from nrfx.errors import AnalysisError
from nrfx.printed import Printed

BudgetName = Literal["params", "flops", "both"]
MEASURES: Mapping[BudgetName, tuple[Measure, ...]] = {
    "params": ("params",),
    "flops": ("flops",),
    "both": ("params", "flops"),
}
"""Budget -> the measures that it bounds. r is the larger ratio of them, as for a Rejuvenator."""

NOTICED = 0.1
"""A layer whose width changes by this part or more starves or wastes."""

TOO_FAR = 0.6
"""A plan for which gammas above this part of their layer's largest would have to die is a guess."""

TOO_FAST = 0.5
"""A plan is one of too few channels where r fell below this part of the trigger between two measurements."""

LITTLE = 0.1
"""A plan is a guess, too, where a search has not come this part of the way from r = 1 to the trigger."""

SAME_SHAPE = 0.1
"""A plan of less reshape than this keeps the shape of the network."""

GAIN = 0.06
"""The part by which a loss has to be lower in the trial for a gain to be expected of a full run."""


@dataclass(frozen=True)
class Prospect:
    """What an event at the trigger would make of the network within one budget. Tuples have a value for each seed.

    Attributes:
        budget: the measures that are bounded: "params", "flops" or "both".
        most_params, most_flops: the bounds, None where a measure is free.
        steps: of the search when this was planned.
        threshold: relative to the largest gamma of the layer, below which a gamma counts as dead at the trigger.
        r: utilization with these gammas dead; the larger one where both measures are bounded.
        alpha: the factor by which live widths would grow.
        params, flops: of the planned network.
        live, widths: layer -> its live channels at the trigger, and its planned width.
    """

    budget: BudgetName
    most_params: int | None
    most_flops: int | None
    steps: tuple[int, ...]
    threshold: tuple[float, ...]
    r: tuple[float, ...]
    alpha: tuple[float, ...]
    params: tuple[int, ...]
    flops: tuple[int, ...]
    live: Mapping[str, tuple[int, ...]]
    widths: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Trial:
    """The network as it is, and the planned one, trained from scratch. Tuples have a value for each seed.

    Attributes:
        steps: of each training.
        plain_loss, planned_loss: the mean of the training loss over the last third of the steps and of the validation
            loss behind them.
        plain_error, planned_error: validation error, in percent.
    """

    steps: int
    plain_loss: tuple[float, ...]
    planned_loss: tuple[float, ...]
    plain_error: tuple[float, ...]
    planned_error: tuple[float, ...]

    @property
    def change(self) -> float:
        """By what part the loss of the planned network is higher, over all seeds: below 0 where it learns better.

        >>> Trial(300, (0.50, 0.60), (0.40, 0.59), (18.0, 20.0), (15.0, 20.0)).change
        -0.1
        """
        return round(sum(self.planned_loss) / sum(self.plain_loss) - 1, 9)

    @property
    def agrees(self) -> bool:
        """Whether the planned network learns better in every seed."""
        return all(planned < plain for plain, planned in zip(self.plain_loss, self.planned_loss, strict=True))


@dataclass(frozen=True)
class Advice(Printed):
    """What a rejuvenation would do to a network, and whether it would help, as a short search lets expect.

    print() renders it for the terminal. Tuples have a value for each seed.

    Attributes:
        steps: of each search, or so far.
        trigger: r of an event.
        threshold: relative to the largest gamma of its layer, below which a gamma is dead.
        params, flops: cost of the network.
        r_params, r_flops: utilization behind these steps.
        layers: layer -> its width, of the layers whose width may change. Of those that share one width the first.
        together: layer -> the others that share its width.
        live: layer -> its live channels behind these steps.
        prospects: one for each budget.
        asked: the budget that is asked for, in which layers starve or waste and a gain is expected or not.
        trial: of the plan within it; None where there was none.
        notes: sentences on what could not be planned.

    >>> import torch, nrfx
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
    >>> gm = nrfx.trace(model, torch.zeros(2, 1, 5, 5))
    >>> optimizer = torch.optim.SGD(gm.parameters(), lr=0.1)
    >>> nr = nrfx.Rejuvenator(gm, optimizer, nrfx.Budget.relative(gm, params=1.0)).attach()
    >>> with torch.no_grad():
    ...     _ = gm.get_parameter("1.weight")[:5].zero_()
    >>> gm(torch.zeros(2, 1, 5, 5)).sum().backward()
    >>> optimizer.step()
    >>> nr.advice.verdict.gain, nr.advice.prospect.widths  # there is no other layer that width could move to
    ('not expected', {'0': (8,)})
    """

    steps: tuple[int, ...]
    trigger: float
    threshold: float
    params: int
    flops: int
    r_params: tuple[float, ...]
    r_flops: tuple[float, ...]
    layers: Mapping[str, int]
    together: Mapping[str, tuple[str, ...]]
    live: Mapping[str, tuple[int, ...]]
    prospects: tuple[Prospect, ...]
    asked: BudgetName
    trial: Trial | None
    notes: tuple[str, ...]

    @property
    def seeds(self) -> int:
        """How many searches it is from."""
        return len(self.steps)

    @property
    def prospect(self) -> Prospect | None:
        """That of the budget that is asked for; None where nothing can be planned within it."""
        return next((each for each in self.prospects if each.budget == self.asked), None)

    def change(self, prospect: Prospect) -> dict[str, float]:
        """Layer -> planned width / width, the geometric mean over the seeds."""
        return {
            name: exp(mean(log(max(new, 1) / width) for new in prospect.widths[name]))
            for name, width in self.layers.items()
        }

    def reshape(self, prospect: Prospect) -> float:
        """How far the plan moves width between layers, the mean over the seeds; 0 where it only scales them."""
        return mean(_spread(moves) for moves in self._moves(prospect))

    def steadiness(self, prospect: Prospect) -> float | None:
        """How far the plans of the seeds agree: 1 where they are the same, 0 where one moves what the other does not.

        None for a single seed.
        """
        if self.seeds < 2:
            return None
        pairs = [*combinations(self._moves(prospect), 2)]
        most = sum(_spread(one) + _spread(other) for one, other in pairs)
        apart = sum(_spread([a - b for a, b in zip(one, other, strict=True)]) for one, other in pairs)
        return 1.0 if most == 0 else max(1 - apart / most, 0.0)

    def _moves(self, prospect: Prospect) -> list[list[float]]:
        """For each seed, log(planned width / width) of each layer."""
        return [
            [log(max(prospect.widths[name][seed], 1) / width) for name, width in self.layers.items()]
            for seed in range(self.seeds)
        ]

    @property
    def starving(self) -> tuple[str, ...]:
        """The layers that get wider by a tenth or more in the plan of every seed, those that grow most first."""
        return self._changed(lambda ratio: ratio >= 1 + NOTICED, most=True)

    @property
    def wasting(self) -> tuple[str, ...]:
        """The layers that get narrower by a tenth or more in the plan of every seed, those that shrink most first."""
        return self._changed(lambda ratio: ratio <= 1 - NOTICED, most=False)

    def _changed(self, noticed: Callable[[float], bool], most: bool) -> tuple[str, ...]:
        prospect = self.prospect
        if prospect is None:
            return ()
        change = self.change(prospect)
        names = [
            name for name, width in self.layers.items() if all(noticed(new / width) for new in prospect.widths[name])
        ]
        return tuple(sorted(names, key=lambda name: change[name], reverse=most))

    @property
    def verdict(self) -> "Verdict":
        """Whether a gain over plain training is to be expected within the budget that is asked for, and why."""
        prospect = self.prospect
        if prospect is None:
            return Verdict("not known", "nothing can be planned within this budget")
        if max(prospect.r) >= self.trigger:
            return Verdict(
                "not expected",
                f"no event would come: even with only the strongest channel of each layer alive r is "
                f"{max(prospect.r):.2f}, and the trigger is {self.trigger:.2f}",
            )
        if doubt := self._doubt(prospect):
            return Verdict("not known", doubt)
        if self.reshape(prospect) < SAME_SHAPE:
            return Verdict(
                "not expected",
                "the plan keeps the shape of the network: all layers change by nearly the same factor, so that width "
                "lies where it is of use",
            )
        if self.trial is None:
            return Verdict(
                "not known",
                "the plan moves width between layers; whether the new shape learns better, a trial tells (nrfx advise)",
            )
        return self._tried(self.trial)

    def _doubt(self, prospect: Prospect) -> str:
        """Why the plan is no ground for an answer; "" where it is one."""
        if max(prospect.threshold) > TOO_FAR or self._shed(prospect) < LITTLE:
            return "too little has died to tell which channels would: give the search more steps, or raise delta_lambda"
        if min(prospect.r) < TOO_FAST * self.trigger:
            return (
                f"r fell to {min(prospect.r):.2f} between two measurements, far below the trigger of "
                f"{self.trigger:.2f}: give the search more steps, or lower delta_lambda"
            )
        return ""

    def _shed(self, prospect: Prospect) -> float:
        """How far the search that came least far came on the way from r = 1 to the trigger; 1 is its end."""
        ratios = {"params": self.r_params, "flops": self.r_flops}
        now = [max(each) for each in zip(*(ratios[measure] for measure in MEASURES[prospect.budget]), strict=True)]
        ways = [
            1.0 if threshold <= self.threshold else (1 - r) / max(1 - self.trigger, 1e-9)
            for threshold, r in zip(prospect.threshold, now, strict=True)
        ]
        return min(ways)

    def _tried(self, trial: Trial) -> "Verdict":
        amount = f"{abs(100 * trial.change):.0f} %"
        steps = f"{trial.steps:,} steps from scratch"
        if trial.change > 0:
            return Verdict("not expected", f"in {steps} the planned network had a loss {amount} higher")
        if trial.change > -GAIN:
            least = f"less than the {100 * GAIN:.0f} % from which on a gain was seen in full runs"
            return Verdict("not expected", f"in {steps} the planned network had a loss only {amount} lower: {least}")
        if not trial.agrees:
            return Verdict(
                "not expected", f"in {steps} the planned network had a loss {amount} lower, but not in every seed"
            )
        return Verdict("expected", f"in {steps} the planned network had a loss {amount} lower, in every seed")

    def as_dict(self) -> dict[str, Any]:
        """All of it as values that JSON can hold."""
        plain = asdict(self)
        for each, prospect in zip(plain["prospects"], self.prospects, strict=True):
            each |= {"reshape": self.reshape(prospect), "steadiness": self.steadiness(prospect)}
        if self.trial is not None:
            plain["trial"] |= {"change": self.trial.change}
        return {
            **plain,
            "starving": list(self.starving),
            "wasting": list(self.wasting),
            "gain": self.verdict.gain,
            "reason": self.verdict.reason,
        }

    def to_json(self) -> str:
        """`as_dict` as a JSON object."""
        return json.dumps(self.as_dict(), indent=2)


Gain = Literal["expected", "not expected", "not known"]


@dataclass(frozen=True)
class Verdict:
    """Whether a gain over plain training is to be expected, and a clause that says why."""

    gain: Gain
    reason: str


def joined(advices: Sequence[Advice]) -> Advice:
    """The advice of several searches of one network, from different seeds, as one.

    Raises:
        AnalysisError: they are not of one network, or not of the same trigger and budgets.
    """
    first = advices[0]
    for other in advices[1:]:
        for name in ("trigger", "threshold", "asked", "params", "flops", "layers"):
            if getattr(first, name) != getattr(other, name):
                raise AnalysisError(
                    f"Advice of {getattr(first, name)!r} and {getattr(other, name)!r} as {name} cannot be joined: "
                    "expected searches of one network with one trigger."
                )
    budgets = [name for name in MEASURES if all(_has(each, name) for each in advices)]
    prospects = [_together([_of(each, name) for each in advices]) for name in budgets]
    trials = [each.trial for each in advices if each.trial is not None]
    return replace(
        first,
        **_end_to_end(advices, ("steps", "r_params", "r_flops")),
        live=_by_layer(advices, "live"),
        prospects=tuple(prospects),
        trial=_trials(trials) if len(trials) == len(advices) else None,
        notes=tuple(dict.fromkeys(note for each in advices for note in each.notes)),
    )


def _has(advice: Advice, name: BudgetName) -> bool:
    return any(each.budget == name for each in advice.prospects)


def _of(advice: Advice, name: BudgetName) -> Prospect:
    return next(each for each in advice.prospects if each.budget == name)


def _together(prospects: Sequence[Prospect]) -> Prospect:
    return replace(
        prospects[0],
        **_end_to_end(prospects, ("steps", "threshold", "r", "alpha", "params", "flops")),
        live=_by_layer(prospects, "live"),
        widths=_by_layer(prospects, "widths"),
    )


def _trials(trials: Sequence[Trial]) -> Trial:
    names = ("plain_loss", "planned_loss", "plain_error", "planned_error")
    return replace(trials[0], **_end_to_end(trials, names))


def _end_to_end(parts: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    """Name -> the values of all parts, one behind the other."""
    return {name: tuple(value for part in parts for value in getattr(part, name)) for name in names}


def _by_layer(parts: Sequence[Any], name: str) -> dict[str, tuple[int, ...]]:
    return {
        layer: tuple(value for part in parts for value in getattr(part, name)[layer])
        for layer in getattr(parts[0], name)
    }


def _spread(values: Sequence[float]) -> float:
    """The mean distance from the mean; 0 of nothing."""
    middle = mean(values) if values else 0.0
    return mean(abs(value - middle) for value in values) if values else 0.0
