"""Neural rescaling: small gammas of survivors go back to the initial level, and weights that read them shrink as much.

    abs(gamma') = max(abs(gamma), gamma0)      s = gamma' / gamma      beta' = s beta      W'[:, i] = W[:, i] / s_i

s is positive, for gamma keeps its sign. So this is exact through ops with op(s x) = s op(x) for s > 0, and no others.
The graph is interpreted on tensors that hold, for each element, the id of the gamma that scales it. A gamma keeps its
size (its factor is 1) where its values meet another op, values of another gamma, a norm or the output.

Source: Neural Rejuvenation, Sec. 3.2, "Neural rescaling". The paper does not scale beta; relu(s x) = s relu(x) needs
it.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels, Step
from nrfx.analysis.liveness import Liveness
from nrfx.analysis.positions import moved
from nrfx.analysis.reinterpret import flow, joined_by, like, operands
from nrfx.ids import among
from nrfx.labels import along, collapse, spread_inside
from nrfx.rules import Family, Reading, tensors

ONE = -1
"""No gamma: stands in the place of an id, and has the factor 1."""
_ONE = torch.full((), ONE)
SEVERAL = -2
"""In the place of an id: several gammas at the positions of one channel."""


@dataclass(frozen=True)
class Rescaling:
    """The factors of a rescaling.

    Attributes:
        gammas: gamma parameter -> float64 of its shape, the factor s of each gamma and its beta.
        columns: key of a weight -> float64 [columns], the factor that each column is divided by.
        rows: the same for the rows of a depthwise weight, each of which reads one channel.
        notes: the gammas that stay below gamma0, and why.
    """

    gammas: Mapping[str, Tensor]
    columns: Mapping[str, Tensor]
    rows: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()


NOT_RESCALED = Rescaling({}, {}, {})


def rescaling(
    channels: Channels,
    liveness: Liveness,
    carriers: Tensor,
    gamma0: Callable[[str], float],
    streams: bool,
    limit: float = inf,
) -> Rescaling:
    """The factors that bring every gamma that may be scaled to at least gamma0 in size, signs kept.

    Args:
        carriers: bool [channels].
        gamma0: the initial level of each gamma parameter, by name.
        streams: whether gammas on residual streams keep their size.
        limit: the largest factor. A gamma that needs a larger one is raised by so much.
    """
    tracking = tracked(channels)
    eligible = _eligible(channels, liveness, carriers, tracking, streams)
    factor = torch.ones(tracking.count).double()
    for name, ids in tracking.ids.items():
        gamma = liveness.affine[tracking.key_of[name]].gamma.abs()
        small = eligible.may[ids] & (gamma > 0) & (gamma < gamma0(name))
        needed = gamma0(name) / torch.where(small, gamma, 1.0)
        factor[ids] = torch.where(small, needed.clamp(max=limit), factor[ids])
    table = torch.cat([factor, torch.ones(1).double()])  # ONE is the last entry
    return Rescaling(
        {name: factor[ids] for name, ids in tracking.ids.items()},
        {key: table[ids] for key, ids in tracking.columns.items()},
        {key: table[ids] for key, ids in tracking.rows.items()},
        _notes(channels, liveness, tracking, eligible, gamma0),
    )


def tracked(channels: Channels) -> "Tracking":
    """Which gamma scales each column of each weight, and which gammas have values that anything but a weight reads."""
    tracking = Tracking(channels)
    flow(channels, tracking.value)
    return tracking


@dataclass
class Tracking:
    """One interpretation of the graphs on ids of gammas, which fills these fields.

    Attributes:
        count: ids so far.
        ids: gamma parameter -> int64 of its shape, the id of each element.
        key_of: gamma parameter -> the key of its norm.
        columns: key of a weight -> int64 [columns], the gamma that scales each column, ONE for none.
        rows: the same for the rows of a depthwise weight.
        bars: ids, and why their gammas cannot be scaled; of several reasons of one the first counts.
        behind: the ids that a relu or a maximum gets, so that a factor must not be negative.
    """

    channels: Channels
    count: int = 0
    ids: dict[str, Tensor] = field(default_factory=dict)
    key_of: dict[str, str] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)
    bars: list[tuple[Tensor, str]] = field(default_factory=list)
    behind: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.labels = {(step.mode, step.node.name): step.effect.out for step in self.channels.steps}
        visits = Counter((step.mode, step.effect.norm.key) for step in self.channels.steps if step.effect.norm)
        self.shared = {key for (_, key), times in visits.items() if times > 1}

    def value(self, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if step.effect.positive_only:
            self.behind += tensors((args, kwargs))
        return _BY_FAMILY[step.effect.family](self, step, args, kwargs)

    @property
    def positive(self) -> set[int]:
        """The ids of gammas whose factor must not be negative."""
        return {index for ids in self.behind for index in collapse(ids).unique().tolist()}

    @property
    def barred(self) -> dict[int, str]:
        """Id -> why its gamma cannot be scaled."""
        return {index: reason for ids, reason in reversed(self.bars) for index in ids.tolist()}

    def bar(self, ids: Tensor, reason: str) -> None:
        small = collapse(ids)
        barred = small[small >= 0]
        if barred.numel():
            self.bars.append((barred, reason))

    def barring(self, step: Step, args: Any, kwargs: Any) -> Any:
        """For an op that does not scale with its inputs: their gammas are barred, its output has the factor 1."""
        for ids in tensors((args, kwargs)):
            self.bar(ids, f"{_title(step)} follows")
        return self.unscaled(step)

    def unscaled(self, step: Step) -> Any:
        """A value that no gamma scales, in the memory of one element."""
        return like(step.effect.out, lambda labels: _ONE.as_strided(labels.shape, (0,) * labels.dim()))

    def identity(self, step: Step, args: Any, kwargs: Any) -> Any:
        return args[0] if args else next(iter(kwargs.values()))

    def movement(self, step: Step, args: Any, kwargs: Any) -> Any:
        if not step.effect.homogeneous:
            return self.barring(step, args, kwargs)
        assert step.effect.apply is not None
        if not isinstance(args[0], Tensor):
            return step.effect.apply(*args, **kwargs)
        labels = tensors(operands(step, self.labels))[0], step.effect.out
        out, hides = moved(step.effect.apply, args[0], (args[1:], kwargs), labels, SEVERAL, ONE)
        if not hides:
            return out
        self.bar(args[0], f"{_title(step)} takes some positions of it, beside values of another")
        return step.effect.apply(*args, **kwargs)

    def pointwise(self, step: Step, args: Any, kwargs: Any) -> Any:
        """Hands an id on where all operands have the same one; operands that meet others are barred."""
        if not step.effect.homogeneous:
            return self.barring(step, args, kwargs)
        shape = step.effect.out.shape
        small = [collapse(ids.reshape((1,) * (len(shape) - ids.dim()) + ids.shape)) for ids in tensors((args, kwargs))]
        first, *others = torch.broadcast_tensors(*small)
        differs = torch.stack([other != first for other in others]).any(0) if others else torch.zeros_like(first).bool()
        for ids in (first, *others):
            self.bar(ids[differs], f"{_title(step)} joins it with another")
        return torch.where(differs, ONE, first).expand(shape)

    def norm(self, step: Step, args: Any, kwargs: Any) -> Any:
        """Gives each channel the id of its gamma, and bars the gammas of the norm's own input."""
        norm = step.effect.norm
        assert norm is not None
        self.bar(tensors((args, kwargs))[0], f"the norm {norm.path} follows")
        width = norm.layout.numel()
        if norm.gamma is None:
            return along(torch.full((width,), ONE), norm.axis, step.effect.out.shape)
        if norm.gamma not in self.ids:
            self.ids[norm.gamma] = torch.arange(self.count, self.count + width)
            self.key_of[norm.gamma] = norm.key
            self.count += width
        if norm.key in self.shared:
            self.bar(self.ids[norm.gamma], f"{norm.path} is called more than once")
        if {norm.gamma, norm.beta} & self.channels.shared:
            self.bar(self.ids[norm.gamma], f"{norm.gamma} or its beta is read elsewhere too")
        return along(self.ids[norm.gamma], norm.axis, step.effect.out.shape)

    def pool(self, step: Step, args: Any, kwargs: Any) -> Any:
        """Gives each element of the output the id of its label in the input, if all elements of the label have it."""
        count = self.channels.channel_of.numel()
        labels = joined_by(step, tensors(operands(step, self.labels))[0], count)
        source, labels = torch.broadcast_tensors(collapse(tensors((args, kwargs))[0]), collapse(labels))
        source, labels = source.reshape(-1), labels.reshape(-1)
        # The gamma of each label; the last entry is for negative ones. Where a label has several gammas any of them is
        # written, and all of its elements with another are found as `mixed`.
        table = torch.full((count + 1,), ONE)
        table[labels[labels >= 0]] = source[labels >= 0]
        moved = table[labels.clamp(min=-1)]
        self.bar(source[labels < 0], f"{_title(step)} follows")
        mixed = (labels >= 0) & (moved != source)
        self.bar(torch.cat([source[mixed], moved[mixed]]), f"{_title(step)} mixes it with another")
        out = joined_by(step, collapse(step.effect.out), count)
        return torch.where(out >= 0, table[out.clamp(min=-1)], ONE).expand(step.effect.out.shape)

    def contraction(self, step: Step, args: Any, kwargs: Any) -> Any:
        reading = step.effect.reading
        assert reading is not None
        self.record(self.columns, reading, step, tensors((args, kwargs))[reading.operand])
        return self.unscaled(step)

    def grouped(self, step: Step, args: Any, kwargs: Any) -> Any:
        """A depthwise weight is divided by rows. In a larger group a row reads several channels: these are barred."""
        reading = step.effect.reading
        assert reading is not None
        if reading.cols is not reading.rows:
            return self.barring(step, args, kwargs)
        self.record(self.rows, reading, step, tensors((args, kwargs))[reading.operand])
        return self.unscaled(step)

    def record(self, into: dict[str, Tensor], reading: Reading, step: Step, value: Tensor) -> None:
        """Remembers which gamma scales each column; it must be the same one at all positions and in every visit.

        Padded zeros are zeros at any scale.
        """
        labels = tensors(operands(step, self.labels))[reading.operand]
        key, rows = reading.key, reading.by_columns(spread_inside(value, labels, reading.axis, ONE))
        self.bar(rows[(rows != rows[:, :1]).any(1)], f"{_title(step)} reads it together with another")
        ids = rows[:, 0].contiguous()
        if reading.weight in self.channels.shared:
            self.bar(ids, f"{reading.weight} is read elsewhere too")
        if key in into:
            differs = into[key] != ids
            self.bar(torch.cat([into[key][differs], ids[differs]]), f"{_title(step)} is called more than once")
        else:
            into[key] = ids


def _title(step: Step) -> str:
    return step.path if step.node.op == "call_module" else step.node.name


_BY_FAMILY: dict[Family, Callable[[Tracking, Step, Any, Any], Any]] = {
    Family.SOURCE: Tracking.barring,
    Family.UNKNOWN: Tracking.barring,
    Family.SINK: Tracking.barring,
    Family.IDENTITY: Tracking.identity,
    Family.MOVEMENT: Tracking.movement,
    Family.POINTWISE: Tracking.pointwise,
    Family.NORM: Tracking.norm,
    Family.POOL: Tracking.pool,
    Family.GROUPED: Tracking.grouped,
    Family.MIXED: Tracking.barring,
    Family.CONTRACTION: Tracking.contraction,
}


@dataclass(frozen=True)
class _Eligible:
    """Which gammas may be scaled, and why others may not. Those that go, carriers and dead ones need no reason.

    Attributes:
        may: bool [ids], whether the gamma may be scaled.
        why: int64 [ids], the index in `reasons`, -1 for none.
        reasons: each text once.
    """

    may: Tensor
    why: Tensor
    reasons: tuple[str, ...]


def _eligible(channels: Channels, liveness: Liveness, carriers: Tensor, tracking: Tracking, streams: bool) -> _Eligible:
    """Which gammas may be scaled. What lies on a stream is told so, whatever else bars it; a zero only where nothing
    else does.
    """
    may = torch.zeros(tracking.count, dtype=torch.bool)
    texts = ("gamma is 0", "it lies on a residual stream", *(reason for _, reason in tracking.bars))
    code = {text: index for index, text in enumerate(dict.fromkeys(texts))}
    why, on_stream = torch.full((tracking.count,), -1), torch.zeros(tracking.count, dtype=torch.bool)
    stream = torch.tensor([space.stream and streams for space in channels.spaces], dtype=torch.bool)
    stays = liveness.live & ~carriers
    for name, ids in tracking.ids.items():
        layout = channels.norms[name]
        channel = channels.channels_along(layout)
        on_stream[ids] = among(channels.spaces_along(layout), stream)
        why[ids[liveness.affine[tracking.key_of[name]].gamma == 0]] = code["gamma is 0"]
        may[ids] = ((channel < 0) | among(channel, stays)) & ~liveness.gamma_dead[name]
    for ids, reason in reversed(tracking.bars):
        why[ids] = code[reason]
    why[on_stream] = code["it lies on a residual stream"]
    return _Eligible(may & (why < 0), why, tuple(code))


def _notes(
    channels: Channels,
    liveness: Liveness,
    tracking: Tracking,
    eligible: _Eligible,
    gamma0: Callable[[str], float],
) -> tuple[str, ...]:
    """For each norm and reason, a sentence with the number of live gammas that stay below gamma0."""
    lines = []
    for name, ids in tracking.ids.items():
        gamma = liveness.affine[tracking.key_of[name]].gamma.abs()
        channel = channels.channels_along(channels.norms[name])
        stays = (channel < 0) | among(channel, liveness.live)
        small = stays & ~liveness.gamma_dead[name] & (gamma < gamma0(name)) & (eligible.why[ids] >= 0)
        for why, count in Counter(eligible.why[ids[small]].tolist()).items():
            lines.append(f"{name}: {count} gammas below {gamma0(name):g} not rescaled: {eligible.reasons[why]}.")
    return tuple(lines)
