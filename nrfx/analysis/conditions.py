"""Under which dead gammas each column of a weight reads a constant, whatever that constant is.

The graph is interpreted as in constants.py, on symbols in the place of constants: a symbol stands for one value that is
not known yet, and has a condition, a formula of the gammas that must be dead for it to be a constant. A norm gives
"its gamma is dead, or its input is constant", an addition "both are constant". What is dead can then be told from the
gammas alone, again and again, without a walk over the graph.

Some ops look at the value: zero times what varies is zero, a padded depthwise convolution keeps a zero alone, the
logarithm of a negative number is none. There the result counts as varying, and the condition under which it might not
is put down as `unsure`: as soon as one of these holds, constants.py must be asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nrfx.analysis.channels import Channels, Step
from nrfx.analysis.constants import Propagation
from nrfx.analysis.reinterpret import flow, like
from nrfx.analysis.varying import NAN
from nrfx.ids import among, joined
from nrfx.labels import collapse
from nrfx.rules import Norm, Reading, Site, tensors

_SYMBOL = 2.0**40
"""Symbol k is the number _SYMBOL + k, below 2**41; what is smaller stands for itself, NaN for what varies."""

NEVER, ALWAYS, FIRST = 0, 1, 2
"""The conditions that never and always hold, and that which holds where the first gamma is dead."""

Array = np.ndarray[Any, Any]
_PROBE = (0.0, 1e-3, -1e-3, 1.0, -1.0, 7.0, -7.0, 1e2, -1e2)


@dataclass(frozen=True)
class Circuit:
    """Conditions that are made of others, as gates, which are evaluated together level by level.

    NEVER and ALWAYS come first, FIRST + k holds where gamma k is dead, and gates follow.

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
    here = among(channels.channels_along(labels), asked)
    read = propagation.of(torch.cat([torch.zeros(0).double(), *(values for _, values in pairs)])[here])
    channel, condition = torch.unique(torch.stack([channels.channel_of[labels[here]], read]), dim=1)
    unsure = torch.cat([torch.zeros(0, dtype=torch.int64), *propagation.unsure]).unique()
    unsure = unsure[unsure != NEVER]
    circuit, number = propagation.gates.circuit(torch.cat([condition, unsure]))
    return Conditions(circuit, channel.numpy(), number[condition].numpy(), number[unsure].numpy())


class _Gates:
    """The conditions made so far."""

    def __init__(self, gammas: int) -> None:
        self.fixed = FIRST + gammas
        self.level = torch.zeros(self.fixed, dtype=torch.int64)  # of each condition; 0 for gammas
        self.parts = torch.zeros(3, self.fixed, dtype=torch.int64)  # left, right, and whether "and"

    def both(self, left: Tensor, right: Tensor) -> Tensor:
        return self.joined(left, right, True)

    def either(self, left: Tensor, right: Tensor) -> Tensor:
        return self.joined(left, right, False)

    def joined(self, left: Tensor, right: Tensor, conjunction: bool) -> Tensor:
        """int64 [n], the conditions that are made of int64 [n] and [n]; equal ones are one."""
        neutral, strong = (ALWAYS, NEVER) if conjunction else (NEVER, ALWAYS)
        result = torch.where(left == neutral, right, left)
        result[(left == strong) | (right == strong)] = strong
        made = (left > ALWAYS) & (right > ALWAYS) & (left != right)
        low, high = torch.minimum(left, right)[made], torch.maximum(left, right)[made]
        pairs, place = torch.unique(low << 32 | high, return_inverse=True)
        result[made] = self.level.numel() + place
        new = torch.stack([pairs >> 32, pairs & 0xFFFFFFFF, torch.full_like(pairs, conjunction)])
        self.level = torch.cat([self.level, 1 + self.level[new[:2]].amax(0)])
        self.parts = torch.cat([self.parts, new], 1)
        return result

    def circuit(self, needed: Tensor) -> tuple[Circuit, Tensor]:
        """The gates that the needed conditions are made of; and the number that each condition has there."""
        wanted = torch.zeros_like(self.level, dtype=torch.bool)
        wanted[needed] = True
        number, levels, last = torch.arange(self.level.numel()), list[Tensor](), self.fixed
        for level in range(int(self.level.max()), 0, -1):
            levels.insert(0, (wanted & (self.level == level)).nonzero().flatten())
            wanted[self.parts[:2, levels[0]]] = True
        for gates in levels:
            number[gates] = torch.arange(last, last + gates.numel())
            last += gates.numel()
        parts = [(*number[self.parts[:2, gates]].numpy(), self.parts[2, gates].bool().numpy()) for gates in levels]
        return Circuit(tuple(parts)), number


class _Symbols(Propagation):
    """The interpretation of constants.py on symbols; it fills `unsure` beside `read`."""

    def __init__(self, channels: Channels, position: Mapping[str, int], gammas: int) -> None:
        norms = channels.first_norms
        super().__init__(channels, {key: partial(self.normed, norm) for key, norm in norms.items()}, norms.keys())
        self.position = position
        self.gates = _Gates(gammas)
        self.condition = torch.zeros(0, dtype=torch.int64)  # of each symbol
        self.unsure: list[Tensor] = []

    def symbols(self, conditions: Tensor) -> Tensor:
        """A new symbol for each condition; NaN for one that never holds."""
        first = self.condition.numel()
        self.condition = torch.cat([self.condition, conditions])
        made = _SYMBOL + torch.arange(first, self.condition.numel(), dtype=torch.float64)
        return torch.where(conditions == NEVER, NAN, made)

    def of(self, values: Tensor) -> Tensor:
        """The condition under which each value is a constant."""
        symbol = (values >= _SYMBOL) & (values < 2 * _SYMBOL)
        result = torch.where(values.isnan(), NEVER, ALWAYS)
        result[symbol] = self.condition[(values[symbol] - _SYMBOL).long()]
        return result

    def doubt(self, values: Tensor) -> None:
        """Puts down that a result depends on what these constants are."""
        self.unsure.append(self.of(collapse(values).flatten()))

    def doubtful(self, step: Step, args: Any, kwargs: Any) -> Any:
        """The result counts as varying, and is unsure where anything that goes in is a constant."""
        for values in tensors((args, kwargs)):
            self.doubt(values)
        return self.varying(step, args, kwargs)

    def added(self, site: Site) -> Tensor:
        return self.symbols(torch.full((site.layout.numel(),), ALWAYS))

    def normed(self, norm: Norm, incoming: Tensor) -> Tensor:
        """Constant where gamma is dead, or where what comes in is constant and the norm keeps it so."""
        passed = self.of(incoming) if norm.scale or norm.mean is not None else torch.full_like(incoming, NEVER).long()
        if norm.gamma is not None:
            first = FIRST + self.position[norm.gamma]
            passed = self.gates.either(torch.arange(first, first + passed.numel()), passed)
        return self.symbols(passed)

    def pointwise(self, step: Step, args: Any, kwargs: Any) -> Any:
        named = tensors(kwargs)
        return self.doubtful(step, args, kwargs) if named else super().pointwise(step, args, kwargs)

    def applied(self, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """0 where zeros alone make it, padded ones, and else a symbol for each combination of operands."""
        result = _run(step, like(args, lambda x: torch.where(x == 0, x, NAN)), kwargs)
        rest = result != 0
        operands = [x.expand(rest.shape)[rest] for x in tensors(args)]
        if all(bool(x.isnan().all()) for x in operands):
            return result
        first, place = _distinct(operands)
        made = self.made(_combined(step, args, kwargs), [self.of(x[first]) for x in operands])
        return result.masked_scatter(rest, self.symbols(made)[place])

    def made(self, combined: str, operands: list[Tensor]) -> Tensor:
        """The conditions under which an op on operands that have these gives constants."""
        known = reduce(self.gates.both, operands)
        if combined == "value":
            self.unsure.append(known)
        if combined in ("value", "zero"):  # a zero among operands that vary would give zero
            self.unsure += [condition[condition != known] for condition in operands]
        return known if combined in ("all", "zero") else torch.full_like(known, NEVER)

    def one(self, low: Tensor, high: Tensor) -> Tensor:
        """Unsure where the two differ: whether they are equal is not known. NaN is neither lower nor higher."""
        differ = low < high
        self.unsure.append(self.gates.both(self.of(low[differ]), self.of(high[differ])))
        return super().one(low, high)

    def hidden(self, step: Step, args: Any, out: Any) -> None:
        self.doubt(args[0])

    def zeros(self, values: Tensor) -> Tensor:
        self.doubt(values[values != 0])
        return super().zeros(values)

    def contracted(self, reading: Reading, value: Tensor) -> Tensor:
        groups = self.of(value).view(reading.groups, -1)
        made = self.symbols(reduce(self.gates.both, groups.T.unbind()))
        return made.repeat_interleave(reading.rows.numel() // reading.groups)

    def mixed(self, step: Step, args: Any, kwargs: Any) -> Any:
        return (self.varying if step.effect.apply is None else self.doubtful)(step, args, kwargs)

    def lose(self, step: Step, args: Any, out: Tensor, reason: str) -> None:
        """No reasons are asked for."""


def _distinct(operands: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Where each distinct combination of elements stands first, and which of them each element has."""
    key = torch.zeros_like(operands[0], dtype=torch.int64)
    for x in operands:
        values, place = x.nan_to_num(-_SYMBOL).unique(return_inverse=True)
        key = key * values.numel() + place
    keys, place = key.unique(return_inverse=True)
    every = torch.arange(key.numel())
    return torch.full_like(keys, key.numel()).scatter_reduce(0, place, every, "amin"), place


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
    if not bool(known.all()):
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
