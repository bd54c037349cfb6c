"""Liveness by a criterion of the user's own: scores of channels, a threshold or a budget, limits, and what is left.

    score         of a channel in a layer, 0 or more; the lower, the sooner it is given up
    given up      score <= threshold; or, with a budget, of the least worth for its cost (ranking.py)
    kept          all others, and those that a pin, a stream, a hold or a limit keeps

A channel that is given up need not be constant. What takes its place in each weight that reads it is the constant that
it has there on all inputs, where the weights show one (zero_filters.py); else its mean over the batches, else 0.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from math import isfinite
from typing import Literal, get_args

import torch
from torch import Tensor

from nrfx.analysis.activity import Activity, Batches, activity_of, checked_batches
from nrfx.analysis.channels import Channels
from nrfx.analysis.given_up import GivenUp
from nrfx.analysis.limits import layers_of, least_widths
from nrfx.analysis.liveness import Held, Liveness, check_residual, liveness_of, prunable_spaces
from nrfx.analysis.probes import reading_steps
from nrfx.analysis.ranking import Bound, ranked
from nrfx.analysis.varying import same
from nrfx.analysis.zero_filters import exact_constants
from nrfx.choices import Residual
from nrfx.errors import AnalysisError
from nrfx.ids import among, joined
from nrfx.tracing import PartialModule, TracedModule

Group = Literal["max", "mean", "sum"]
"""The score of a channel that several layers have one for: "max" gives it up only where all of them do."""

Judge = Callable[[Channels, Mapping[int, str]], Liveness]
"""(channels, channels to hold with the reason) -> the liveness of a network."""


@dataclass(frozen=True)
class Subject:
    """What scores are computed from: a network, its channels, and what its weights read on batches, if any."""

    traced: TracedModule
    channels: Channels
    activity: Activity | None


@dataclass(frozen=True, eq=False)
class Criterion(ABC):
    """What says which channels are dead: a score for each, a threshold or a budget, and limits.

    Attributes:
        keep: layers that are left alone, by name, by pattern (`blocks.*.fc2`) or by the name of what holds them.
        min_width: so many channels of each layer stay at least; a number, or numbers by pattern.
        most: the largest part of a layer that may be given up at once, in [0, 1]; a number, or numbers by pattern.
        group: how the scores of tied layers join: "max" (all of them must agree), "mean" or "sum".
        budget: an `nrfx.Budget`, to which channels are given up in the order of score per cost, in the place of a
            threshold.
        batches: batches whose means take the place of what is given up, as for `Activation`; without them it is 0.

    >>> import nrfx
    >>> from torch import nn
    >>> @dataclass(frozen=True, eq=False)
    ... class Even(Criterion):
    ...     threshold, title = 0.0, "an even number"
    ...
    ...     def scores(self, subject):
    ...         return {"0": torch.arange(6, dtype=torch.float64) % 2}
    >>> gm = nrfx.trace(nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 2)), torch.zeros(1, 2))
    >>> nrfx.compact(gm, liveness=Even()).module.get_submodule("0")
    Linear(in_features=2, out_features=3, bias=True)
    """

    _: KW_ONLY
    keep: Sequence[str] = ()
    min_width: int | Mapping[str, int] = 1
    most: float | Mapping[str, float] = 1.0
    group: Group = "max"
    budget: Bound | None = None
    batches: Batches | None = None

    def __post_init__(self) -> None:
        if isinstance(self.keep, str) or not all(isinstance(name, str) for name in self.keep):
            raise AnalysisError(f"keep is {self.keep!r}; expected a list of names or patterns of layers.")
        for number in _numbers(self.min_width):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise AnalysisError(f"min_width is {number!r}; expected a whole number of 1 or more.")
        for number in _numbers(self.most):
            if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 1:
                raise AnalysisError(f"most is {number!r}; expected a part of a layer in [0, 1], such as 0.5.")
        if self.group not in get_args(Group):
            raise AnalysisError(f"group is {self.group!r}; expected one of {', '.join(get_args(Group))}.")
        if self.budget is not None and not hasattr(self.budget, "admits"):
            raise AnalysisError(f"budget is {self.budget!r}; expected nrfx.Budget(params=...) or None.")
        if self.batches is not None:
            checked_batches(self.batches)

    @property
    @abstractmethod
    def threshold(self) -> float:
        """A channel with a score of so much or less is dead."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What makes a channel dead, as in "dead by ..."."""

    @abstractmethod
    def scores(self, subject: Subject) -> Mapping[str, Tensor]:
        """Layer -> float64 [channels of its output], NaN where it has none."""


def check_number(value: object, name: str) -> None:
    """Raises AnalysisError unless the value is a finite number of 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not (isfinite(value) and value >= 0):
        raise AnalysisError(f"{name} is {value!r}; expected a number of 0 or more.")


def check_whole(traced: TracedModule) -> None:
    """Raises AnalysisError for a model that was traced in parts: what takes a channel's place would not run there."""
    if isinstance(traced, PartialModule):
        raise AnalysisError(
            'The model was traced in parts: only liveness="gamma" is there for it, for its own code runs between them.'
        )


def judge_of(traced: TracedModule, criterion: Criterion | None, threshold: float, residual: Residual) -> Judge:
    """What tells the liveness of a network whenever its channels are known; a criterion looks at its batches once.

    Args:
        criterion: None for gammas, by `threshold`.

    Raises:
        AnalysisError: a criterion cannot be applied to this network.
    """
    if criterion is None:
        return lambda channels, hold: liveness_of(traced, channels, threshold, residual, hold)
    check_residual(0.0, residual)
    check_whole(traced)
    seen: list[Activity | None] = []

    def judged(channels: Channels, hold: Mapping[int, str]) -> Liveness:
        if not seen:  # once: the channels of later rounds are the same, with further pins
            seen.append(None if criterion.batches is None else activity_of(traced, channels, criterion.batches))
        return _judged(Subject(traced, channels, *seen), criterion, residual, hold)

    return judged


def live_by(traced: TracedModule, channels: Channels, criterion: Criterion, residual: Residual) -> Tensor:
    """bool [channels]: what a criterion leaves.

    Raises:
        AnalysisError: the criterion cannot be applied to this network.
    """
    activity = None if criterion.batches is None else activity_of(traced, channels, criterion.batches)
    return ~_choice(Subject(traced, channels, activity), criterion, residual, {}).gone


def _judged(subject: Subject, criterion: Criterion, residual: Residual, hold: Mapping[int, str]) -> Liveness:
    channels = subject.channels
    whole = liveness_of(subject.traced, channels, 0.0, residual)  # no gamma is below 0: all live
    choice = _choice(subject, criterion, residual, hold)
    gone = choice.gone
    held = tuple(_held(channels, choice.dead & ~gone, choice.alone, hold, residual))
    if bool(gone.any()):
        note = _counted(channels, gone, criterion)
        constants = _constants(subject, whole, gone)
        return replace(whole, live=~gone, held=held, notes=(*whole.notes, note), given_up=constants)
    within = f"The network is within {criterion.budget}: no channel was given up."
    return replace(whole, held=held, notes=whole.notes if criterion.budget is None else (*whole.notes, within))


@dataclass(frozen=True)
class _Choice:
    """bool [channels]: which are given up, and which the criterion calls dead; bool [spaces]: which are left alone."""

    gone: Tensor
    dead: Tensor
    alone: Tensor


def _choice(subject: Subject, criterion: Criterion, residual: Residual, hold: Mapping[int, str]) -> _Choice:
    channels = subject.channels
    scores = _by_channel(channels, criterion.scores(subject), criterion.group)
    least, alone = least_widths(channels, criterion.keep, criterion.min_width, criterion.most)
    dead = scores < torch.inf if criterion.budget is not None else scores <= criterion.threshold
    may_go = dead & (prunable_spaces(channels, residual) & ~alone)[channels.space_of]
    may_go[list(hold)] = False
    gone = _within(channels, scores, may_go, least)
    if criterion.budget is None:
        return _Choice(gone, dead, alone)
    gone = ranked(subject.traced, channels, scores, gone, criterion.budget)
    return _Choice(gone, gone, alone)


def _by_channel(channels: Channels, scores: Mapping[str, Tensor], group: Group) -> Tensor:
    """float64 [channels]: the scores of all layers of a channel joined; NaN where no layer has one."""
    layouts = layers_of(channels)
    labels, _ = joined([layouts[name] for name in scores])
    value = torch.cat([torch.zeros(0).double(), *scores.values()])
    ids = channels.channels_along(labels)
    known = (ids >= 0) & ~value.isnan()
    count = channels.space_of.numel()
    how = {"max": "amax", "mean": "mean", "sum": "sum"}[group]
    joint = torch.zeros(count).double().scatter_reduce(0, ids[known], value[known], how, include_self=False)
    scored = torch.zeros(count, dtype=torch.bool)
    scored[ids[known]] = True
    return torch.where(scored, joint, torch.nan)


def _within(channels: Channels, scores: Tensor, may_go: Tensor, least: Tensor) -> Tensor:
    """`may_go` without the channels of the highest scores where a space would have fewer than `least` left."""
    gone = may_go.clone()
    width = torch.bincount(channels.space_of, minlength=least.numel())
    going = torch.bincount(channels.space_of[may_go], minlength=least.numel())
    for space in (width - going < least).nonzero().flatten().tolist():
        members = ((channels.space_of == space) & may_go).nonzero().flatten()
        allowed = max(int(width[space] - least[space]), 0)
        gone[members[torch.argsort(scores[members], stable=True)[allowed:]]] = False
    return gone


def _held(
    channels: Channels, kept: Tensor, alone: Tensor, hold: Mapping[int, str], residual: Residual
) -> Iterator[Held]:
    """The channels that the criterion calls dead, by the reason why they stay."""
    reasons: dict[str, list[int]] = {}
    for channel in kept.nonzero().flatten().tolist():
        space = channels.spaces[int(channels.space_of[channel])]
        if not space.free:
            reason = f"pinned: {space.pinned}"
        elif space.stream and residual != "coupled":
            reason = f'on a residual stream, which residual="{residual}" keeps'
        elif bool(alone[space.index]):
            reason = "keep= leaves its layer alone"
        else:
            reason = hold.get(channel, "its layer has as few channels as min_width= and most= allow")
        reasons.setdefault(reason, []).append(channel)
    for reason, members in reasons.items():
        yield Held("", reason, torch.tensor(members), torch.tensor(members))


def _counted(channels: Channels, gone: Tensor, criterion: Criterion) -> str:
    counts = torch.bincount(channels.space_of[gone], minlength=len(channels.spaces)).tolist()
    where = [f"{space.name} {count}" for space, count in zip(channels.spaces, counts, strict=True) if count]
    named = ", ".join(where[:_NAMED]) + (f" and {len(where) - _NAMED} more layers" if len(where) > _NAMED else "")
    return f"Given up by {criterion.title}: {sum(counts)} channels ({named})."


_NAMED = 6
"""So many layers are named before the rest is counted."""


def _constants(subject: Subject, whole: Liveness, gone: Tensor) -> GivenUp:
    """What each column reads in the place of a channel that is given up."""
    channels, activity = subject.channels, subject.activity
    known = exact_constants(subject.traced, channels, whole.affine).read
    constants: dict[str, Tensor] = {}
    exact: dict[str, Tensor] = {}
    for _, reading in reading_steps(channels):
        key = reading.key
        if key in constants:
            continue
        here = among(channels.channels_along(reading.cols), gone)
        always = same(torch.stack(known[key], 1))
        exact[key] = here & ~always.isnan()
        mean = torch.zeros(here.shape).double()
        if activity is not None and key in activity.means:
            mean = activity.mean(key)
        constants[key] = torch.where(here, torch.where(exact[key], always, mean), 0.0)
    return GivenUp(constants, exact, activity is not None)


def _numbers(value: float | Mapping[str, float]) -> list[float]:
    return list(value.values()) if isinstance(value, Mapping) else [value]
