"""Under which dead gammas each column of a weight reads a constant, whatever that constant is.

The graph is interpreted as in constants.py, on symbols in the place of constants: a symbol stands for one value that is
not known yet, and has a condition, a formula of the gammas that must be dead for it to be a constant. A norm gives
"its gamma is dead, or its input is constant", an addition "both are constant". What is dead can then be told from the
gammas alone, again and again, without a walk over the graph.

Some ops look at the value: zero times what varies is zero, a padded depthwise convolution keeps a zero alone, the
logarithm of a negative number is none. There the result counts as varying, and the condition under which it might not
is put down as `unsure`: as soon as one of these holds, constants.py must be asked.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from math import isnan
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nrfx.analysis.channels import Channels, Step
from nrfx.analysis.constants import NAN, Propagation
from nrfx.analysis.reinterpret import flow, like
from nrfx.labels import among, collapse, joined
from nrfx.rules import Norm, Reading, Site, Unfit, tensors

_SYMBOL = 2.0**40
"""Symbol k is the number _SYMBOL + k, below 2**41; what is smaller stands for itself, NaN for what varies."""

NEVER, ALWAYS = 0, 1

Array = np.ndarray[Any, Any]
_PROBE = (0.0, 1e-3, -1e-3, 1.0, -1.0, 7.0, -7.0, 1e2, -1e2)


@dataclass(frozen=True)
class Circuit:
    """Conditions that are made of others, as gates, which are evaluated together level by level.

    Condition 0 never holds, 1 always, 2 + k holds where gamma k is dead, and gates follow.

    Attributes:
        levels: (left, right, conjunction) of the gates of one level: indices of conditions; bool, "and" or else "or".
    """

    levels: tuple[tuple[Array, Array, Array], ...]

    def __call__(self, dead: Array) -> Array:
        """bool [conditions]: whether each holds for these dead gammas, bool [gammas]."""
        holds = np.concatenate([_FIXED, dead])
        for left, right, conjunction in self.levels:
            a, b = holds[left], holds[right]
            holds = np.concatenate([holds, np.where(conjunction, a & b, a | b)])
        return holds


_FIXED = np.array([False, True])


@dataclass(frozen=True)
class Conditions:
    """The conditions under which weights read constants.

    Attributes:
        channel, condition: int64 [reads], a channel that some weight reads, in ascending order, and the condition under
            which it is constant there.
        unsure: int64, conditions under which nothing of this is certain.
    """

    circuit: Circuit
    channel: Array
    condition: Array
    unsure: Array


def conditions_of(channels: Channels, position: Mapping[str, int], gammas: int, asked: Tensor) -> Conditions:
    """The conditions of the columns of all weights.

    Args:
        position: gamma parameter -> the index of its first element among all `gammas`.
        asked: bool [channels], the channels whose conditions are needed.
    """
    propagation = _Symbols(channels, position, gammas)
    flow(channels, propagation.value)
    readings = [step.effect.reading for step in channels.steps if step.effect.reading is not None]
    pairs = [(reading.cols, values) for reading in readings for values in propagation.read.get(reading.key, ())]
    labels, _ = joined([cols for cols, _ in pairs])
    read = torch.tensor(propagation.of(torch.cat([torch.zeros(0), *(values for _, values in pairs)])))
    here = among(channels.channels_along(labels), asked)
    pairs = torch.unique(torch.stack([channels.channel_of[labels[here]], read[here]]), dim=1)
    unsure = sorted(propagation.unsure - {NEVER})
    circuit, number = propagation.gates.circuit([*pairs[1].unique().tolist(), *unsure])
    condition = np.array([number.get(each, each) for each in pairs[1].tolist()], dtype=np.int64)
    return Conditions(circuit, pairs[0].numpy(), condition, np.array([number.get(each, each) for each in unsure], int))


class _Gates:
    """The conditions made so far. Equal ones are one."""

    def __init__(self, gammas: int) -> None:
        self.first = 2 + gammas
        self.level: list[int] = []
        self.made: dict[tuple[int, int, bool], int] = {}

    def both(self, left: int, right: int) -> int:
        return NEVER if NEVER in (left, right) else self._joined(left, right, True, ALWAYS)

    def either(self, left: int, right: int) -> int:
        return ALWAYS if ALWAYS in (left, right) else self._joined(left, right, False, NEVER)

    def _joined(self, left: int, right: int, conjunction: bool, neutral: int) -> int:
        if left in (neutral, right):
            return right
        if right == neutral:
            return left
        key = (min(left, right), max(left, right), conjunction)
        if key not in self.made:
            self.level.append(1 + max(self._level_of(left), self._level_of(right)))
            self.made[key] = self.first + len(self.made)
        return self.made[key]

    def _level_of(self, condition: int) -> int:
        return self.level[condition - self.first] if condition >= self.first else 0

    def circuit(self, needed: Iterable[int]) -> tuple[Circuit, dict[int, int]]:
        """The gates that the needed conditions are made of; and the number that each condition has there."""
        parts = {gate: key for key, gate in self.made.items()}
        queue, found = [condition for condition in needed if condition in parts], set[int]()
        while queue:
            gate = queue.pop()
            if gate not in found:
                found.add(gate)
                queue += [part for part in parts[gate][:2] if part in parts]
        by_level: dict[int, list[int]] = {}
        for gate in sorted(found):
            by_level.setdefault(self._level_of(gate), []).append(gate)
        ordered = [gate for _, gates in sorted(by_level.items()) for gate in gates]
        number = {gate: self.first + index for index, gate in enumerate(ordered)}
        levels: list[tuple[Array, Array, Array]] = []
        for _, gates in sorted(by_level.items()):
            left, right, kind = zip(*(parts[gate] for gate in gates), strict=True)
            first, second = (np.array([number.get(part, part) for part in side]) for side in (left, right))
            levels.append((first, second, np.array(kind)))
        return Circuit(tuple(levels)), number


class _Symbols(Propagation):
    """The interpretation of constants.py on symbols; it fills `unsure` beside `read`."""

    def __init__(self, channels: Channels, position: Mapping[str, int], gammas: int) -> None:
        norms = channels.first_norms
        super().__init__(channels, {key: partial(self.normed, norm) for key, norm in norms.items()}, norms.keys())
        self.position = position
        self.gates = _Gates(gammas)
        self.condition: list[int] = []  # of each symbol
        self.unsure: set[int] = set()

    def symbols(self, conditions: Iterable[int]) -> Tensor:
        """A new symbol for each condition; NaN for one that never holds."""
        made = []
        for condition in conditions:
            made.append(NAN if condition == NEVER else _SYMBOL + len(self.condition))
            self.condition += [] if condition == NEVER else [condition]
        return torch.tensor(made, dtype=torch.float64)

    def of(self, values: Tensor) -> list[int]:
        """The condition under which each value is a constant."""
        return [self.of_number(value) for value in values.tolist()]

    def of_number(self, value: float) -> int:
        if isnan(value):
            return NEVER
        return self.condition[int(value - _SYMBOL)] if _SYMBOL <= value < 2 * _SYMBOL else ALWAYS

    def all_of(self, conditions: Iterable[int]) -> int:
        return reduce(self.gates.both, conditions, ALWAYS)

    def doubt(self, values: Tensor) -> None:
        """Puts down that a result depends on what these constants are."""
        self.unsure.update(self.of(collapse(values).unique()))

    def unfit(self, step: Step, args: Any, kwargs: Any, error: Unfit) -> Any:
        return self.doubtful(step, args, kwargs)

    def doubtful(self, step: Step, args: Any, kwargs: Any) -> Any:
        """The result counts as varying, and is unsure where anything that goes in is a constant."""
        for values in tensors((args, kwargs)):
            self.doubt(values)
        return self.varying(step, args, kwargs)

    def added(self, site: Site) -> Tensor:
        return self.symbols([ALWAYS] * site.layout.numel())

    def normed(self, norm: Norm, incoming: Tensor) -> Tensor:
        """Constant where gamma is dead, or where what comes in is constant and the norm keeps it so."""
        passed = self.of(incoming) if norm.scale or norm.mean is not None else [NEVER] * len(incoming)
        if norm.gamma is None:
            return self.symbols(passed)
        first = 2 + self.position[norm.gamma]
        return self.symbols(self.gates.either(first + index, each) for index, each in enumerate(passed))

    def pointwise(self, step: Step, args: Any, kwargs: Any) -> Any:
        named = tensors(kwargs)
        return self.doubtful(step, args, kwargs) if named else super().pointwise(step, args, kwargs)

    def applied(self, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """0 where zeros alone make it, padded ones, and else a symbol for each combination of operands."""
        result = _run(step, like(args, lambda x: torch.where(x == 0, x, NAN)), kwargs)
        rest = result != 0
        operands = torch.stack([x.expand(rest.shape)[rest] for x in tensors(args)]).nan_to_num(-_SYMBOL)
        if bool((operands == -_SYMBOL).all()):
            return result
        distinct, place = torch.unique(operands, dim=1, return_inverse=True)
        conditions = zip(*(self.of(torch.where(row == -_SYMBOL, NAN, row)) for row in distinct), strict=True)
        combined = _combined(step, args, kwargs)
        made = self.symbols([self.made(combined, each) for each in conditions])
        return result.masked_scatter(rest, made[place])

    def made(self, combined: str, conditions: Sequence[int]) -> int:
        """The condition under which an op on operands with these gives a constant."""
        known = self.all_of(conditions)
        if combined == "value":
            self.unsure.add(known)
        if combined in ("value", "zero"):  # a zero among operands that vary would give zero
            self.unsure |= {condition for condition in conditions if condition != known}
        return known if combined in ("all", "zero") else NEVER

    def one(self, low: Tensor, high: Tensor) -> Tensor:
        """Unsure where the two differ: whether they are equal is not known. NaN is neither lower nor higher."""
        differ = low < high
        self.unsure.update(map(self.gates.both, self.of(low[differ]), self.of(high[differ])))
        return super().one(low, high)

    def zeros(self, values: Tensor) -> Tensor:
        self.doubt(values[values != 0])
        return super().zeros(values)

    def contracted(self, reading: Reading, value: Tensor) -> Tensor:
        each = reading.rows.numel() // reading.groups
        groups = value.view(reading.groups, -1)
        made = self.symbols(self.all_of(self.of(group)) for group in groups)
        zero = (groups == 0).all(1) & (reading.bias is None)
        return torch.where(zero, 0.0, made).repeat_interleave(each)

    def mixed(self, step: Step, args: Any, kwargs: Any) -> Any:
        return (self.varying if step.effect.apply is None else self.doubtful)(step, args, kwargs)

    def lose(self, step: Step, args: Any, out: Tensor, reason: str) -> None:
        """No reasons are asked for."""


def _combined(step: Step, args: Any, kwargs: dict[str, Any]) -> str:
    """How the values of the operands decide whether a pointwise op gives a constant, found by trial.

    all     constant where all operands are, whatever they are
    zero    so, and perhaps where one of them is zero and others vary
    value   it depends on the values
    never   never
    """
    given = tensors(args)
    count, shape = len(given), (-1, *[1] * max(given[0].dim() - 1, 0))

    def constant(trials: list[list[float]]) -> Tensor:
        """bool [trials]: whether the op gives a constant for these operands."""
        columns = iter(torch.tensor(trials, dtype=torch.float64).T)
        result = _run(step, like(args, lambda _: next(columns).clone().view(shape)), kwargs)
        return ~result.reshape(len(trials), -1).isnan().any(1)

    others = _PROBE if count > 1 else (0.0,)
    trials = [[value, *[other] * (count - 1)] for value in _PROBE for other in others]
    known = constant(trials)
    if not bool(known.any()):
        return "never"
    if not bool(known.all()) or step.effect.undefined:
        return "value"
    varied = [[*trial[:index], NAN, *trial[index + 1 :]] for trial in trials for index in range(count)]
    return "zero" if bool(constant(varied).any()) else "all"


def _run(step: Step, args: Any, kwargs: dict[str, Any]) -> Tensor:
    """What a pointwise op makes of numbers, at least of the shape of its operands; NaN for what is no float."""
    assert step.effect.apply is not None
    result = step.effect.apply(*args, **kwargs)
    result = result if result.is_floating_point() else torch.full((), NAN, dtype=torch.float64)
    run: Tensor = torch.broadcast_tensors(result, tensors(args)[0])[0]
    return run
