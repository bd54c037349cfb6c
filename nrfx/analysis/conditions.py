"""Under which dead gammas each column of a weight reads a constant, whatever that constant is.

The graph is interpreted as in constants.py, on symbols in the place of constants: a symbol stands for one value that is
not known yet, and has a condition, a formula of the gammas that must be dead for it to be a constant. A norm gives
"its gamma is dead, or its input is constant", an addition "both are constant". What is dead can then be told from the
gammas alone, again and again, without a walk over the graph.

Some ops look at the value: zero times what varies is zero, a padded depthwise convolution keeps a zero alone, the
logarithm of a negative number is none. There the result counts as varying, and the condition under which it might not
is put down as `unsure`: as soon as one of these holds, constants.py must be asked.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from nrfx.analysis.channels import Channels, Step
from nrfx.analysis.constants import NAN, uniform_rows, with_padding
from nrfx.analysis.reinterpret import flow, joined_by, like, operands
from nrfx.labels import along, among, collapse, spread, spread_inside
from nrfx.rules import Family, Norm, Unfit, tensors

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
    propagation = _Propagation(channels, position, gammas)
    flow(channels, propagation.value)
    none = torch.zeros(0, dtype=torch.int64)
    labels, read = (torch.cat([none, *part]) for part in (propagation.labels, propagation.read))
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


class _Propagation:
    """One interpretation of the graphs on symbols; it fills `labels`, `read` and `unsure`."""

    def __init__(self, channels: Channels, position: Mapping[str, int], gammas: int) -> None:
        self.channels, self.position = channels, position
        self.gates = _Gates(gammas)
        self.condition: list[int] = []  # of each symbol
        self.outs = {(step.mode, step.node.name): step.effect.out for step in channels.steps}
        self.labels: list[Tensor] = []
        self.read: list[Tensor] = []
        self.unsure: set[int] = set()

    def value(self, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return _BY_FAMILY[step.effect.family](self, step, args, kwargs)
        except Unfit:
            return self.doubtful(step, args, kwargs)

    def symbol(self, condition: int) -> float:
        """A new symbol; NaN for a condition that never holds."""
        if condition == NEVER:
            return NAN
        self.condition.append(condition)
        return _SYMBOL + len(self.condition) - 1

    def of(self, value: float) -> int:
        """The condition under which a value is a constant."""
        if isnan(value):
            return NEVER
        return self.condition[int(value - _SYMBOL)] if _SYMBOL <= value < 2 * _SYMBOL else ALWAYS

    def doubt(self, values: Tensor) -> None:
        """Puts down that a result depends on what these constants are."""
        self.unsure |= {self.of(value) for value in collapse(values).unique().tolist()}

    def varying(self, step: Step, args: Any, kwargs: Any) -> Any:
        return like(step.effect.out, lambda labels: _UNKNOWN.view((1,) * labels.dim()).expand(labels.shape))

    def doubtful(self, step: Step, args: Any, kwargs: Any) -> Any:
        """The result counts as varying, and is unsure where anything that goes in is a constant."""
        for values in tensors((args, kwargs)):
            self.doubt(values)
        return self.varying(step, args, kwargs)

    def identity(self, step: Step, args: Any, kwargs: Any) -> Any:
        return args[0] if args else next(iter(kwargs.values()))

    def movement(self, step: Step, args: Any, kwargs: Any) -> Any:
        assert step.effect.apply is not None
        return step.effect.apply(*args, **kwargs)

    def pointwise(self, step: Step, args: Any, kwargs: Any) -> Any:
        given = tensors(args)
        if tensors(kwargs):
            return self.doubtful(step, args, kwargs)
        if all(bool(collapse(x).isnan().all()) for x in given):
            return self.varying(step, args, kwargs)
        shape = step.effect.out.shape
        small = like(args, lambda x: collapse(x.reshape((1,) * (len(shape) - x.dim()) + x.shape)))
        common = torch.broadcast_tensors(*tensors(small))[0].shape
        small = like(small, lambda x: x.expand(common))
        combined = _combined(step, small, kwargs)
        values = torch.stack([x.reshape(-1) for x in tensors(small)])
        distinct, place = torch.unique(values.nan_to_num(-_SYMBOL), dim=1, return_inverse=True)
        made = [self._made(combined, column) for column in distinct.T.tolist()]
        assert step.effect.apply is not None
        plain = step.effect.apply(*like(small, lambda x: torch.where(x >= _SYMBOL, NAN, x)), **kwargs).expand(common)
        known = plain.abs() < _SYMBOL  # made of numbers that stand for themselves
        result = torch.where(known, plain, torch.tensor(made, dtype=torch.float64)[place].view(common))
        return result.expand(shape)

    def _made(self, combined: str, operands: list[float]) -> float:
        """The value that an op gives for these operands, of which at least one is a symbol or varies."""
        conditions = [NEVER if value == -_SYMBOL else self.of(value) for value in operands]
        known = ALWAYS
        for condition in conditions:
            known = self.gates.both(known, condition)
        if combined == "value":
            self.unsure.add(known)
        if combined == "zero":  # a zero among operands that vary would give zero
            self.unsure |= {condition for condition in conditions if condition != known}
        return self.symbol(known) if combined in ("all", "zero") else NAN

    def norm(self, step: Step, args: Any, kwargs: Any) -> Any:
        norm = step.effect.norm
        assert isinstance(norm, Norm)
        incoming = self.agreed(spread(args[0], norm.axis)).tolist()
        first = None if norm.gamma is None else self.position[norm.gamma]
        made = []
        for index, value in enumerate(incoming):
            passed = self.of(value) if norm.scale or norm.mean is not None else NEVER
            dead = NEVER if first is None else 2 + first + index
            made.append(self.symbol(self.gates.either(dead, passed)))
        return along(torch.tensor(made, dtype=torch.float64), norm.axis, step.effect.out.shape)

    def pool(self, step: Step, args: Any, kwargs: Any) -> Any:
        source = args[0] if args else kwargs["input"]
        if bool(collapse(source).isnan().all()):
            return self.varying(step, args, kwargs)
        labels = with_padding(tensors(operands(step, self.outs))[0], source, step.effect.out)
        count = self.channels.channel_of.numel()
        table = self.by_label(joined_by(step, labels, count), source)
        small = joined_by(step, collapse(step.effect.out), count)
        value = torch.where(small >= 0, table[small.clamp(min=0)], NAN)
        if not step.effect.keeps_constants:
            self.doubt(value[value != 0])
            value = torch.where(value == 0, value, NAN)
        return value.expand(step.effect.out.shape)

    def by_label(self, labels: Tensor, values: Tensor) -> Tensor:
        """[highest label + 1] float64: the value of each label, as `agreed` of all its elements."""
        small, value = torch.broadcast_tensors(collapse(labels), collapse(values))
        known = small >= 0
        pairs = torch.unique(torch.stack([small[known].double(), value[known].nan_to_num(-_SYMBOL)]), dim=1)
        size = int(pairs[0].max()) + 1 if pairs.numel() else 1
        table = torch.full((size,), NAN, dtype=torch.float64)
        ids, place, times = torch.unique_consecutive(pairs[0].long(), return_inverse=True, return_counts=True)
        single = times[place] == 1
        table[pairs[0, single].long()] = torch.where(pairs[1, single] == -_SYMBOL, NAN, pairs[1, single])
        for label in ids[times > 1].tolist():
            table[label] = self._one(pairs[1, pairs[0] == label].tolist())
        return table

    def agreed(self, rows: Tensor) -> Tensor:
        """The one value of each row; NaN, and unsure, where it has several."""
        if rows.shape[1] == 1:
            return rows[:, 0]
        result = uniform_rows(rows)
        for index in (result.isnan() & ~rows.isnan().any(1)).nonzero().flatten().tolist():
            self._one(rows[index].unique().tolist())
        return result

    def _one(self, values: list[float]) -> float:
        """NaN for several values: whether they are equal is not known, and it matters where all are constant."""
        known = ALWAYS
        for value in values:
            known = self.gates.both(known, NEVER if value == -_SYMBOL else self.of(value))
        self.unsure.add(known)
        return NAN

    def grouped(self, step: Step, args: Any, kwargs: Any) -> Any:
        reading = step.effect.reading
        assert reading is not None
        value = self.agreed(spread(tensors((args, kwargs))[reading.operand], reading.axis))
        if reading.padded:
            self.doubt(value[value != 0])
            value = torch.where(value == 0, value, NAN)
        made = []
        for group in value.view(reading.groups, -1).tolist():
            known = ALWAYS
            for column in group:
                known = self.gates.both(known, self.of(column))
            zero = reading.bias is None and not any(group)
            made += [0.0 if zero else self.symbol(known) for _ in range(reading.rows.numel() // reading.groups)]
        return along(torch.tensor(made, dtype=torch.float64), reading.axis, step.effect.out.shape)

    def mixed(self, step: Step, args: Any, kwargs: Any) -> Any:
        """A channel that is constant over the positions that the op mixes stays so."""
        given = tensors((args, kwargs))
        out = step.effect.out
        labels = tensors(operands(step, self.outs))[:1]
        if all(bool(collapse(x).isnan().all()) for x in given):
            return self.varying(step, args, kwargs)
        if step.effect.apply is None:
            return self.varying(step, args, kwargs)
        if len(given) != 1 or not isinstance(out, Tensor) or not self._keeps_apart(step, labels[0], args, kwargs):
            return self.doubtful(step, args, kwargs)
        table = self.by_label(labels[0], given[0])
        fresh = {value: self.symbol(self.of(value)) for value in table.unique().tolist() if not isnan(value)}
        new = torch.tensor([fresh.get(value, NAN) for value in table.tolist()], dtype=torch.float64)
        small = collapse(out)
        return torch.where(small >= 0, new[small.clamp(min=0)], NAN).expand(out.shape)

    def _keeps_apart(self, step: Step, labels: Tensor, args: Any, kwargs: Any) -> bool:
        """Whether each element of the result is finite, and made of elements with its own label alone: by a trial in
        which the odd labels vary.
        """
        if bool((collapse(labels) < 0).any()):
            return False
        return all(
            self._tried(step, torch.where(labels % 2 == odd, NAN, 1.0 + labels), odd, args, kwargs) for odd in (0, 1)
        )

    def _tried(self, step: Step, trial: Tensor, odd: int, args: Any, kwargs: Any) -> bool:
        assert step.effect.apply is not None
        given, named = tree_map_only(Tensor, lambda _: trial.double(), (args, kwargs))
        result = step.effect.apply(*given, **named)
        varies = (step.effect.out % 2 == odd).expand_as(result) if isinstance(result, Tensor) else None
        return varies is not None and torch.equal(result.isnan(), varies)

    def contraction(self, step: Step, args: Any, kwargs: Any) -> Any:
        reading = step.effect.reading
        assert reading is not None
        values = tensors((args, kwargs))[reading.operand]
        labels = tensors(operands(step, self.outs))[reading.operand]
        inside = spread_inside(values, labels, reading.axis, 0.0) if reading.padded else spread(values, reading.axis)
        if reading.padded and bool((collapse(labels) < 0).any()):
            self.doubt(values)  # constants.py compares where the zeros stand
        read = self.agreed(reading.by_columns(inside)).tolist()
        self.labels.append(reading.cols)
        self.read.append(torch.tensor([self.of(value) for value in read], dtype=torch.int64))
        return self.varying(step, args, kwargs)


def _combined(step: Step, args: Any, kwargs: dict[str, Any]) -> str:
    """How the values of the operands decide whether a pointwise op gives a constant, found by trial.

    all     constant where all operands are, whatever they are
    zero    so, and perhaps where one of them is zero and others vary
    value   it depends on the values
    never   never
    """
    apply, count = step.effect.apply, len(tensors(args))
    assert apply is not None

    def run(*operands: float) -> float:
        given = iter([torch.full((1,), value, dtype=torch.float64) for value in operands])
        return float(apply(*like(args, lambda _: next(given)), **kwargs).reshape(-1)[0])

    trials = [[value] * count for value in _PROBE]
    trials += [[value, *([other] * (count - 1))] for value in _PROBE for other in _PROBE if count > 1]
    known = [abs(run(*trial)) < _SYMBOL for trial in trials]
    if not any(known):
        return "never"
    if not all(known) or step.effect.undefined:
        return "value"
    varied = [run(*trial[:index], NAN, *trial[index + 1 :]) for trial in trials for index in range(count)]
    return "all" if all(isnan(value) for value in varied) else "zero"


_UNKNOWN = torch.full((), NAN, dtype=torch.float64)

_BY_FAMILY: dict[Family, Callable[[_Propagation, Step, Any, Any], Any]] = {
    Family.SOURCE: _Propagation.varying,
    Family.UNKNOWN: _Propagation.varying,
    Family.SINK: _Propagation.varying,
    Family.IDENTITY: _Propagation.identity,
    Family.MOVEMENT: _Propagation.movement,
    Family.POINTWISE: _Propagation.pointwise,
    Family.NORM: _Propagation.norm,
    Family.POOL: _Propagation.pool,
    Family.GROUPED: _Propagation.grouped,
    Family.MIXED: _Propagation.mixed,
    Family.CONTRACTION: _Propagation.contraction,
}
