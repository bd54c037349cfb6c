"""Which channels carry a constant, and which constant, at each place where weights read them.

A channel whose gamma is dead emits act(beta) at every position of every example. The graph is interpreted on float64
tensors shaped like the label tensors: the constant, or NaN for a value that varies. A channel can go only where every
weight that reads it reads a constant; the constant then goes into a bias, a running mean or a carrier (plan/absorb.py).

NaN is right for what varies because arithmetic hands it on: a result with a NaN among its operands is NaN. Where it is
not, rules see to it (rules/pointwise.py): whatever an op makes of a NaN, its result is NaN there; 0 * NaN gives 0.
"""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from nrfx.analysis.affine import Affine
from nrfx.analysis.channels import Channels, Step
from nrfx.analysis.positions import moved, with_padding
from nrfx.analysis.reinterpret import arguments, flow, joined_by, like, operands
from nrfx.analysis.varying import NAN, UNKNOWN, all_varying, is_all_varying, one, same
from nrfx.ids import occurrence
from nrfx.labels import (
    NONE,
    all_channels,
    along,
    collapse,
    repeat_one_layout,
    repeated_along,
    repeats_along,
    spread,
    spread_inside,
    varying_part,
)
from nrfx.rules import Family, Norm, Reading, Site, Unfit, tensors


@dataclass(frozen=True)
class Constants:
    """The constants that weights read, and where channels that were constant began to vary.

    Attributes:
        read: key of a weight -> for each call, float64 [columns]: the constant that the column reads, NaN where the
            value varies.
        lost: int64 [channels], the index in `causes` of what first made a constant channel vary, -1 for none.
        causes: sentences, each with its node.
        places: the names of these nodes.
    """

    read: Mapping[str, tuple[Tensor, ...]]
    lost: Tensor
    causes: tuple[str, ...]
    places: tuple[str, ...]


def constants_of(
    channels: Channels, affine: Mapping[str, Affine], weight: Callable[[str], Tensor], bias: Callable[[str], Tensor]
) -> Constants:
    """Propagates the constants of dead channels through every graph.

    Args:
        affine: key of a norm -> its values in eval mode.
        weight, bias: read a parameter by name; only those of grouped convolutions that get constants are read.
    """
    dying = {key for key, norm in affine.items() if bool(norm.dead.any())}
    propagation = Propagation(channels, affine, dying, weight, bias)
    flow(channels, propagation.value)
    return Constants(
        *({name: tuple(rows) for name, rows in propagation.read.items()}, propagation.lost),
        causes=tuple(propagation.causes),
        places=tuple(propagation.places),
    )


def nothing_constant(channels: Channels) -> Constants:
    """The constants of a network without a dead gamma: whatever weights read varies."""
    read: dict[str, tuple[Tensor, ...]] = {}
    for step in channels.steps:
        if (reading := step.effect.reading) is not None:
            read[reading.key] = (*read.get(reading.key, ()), all_varying(reading.cols.shape))
    return Constants(read, torch.full(channels.space_of.shape, -1), (), ())


def _unread(name: str) -> Tensor:
    raise AssertionError(f"{name} is read by no interpretation but that on constants")


class Propagation:
    """One interpretation of the graphs on constants; it fills `read`, `lost`, `causes` and `places`."""

    def __init__(
        self,
        channels: Channels,
        affine: Mapping[str, Callable[[Tensor], Tensor]],
        dying: AbstractSet[str],
        weight: Callable[[str], Tensor] = _unread,
        bias: Callable[[str], Tensor] = _unread,
    ) -> None:
        """Takes the keys of the norms that have dead gammas as `dying`, and else what constants_of takes."""
        self.affine, self.dying, self.weight, self.bias = affine, dying, weight, bias
        self.seen = torch.zeros(channels.space_of.shape, dtype=torch.bool)  # for `lose`, which leaves it all False
        self.channels, self.channel_of = channels, channels.channel_of
        self.labels = {(step.mode, step.node.name): step.effect.out for step in channels.steps}
        self.step_of = {(step.mode, step.node.name): step for step in channels.steps}
        self.read: dict[str, list[Tensor]] = {}
        self.lost = torch.full(channels.space_of.shape, -1)
        self.causes: list[str] = []
        self.places: list[str] = []

    def value(self, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            result = getattr(self, _BY_FAMILY[step.effect.family])(step, args, kwargs)
        except Unfit as error:
            result = self.varying(step, args, kwargs)
            if isinstance(result, Tensor):
                self.lose(step, args, result, f"{step.node.name} cannot be run on its constant ({error})")
        # an op with a dtype of its own (sum(dtype=torch.int64)) rounds, and integers have no NaN
        return like(result, lambda x: x if x.is_floating_point() else all_varying(x.shape))

    def varying(self, step: Step, args: Any, kwargs: Any) -> Any:
        return like(step.effect.out, lambda labels: all_varying(labels.shape))

    def source(self, step: Step, args: Any, kwargs: Any) -> Any:
        """The values of a bias that is only added to channels: they are constants too. All else varies.

        What a parameter multiplies is not followed: a scale that is 0 now may be another one tomorrow.
        """
        out = step.effect.out
        (site,) = step.effect.sites or (None,)
        if site is None or step.node.op != "get_attr" or not self.dying:
            return self.varying(step, args, kwargs)
        if out.numel() != out.shape[site.dim] or not self.is_added(step):
            return self.varying(step, args, kwargs)
        return along(self.added(site), site.dim, out.shape)

    def added(self, site: Site) -> Tensor:
        """The values of a bias."""
        return self.bias(site.parameter).flatten()

    def is_added(self, step: Step) -> bool:
        """Whether all that reads the value, perhaps moved, are additions."""
        steps = (self.step_of[step.mode, user.name] for user in step.node.users)
        return all(each.effect.adds or (each.effect.family in _MOVING and self.is_added(each)) for each in steps)

    def identity(self, step: Step, args: Any, kwargs: Any) -> Any:
        return args[0] if args else next(iter(kwargs.values()))

    def movement(self, step: Step, args: Any, kwargs: Any) -> Any:
        """Where it takes a part of its operand, what the constants are at other places counts too."""
        assert step.effect.apply is not None
        if not (args and isinstance(args[0], Tensor)) or is_all_varying(args[0]):
            return step.effect.apply(*args, **kwargs)
        labels = tensors(operands(step, self.labels))[0], step.effect.out
        made = self.step_of[step.mode, step.node.all_input_nodes[0].name].effect.made_dim
        out, hides = moved(step.effect.apply, args[0], (args[1:], kwargs), labels, NAN, made=made)
        if hides:
            self.hidden(step, args, out)
        return out

    def hidden(self, step: Step, args: Any, out: Any) -> None:
        """Notes that a movement leaves out some of several constants of a channel."""
        if isinstance(out, Tensor):
            reason = f"{step.node.name} takes some positions of it, and its constant is not the same at all of them"
            self.lose(step, args, out, reason)

    def pointwise(self, step: Step, args: Any, kwargs: Any) -> Any:
        """The op itself, run on operands that are cut to size 1 along every dim that repeats."""
        shape = step.effect.out.shape
        if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and args[0].shape == shape:  # nearly always
            if is_all_varying(args[0]):
                return all_varying(shape)
            return _repeated(self.applied(step, (collapse(args[0]),), kwargs), repeats_along(args[0]), shape)
        args, kwargs, sized = self.without_sizes(step, args, kwargs)
        if not kwargs and all(
            isinstance(x, Tensor) and is_all_varying(x) for x in args
        ):  # what varies gives what varies
            return all_varying(shape)
        dims = len(shape)
        small = like(args, lambda x: collapse(x if x.dim() == dims else x.reshape((1,) * (dims - x.dim()) + x.shape)))
        given = tensors(small)
        if len(given) > 1:  # an op that works in place cannot broadcast its first operand to the shape of the others
            common = torch.broadcast_tensors(*given)[0].shape
            small = like(small, lambda x: x.expand(common))
        made = self.applied(step, small, kwargs)
        alone = len(args) == 1 and isinstance(args[0], Tensor)
        out = _repeated(made, repeats_along(args[0]) if alone else None, shape)
        if len(given) > 1:
            self.lose(step, args, out, f"{step.node.name} combines its constant with values that vary")
        elif sized:
            self.lose(step, args, out, f"{step.node.name} combines its constant with a size of the input")
        return out

    def applied(self, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """What a pointwise op makes of constants."""
        assert step.effect.apply is not None
        result: Tensor = step.effect.apply(*args, **kwargs)
        return result

    def without_sizes(self, step: Step, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any], bool]:
        """The arguments with NaN for each number that the graph computes, which is another one at other sizes of the
        input (x / x.shape[2]); and whether there is one.
        """
        given, named = arguments(step.node)
        pairs = (*zip(given, args, strict=True), *((named[name], arg) for name, arg in kwargs.items()))
        computed = [isinstance(node, fx.Node) and type(arg) in (int, float) for node, arg in pairs]
        if not any(computed):
            return args, kwargs, False
        values = [NAN if size else arg for size, (_, arg) in zip(computed, pairs, strict=True)]
        return tuple(values[: len(args)]), dict(zip(kwargs, values[len(args) :], strict=True)), True

    def norm(self, step: Step, args: Any, kwargs: Any) -> Any:
        """The norm of each channel's constant; beta where its gamma is dead, whatever goes in."""
        norm = step.effect.norm
        assert isinstance(norm, Norm)
        if norm.key not in self.dying and is_all_varying(args[0]):
            return all_varying(step.effect.out.shape)
        return along(self.affine[norm.key](self.uniform(args[0], norm.axis)), norm.axis, step.effect.out.shape)

    def pool(self, step: Step, args: Any, kwargs: Any) -> Any:
        """The constant of each channel at the channel's new positions.

        The pool itself is not run: a label's constant is looked up at each element of the output's labels. Labels that
        the pool ties must all have that constant.
        """
        source = args[0] if args else kwargs["input"]
        if bool(collapse(source).isnan().all()):
            return all_varying(step.effect.out.shape)
        plain = tensors(operands(step, self.labels))[0]
        axis = repeats_along(step.effect.out)
        if axis is not None and not step.effect.ties and repeat_one_layout(plain, step.effect.out):  # nearly always
            value = self.uniform(source, axis)
            value = along(value if step.effect.keeps_constants else self.zeros(value), axis, step.effect.out.shape)
            self.lose(step, args[:1], value, f"{step.node.name} averages in the zeros of its padding")
            return value
        labels = with_padding(plain, source, step.effect.out)
        count = self.channel_of.numel()
        table = self.by_label(joined_by(step, labels, count), source)
        if not step.effect.keeps_constants:
            table = self.zeros(table)
        small = joined_by(step, collapse(step.effect.out), count)
        value = torch.where(small >= 0, table[small.clamp(min=0)], NAN).expand(step.effect.out.shape)
        padded = not step.effect.keeps_constants or bool((collapse(labels) == NONE).any()) or labels is not plain
        reason = (
            f"{step.node.name} averages in the zeros of its padding"
            if padded
            else f"{step.node.name} reads it beside channels that are tied to it, and their constants differ"
        )
        self.lose(step, args[:1], value, reason)
        return value

    def grouped(self, step: Step, args: Any, kwargs: Any) -> Any:
        """Constant in, constant out, except where non-zero constants meet the zeros of the padding."""
        reading = step.effect.reading
        assert reading is not None
        value = self.uniform(tensors((args, kwargs))[reading.operand], reading.axis)
        if reading.padded:
            value = self.zeros(value)
        rows = along(self.contracted(reading, value), reading.axis, step.effect.out.shape)
        self.lose(step, args, rows, f"{step.node.name} is a padded convolution and varies its constant at the border")
        return rows

    def contracted(self, reading: Reading, value: Tensor) -> Tensor:
        """float64 [rows]: what a grouped convolution makes of the constants of its columns."""
        # zeros and NaN need no weight: a sum over a group is 0 or NaN. Reading one would wait for the device
        if reading.bias is None and bool((value.isnan() | (value == 0)).all()):
            if reading.groups == value.numel() == reading.rows.numel():
                return value
            by_group = value.view(reading.groups, -1).sum(1)
            return by_group.repeat_interleave(reading.rows.numel() // reading.groups)
        assert reading.weight is not None
        # over a constant map the kernel acts as the sum of its elements
        weight = reading.by_rows(self.weight(reading.weight)).flatten(2).sum(2)  # [rows, columns of a group]
        groups = value.numel() // weight.shape[1]
        rows = torch.einsum("goi,gi->go", weight.view(groups, -1, weight.shape[1]), value.view(groups, -1)).flatten()
        return rows if reading.bias is None else rows + self.bias(reading.bias)

    def mixed(self, step: Step, args: Any, kwargs: Any) -> Any:
        """NaN for an op that mixes channels; one that mixes positions alone has an `apply` and keeps constants."""
        if step.effect.apply is not None and not all(bool(collapse(x).isnan().all()) for x in tensors(args)):
            out = step.effect.apply(*args, **kwargs)
            reason = f"{step.node.name} makes of its constant what depends on the number of positions"
        else:
            out = self.varying(step, args, kwargs)
            reason = f"{step.node.name} mixes it with what varies"
        if isinstance(out, Tensor):
            self.lose(step, args, out, reason)
        return out

    def contraction(self, step: Step, args: Any, kwargs: Any) -> Any:
        reading = step.effect.reading
        assert reading is not None
        values = tensors((args, kwargs))[reading.operand]
        read = self.read.setdefault(reading.key, [])
        if is_all_varying(values):  # nearly always
            read.append(all_varying(reading.cols.shape))
            return self.varying(step, args, kwargs)
        vector = repeated_along(values, reading.axis)
        labels = tensors(operands(step, self.labels))[reading.operand]
        if vector is not None and vector.shape == reading.cols.shape and all_channels(labels):
            read.append(vector)
            return self.varying(step, args, kwargs)
        if reading.padded and self.padded_alike(labels, reading):
            rows = spread_inside(values, labels, reading.axis, 0.0)
        else:
            rows = spread(values, reading.axis)
        read.append(same(reading.by_columns(rows), self.one))
        return self.varying(step, args, kwargs)

    def padded_alike(self, labels: Tensor, reading: Reading) -> bool:
        """Whether the zeros among the labels stand at the same places for all channels of a space, column by column:
        a carrier then reads the same map of ones and zeros as those that it stands for.
        """
        if not bool((collapse(labels) == NONE).any()):
            return True
        known = reading.cols >= 0
        channel = self.channel_of[reading.cols[known]]
        column = torch.stack([self.channels.space_of[channel], occurrence(channel)])
        _, kind = torch.unique(column, dim=1, return_inverse=True)
        zeros = reading.by_columns(spread(labels, reading.axis) == NONE)[known]
        place = torch.arange(kind.numel())
        first = torch.full_like(place, kind.numel()).scatter_reduce(0, kind, place, "amin")
        return bool((zeros == zeros[first[kind]]).all())

    def one(self, low: Tensor, high: Tensor) -> Tensor:
        return one(low, high)

    def zeros(self, values: Tensor) -> Tensor:
        """Zeros as they are, NaN for other constants, which an op makes vary."""
        return torch.where(values == 0, values, UNKNOWN)

    def uniform(self, values: Tensor, axis: int) -> Tensor:
        """The one value that each index of `axis` has at all its positions; NaN where they differ."""
        vector = repeated_along(values, axis)
        if vector is not None:  # nearly always
            return vector
        if is_all_varying(values):
            return all_varying(values.shape[axis : axis + 1])
        return same(spread(values, axis), self.one)

    def by_label(self, labels: Tensor, values: Tensor) -> Tensor:
        """[highest label + 1] float64: the constant of each label; NaN where an element varies, or where two differ."""
        small, value = torch.broadcast_tensors(collapse(labels), collapse(values))
        ids, value = small.reshape(-1), value.reshape(-1)
        known = ids >= 0
        size = int(ids.max()) + 1 if ids.numel() and bool(known.any()) else 1
        # labels that do not occur keep inf and -inf, which differ; amin and amax hand a NaN on
        low = torch.full((size,), torch.inf).double().scatter_reduce(0, ids[known], value[known], "amin")
        high = torch.full((size,), -torch.inf).double().scatter_reduce(0, ids[known], value[known], "amax")
        return self.one(low, high)

    def lose(self, step: Step, args: Any, out: Tensor, reason: str) -> None:
        """Records the channels that were constant in an operand and vary in the result."""
        given = tensors(args)
        if all(map(is_all_varying, given)):
            return
        layout, varies = _small(step.effect.out, out)
        varies = varies.isnan()
        names = tensors(operands(step, self.labels)[0])
        small = [_small(labels, values) for labels, values in zip(names, given, strict=True)]
        before = [(labels, values.isnan()) for labels, values in small]
        if all(labels is layout and torch.equal(varied, varies) for labels, varied in before):
            return
        # `seen` marks the channels that some operand holds as a constant; a set would need a Python loop over channels
        known = torch.cat([self.where(labels, ~varied) for labels, varied in before])
        after = self.where(layout, varies)
        self.seen.index_fill_(0, known, True)
        lost = after[self.seen[after] & (self.lost[after] < 0)]
        self.seen.index_fill_(0, known, False)
        if lost.numel():
            self.lost[lost] = len(self.causes)
            self.causes.append(reason)
            self.places.append(step.node.name)

    def where(self, labels: Tensor, chosen: Tensor) -> Tensor:
        """The channels with a chosen element, some perhaps several times; of labels and truths that broadcast."""
        small, mask = (labels, chosen) if labels.shape == chosen.shape else torch.broadcast_tensors(labels, chosen)
        return self.channel_of[small[mask & (small >= 0)]]


def _small(labels: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The labels and their values, which broadcast, without what repeats: vectors where both repeat along one dim."""
    axis = repeats_along(labels)
    vector = None if axis is None else repeated_along(values, axis)
    layout = varying_part(labels)
    if vector is not None and vector.shape == layout.shape:
        return layout, vector
    return collapse(labels), collapse(values)


def _repeated(made: Tensor, axis: int | None, shape: torch.Size) -> Tensor:
    """A value that an op made of one that repeats a vector along the axis, in that shape; noted where it does too."""
    if axis is not None and made.dim() == len(shape) and made.numel() == made.shape[axis] == shape[axis]:
        return along(made.reshape(-1), axis, shape)
    return made.expand(shape)


_MOVING = (Family.MOVEMENT, Family.IDENTITY)

_BY_FAMILY: dict[Family, str] = {
    Family.SOURCE: "source",
    Family.UNKNOWN: "varying",
    Family.SINK: "varying",
    Family.IDENTITY: "identity",
    Family.MOVEMENT: "movement",
    Family.POINTWISE: "pointwise",
    Family.NORM: "norm",
    Family.POOL: "pool",
    Family.GROUPED: "grouped",
    Family.MIXED: "mixed",
    Family.CONTRACTION: "contraction",
}
"""The method that interprets the ops of each family."""
