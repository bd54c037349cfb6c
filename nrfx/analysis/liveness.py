"""Which channels are dead: a gamma near 0 makes them a constant for every weight that reads them.

    gamma-dead    abs(gamma) < threshold * max abs(gamma) of its layer
    dead          gamma-dead, free, and constant at every weight that reads it: it can go without changing the function
    held          gamma-dead but kept, with the reason; live in every cost

Source: Neural Rejuvenation, Sec. 3.1.1. There every gamma-dead channel is dropped; here a channel is held where it is
not constant, where another of its gammas is alive, and where its space is pinned or lies on a residual stream.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import get_args

import torch
from torch import Tensor, nn

from nrfx.analysis.affine import Affine
from nrfx.analysis.channels import Channels
from nrfx.analysis.constants import Constants, constants_of, nothing_constant
from nrfx.analysis.given_up import GivenUp
from nrfx.analysis.names import named_tensors
from nrfx.analysis.spaces import channels_of
from nrfx.analysis.taught import taught
from nrfx.choices import Residual
from nrfx.errors import AnalysisError
from nrfx.ids import among, joined
from nrfx.rules import Family, Norm
from nrfx.tracing import TracedModule
from nrfx.tracing.graph.registered import registered

ALL_DEAD = 1e-3
"""A layer whose largest abs(gamma) is below this is dead as a whole; its strongest channel is kept."""

ELSEWHERE = "alive on another path, or for another norm that reads it"
IN_GROUP = "others in its group are alive, and a group goes only as a whole"
"""The reason of a gamma-dead channel that a group norm, or another tie, makes one channel with others."""


@dataclass(frozen=True)
class Held:
    """Gamma-dead channels that are kept for one reason.

    `gamma` is the parameter, `indices` their positions in it (int64), `channels` the channels there.
    """

    gamma: str
    reason: str
    indices: Tensor
    channels: Tensor


@dataclass(frozen=True)
class Liveness:
    """Which channels stay, and why.

    Attributes:
        live: bool [channels], whether the channel stays.
        gamma_dead: gamma parameter -> bool of its shape, whether the gamma is dead.
        held: gamma-dead channels that stay, by gamma parameter and reason.
        affine: key of a norm -> its values in eval mode.
        constants: the constants that weights read once dead gammas count as 0.
        notes: sentences on layers and spaces of which all channels are dead.
        threshold, residual: as they were given.
        given_up: what stands for the channels that a criterion gives up (criterion.py); None where gammas decide.
    """

    live: Tensor
    gamma_dead: Mapping[str, Tensor]
    held: tuple[Held, ...]
    affine: Mapping[str, Affine]
    constants: Constants
    notes: tuple[str, ...]
    threshold: float
    residual: Residual
    given_up: GivenUp | None = None


def liveness_of(
    traced: TracedModule,
    channels: Channels,
    threshold: float = 0.01,
    residual: Residual = "live",
    hold: Mapping[int, str] | None = None,
) -> Liveness:
    """The liveness of every channel, from the values of the gammas (fetched from the device at once).

    Args:
        threshold: relative to the largest abs(gamma) of the same layer, in [0, 1).
        residual: "live" and "fixed" keep the channels of streams, "coupled" lets one die when all its gammas are dead.
        hold: further channels to keep, with the reason.

    Raises:
        AnalysisError: threshold or residual is out of range, or a number of a norm is NaN or infinite.
    """
    check_residual(threshold, residual)
    norms = tuple(channels.first_norms.values())
    values = _fetch(traced, norms)
    _check_finite(norms, values)
    gamma_dead, notes = _gamma_dead({norm.gamma: values[norm.gamma] for norm in norms if norm.gamma}, threshold)
    affine = {norm.key: affine_of(norm, values, gamma_dead) for norm in norms}
    if not values or not bool(torch.cat([torch.zeros(0, dtype=torch.bool), *gamma_dead.values()]).any()):
        whole = torch.ones(channels.space_of.numel(), dtype=torch.bool)
        return Liveness(whole, gamma_dead, (), affine, nothing_constant(channels), tuple(notes), threshold, residual)
    constants = constants_of(channels, affine, reader(traced), reader(traced))
    marked = _marked(channels, gamma_dead)
    kept_streams = torch.tensor([space.stream and residual != "coupled" for space in channels.spaces], dtype=torch.bool)
    free = torch.tensor([space.free for space in channels.spaces], dtype=torch.bool)
    # a channel without a dead gamma stays; one with a dead gamma stays on a stream, by a pin, or where it varies for a
    # weight that reads it
    keep = ~marked | kept_streams[channels.space_of] | ~free[channels.space_of] | _read_varying(channels, constants)
    for channel in hold or {}:
        keep[channel] = True
    strength = _strength(channels, values)
    # in this order: a channel that keeps its space from being empty is one of the two groups that a convolution needs
    keep, revived = _never_empty(channels, keep, strength)
    hold = _second_groups(channels, keep, strength) | dict(hold or {})
    for channel in hold:
        keep[channel] = True
    notes += [f"{channels.spaces[space].name}: all channels are dead; the strongest is kept." for space in revived]
    held = tuple(_held(channels, gamma_dead, keep, constants, kept_streams, hold or {}, residual))
    return Liveness(keep, gamma_dead, held, affine, constants, tuple(notes), threshold, residual)


def removed_gammas(channels: Channels, liveness: Liveness) -> dict[str, Tensor]:
    """Per gamma parameter, bool [channels]: dead, on a channel that is removed."""
    if not liveness.gamma_dead:
        return {}
    # all gammas as one vector, split again at the end
    labels = _one_vector([channels.norms[name] for name in liveness.gamma_dead])
    gone = torch.cat(list(liveness.gamma_dead.values())) & ~live_along(channels, liveness.live, labels)
    return dict(zip(liveness.gamma_dead, gone.split(_lengths(liveness.gamma_dead)), strict=True))


def _lengths(vectors: Mapping[str, Tensor]) -> list[int]:
    return [vector.numel() for vector in vectors.values()]


def prunable_gammas(traced: TracedModule, residual: Residual = "live") -> dict[str, Tensor]:
    """Gamma parameter -> bool of its shape: the gammas on free channels, outside streams unless residual is "coupled".

    These receive the sparsity penalty (Sec. 3.1.1, Eq. 3; the paper leaves out the convolutions added to the main
    stream).
    """
    check_residual(0.0, residual)
    channels = channels_of(traced)
    prunable = prunable_spaces(channels, residual)
    trained = taught(traced)
    masks = {name: among(channels.spaces_along(layout), prunable) for name, layout in channels.norms.items()}
    return {name: mask for name, mask in masks.items() if name in trained and bool(mask.any())}


def shrinkable_betas(traced: TracedModule, threshold: float = 0.01, residual: Residual = "live") -> dict[str, Tensor]:
    """Beta parameter -> bool of its shape: the betas of gamma-dead channels that could go if their constant were 0.

    A gate or a padded depthwise convolution makes a constant vary unless it is 0: there the beta alone holds a channel.
    A beta that is 0 already is among them, for at another value it would hold its channel again.

    Raises:
        AnalysisError: as for `liveness`.
    """
    channels = channels_of(traced)
    liveness = liveness_of(traced, channels, threshold, residual)
    prunable = prunable_spaces(channels, residual)[channels.space_of]
    # beta 1 on every dead gamma stands for any constant but 0
    ones = {key: replace(norm, beta=torch.where(norm.dead, 1.0, norm.beta)) for key, norm in liveness.affine.items()}
    losing = prunable & (constants_of(channels, ones, reader(traced), reader(traced)).lost >= 0)
    held = liveness.live & (liveness.constants.lost >= 0)
    trained = taught(traced) - channels.shared
    masks = {}
    for norm in channels.first_norms.values():
        if norm.gamma is not None and norm.beta in trained:
            channel, zero = channels.channels_along(norm.layout), liveness.affine[norm.key].beta == 0
            masks[norm.beta] = liveness.gamma_dead[norm.gamma] & among(channel, losing) & (among(channel, held) | zero)
    return {name: mask for name, mask in masks.items() if bool(mask.any())}


def prunable_spaces(channels: Channels, residual: Residual) -> Tensor:
    """bool [spaces]: whether channels of the space may die."""
    spaces = [space.free and (residual == "coupled" or not space.stream) for space in channels.spaces]
    return torch.tensor(spaces, dtype=torch.bool)


def live_along(channels: Channels, live: Tensor, layout: Tensor) -> Tensor:
    """bool [len layout]: whether each position stays; positions without a channel stay."""
    ids = channels.channels_along(layout)
    return (ids < 0) | among(ids, live)


def check_residual(threshold: float, residual: str) -> None:
    """Raises AnalysisError unless both are in range."""
    if not (isinstance(threshold, int | float) and 0 <= threshold < 1):
        raise AnalysisError(
            f"threshold is {threshold!r}; expected a number in [0, 1), relative to a layer's largest gamma."
        )
    if residual not in get_args(Residual):
        raise AnalysisError(f"residual is {residual!r}; expected one of {', '.join(get_args(Residual))}.")


def _fetch(traced: TracedModule, norms: tuple[Norm, ...]) -> dict[str, Tensor]:
    """The parameters and statistics of all norms in float64 on the CPU, in one transfer."""
    tensors = named_tensors(traced)
    names = sorted(
        {name for norm in norms for name in (norm.gamma, norm.beta, norm.mean, norm.var) if name is not None}
    )
    if not names:
        return {}
    if any(tensors[name].is_meta for name in names):
        raise AnalysisError("The model lies on the meta device and has no gammas to read: move it to the CPU or a GPU.")
    # one transfer for all: each read of a GPU waits for its queue. torch.cat promotes mixed dtypes to the widest
    with torch.no_grad():
        flat = [tensor if (tensor := tensors[name]).dim() == 1 else tensor.reshape(-1) for name in names]
        values = torch.cat(flat).double().cpu()
    return dict(zip(names, values.split([tensors[name].numel() for name in names]), strict=True))


def _check_finite(norms: Iterable[Norm], values: Mapping[str, Tensor]) -> None:
    # a sum is finite only if all of it is; one that overflows is looked into
    if not values or isfinite(torch.cat(list(values.values())).sum().item()):
        return
    for norm in norms:
        kinds = (
            ("gamma", norm.gamma),
            ("beta", norm.beta),
            ("running mean", norm.mean),
            ("running variance", norm.var),
        )
        for kind, name in kinds:
            if name is not None and not bool(values[name].isfinite().all()):
                index = int((~values[name].isfinite()).nonzero()[0])
                raise AnalysisError(
                    f"{name}[{index}] is {float(values[name][index])}; every {kind} must be finite. "
                    "Training has diverged: go back to an earlier checkpoint or lower the learning rate."
                )


def _gamma_dead(gammas: Mapping[str, Tensor], threshold: float) -> tuple[dict[str, Tensor], list[str]]:
    """Gamma parameter -> bool of its shape, which gammas are dead; and a note on each layer where all of them are."""
    if not gammas:
        return {}, []
    # all layers as one vector, split again at the end
    lengths = _lengths(gammas)
    size, length = torch.cat(list(gammas.values())).abs(), torch.tensor(lengths)
    strongest = torch.segment_reduce(size, "max", lengths=length, initial=0.0)
    each = (size < (threshold * strongest).repeat_interleave(length)).split(lengths)
    dead, notes = dict(zip(gammas, each, strict=True)), list[str]()
    for name, most in zip(gammas, strongest.tolist(), strict=True):
        if dead[name].numel() and most < ALL_DEAD and threshold > 0:
            dead[name] = torch.ones_like(dead[name])
            dead[name][int(gammas[name].abs().argmax())] = False
            notes.append(f"{name}: all gammas are below {ALL_DEAD}; only the strongest counts as live.")
    return dead, notes


def affine_of(norm: Norm, values: Mapping[str, Tensor], gamma_dead: Mapping[str, Tensor]) -> Affine:
    """What the norm does in eval mode, from its parameters and statistics by name, float64 on the CPU."""
    width = norm.layout.numel()
    return Affine(
        gamma=values[norm.gamma] if norm.gamma else _ONE.expand(width),
        beta=values[norm.beta] if norm.beta else _ZERO.expand(width),
        mean=values[norm.mean] if norm.mean else None,
        var=values[norm.var] if norm.var else None,
        eps=norm.eps,
        dead=gamma_dead[norm.gamma] if norm.gamma else torch.zeros(width, dtype=torch.bool),
        scale=norm.scale,
    )


_ONE, _ZERO = torch.ones(1).double(), torch.zeros(1).double()  # expanded, never written to


def reader(module: nn.Module) -> Callable[[str], Tensor]:
    """Reads a parameter or buffer by name, in float64 on the CPU."""

    def read(name: str) -> Tensor:
        tensor: Tensor = registered(module, name)
        return tensor.detach().double().cpu()

    return read


def _marked(channels: Channels, gamma_dead: Mapping[str, Tensor]) -> Tensor:
    """bool [channels]: some gamma on the channel is dead."""
    labels = _one_vector([channels.norms[name] for name in gamma_dead])
    return _with_labels(channels, labels[torch.cat(list(gamma_dead.values()))])


def _one_vector(layouts: list[Tensor]) -> Tensor:
    """The labels of several layouts, one after the other."""
    return torch.cat([torch.zeros(0, dtype=torch.int64), *layouts])


def _with_labels(channels: Channels, labels: Tensor) -> Tensor:
    """bool [channels]: whether one of the labels is the channel's."""
    marked = torch.zeros(channels.space_of.numel(), dtype=torch.bool)
    marked[channels.channel_of[labels[labels >= 0]]] = True
    return marked


def _read_varying(channels: Channels, constants: Constants) -> Tensor:
    """bool [channels]: some weight reads the channel where it is not constant."""
    readings = [step.effect.reading for step in channels.steps if step.effect.reading is not None]
    read = [(reading.cols, value) for reading in readings for value in constants.read.get(reading.key, ())]
    labels = _one_vector([cols for cols, _ in read])
    varies = torch.cat([torch.zeros(0), *(value for _, value in read)]).isnan()
    return _with_labels(channels, labels[varies])


def _strength(channels: Channels, values: Mapping[str, Tensor]) -> Tensor:
    """float64 [channels]: the largest abs(gamma) of each channel, 0 where it has no gamma."""
    strength = torch.zeros(channels.space_of.numel()).double()
    labels = _one_vector(list(channels.norms.values()))
    size = torch.cat([torch.zeros(0).double(), *(values[name] for name in channels.norms)]).abs()
    known = labels >= 0
    return strength.scatter_reduce(0, channels.channel_of[labels[known]], size[known], "amax")


def _never_empty(channels: Channels, keep: Tensor, strength: Tensor) -> tuple[Tensor, list[int]]:
    """`keep` with the strongest channel of every space that would be empty; and these spaces."""
    kept = torch.bincount(channels.space_of[keep], minlength=len(channels.spaces))
    empty = (kept == 0).nonzero().flatten().tolist()
    keep = keep.clone()
    for space in empty:
        members = (channels.space_of == space).nonzero().flatten()
        keep[members[strength[members].argmax()]] = True
    return keep, empty


def _second_groups(channels: Channels, keep: Tensor, strength: Tensor) -> dict[int, str]:
    """Channel -> reason: in each space that a grouped convolution reads and that would keep one channel, the strongest
    of the dead ones.

    With one group left the convolution would be an ordinary one: its rule would give it channels of its own.
    """
    readings = [step.effect.reading for step in channels.steps if step.effect.family is Family.GROUPED]
    axes = [channels.spaces_along(reading.cols) for reading in readings if reading is not None]
    kept = torch.bincount(channels.space_of[keep], minlength=len(channels.spaces))
    width = torch.bincount(channels.space_of, minlength=len(channels.spaces))
    narrow = (kept < 2) & (kept < width)
    hold = {}
    for space in torch.cat([torch.zeros(0, dtype=torch.int64), *axes]).unique().tolist() if bool(narrow.any()) else ():
        if space >= 0 and bool(narrow[space]):
            members = (channels.space_of == space).nonzero().flatten()
            dead = members[~keep[members]]
            hold[int(dead[strength[dead].argmax()])] = "a grouped convolution that reads it needs two groups"
    return hold


def _held(
    channels: Channels,
    gamma_dead: Mapping[str, Tensor],
    keep: Tensor,
    constants: Constants,
    kept_streams: Tensor,
    hold: Mapping[int, str],
    residual: Residual,
) -> Iterator[Held]:
    """Held gammas by parameter and reason: all dead gammas on channels that stay."""
    # the gammas of all parameters as one vector, split again at the end
    reason_of, reasons = _reasons(channels, constants, kept_streams, hold, residual)
    labels, gamma = joined([channels.norms[name] for name in gamma_dead])
    ids = channels.channels_along(labels)
    kept = (among(ids, keep) & torch.cat([torch.zeros(0, dtype=torch.bool), *gamma_dead.values()])).nonzero().flatten()
    why, sizes = reason_of[ids[kept]], torch.tensor(_lengths(gamma_dead), dtype=torch.int64)
    counts = torch.bincount(gamma[kept], minlength=len(gamma_dead)).tolist()
    index = kept - (sizes.cumsum(0) - sizes)[gamma[kept]]
    # a channel may have several gammas of one parameter: those of a group
    in_groups = set(gamma[1:][(ids[1:] <= ids[:-1]) & (gamma[1:] == gamma[:-1])].tolist())
    parts = zip(gamma_dead, *(whole.split(counts) for whole in (index, ids[kept], why)), strict=True)
    for number, (name, here, channel, own) in enumerate(parts):
        code_of = own
        if number in in_groups:
            alive = torch.isin(channel, channels.channels_along(channels.norms[name][~gamma_dead[name]]))
            code_of = torch.where(alive & (own == reasons.index(ELSEWHERE)), reasons.index(IN_GROUP), own)
        for code in sorted(set(code_of.tolist())):
            yield Held(name, reasons[code], here[code_of == code], channel[code_of == code])


def _reasons(
    channels: Channels, constants: Constants, kept_streams: Tensor, hold: Mapping[int, str], residual: Residual
) -> tuple[Tensor, list[str]]:
    """[channels] int64, the index of the reason why the channel is kept where it is gamma-dead; and the reasons.

    Of several reasons the strongest is told: pinned, on a stream, in `hold`, its constant lost, alive elsewhere. The
    reason IN_GROUP is among them for gammas, and no channel's own.
    """
    reasons = [ELSEWHERE, *constants.causes, IN_GROUP]
    reason_of = constants.lost + 1
    for channel, reason in hold.items():
        reason_of[channel] = len(reasons)
        reasons.append(reason)
    of_space = torch.where(kept_streams, len(reasons), -1)
    reasons.append(f'on a residual stream, which residual="{residual}" keeps')
    for space in channels.spaces:
        if not space.free:
            of_space[space.index] = len(reasons)
            reasons.append(f"pinned: {space.pinned}")
    stronger = of_space[channels.space_of]
    return torch.where(stronger >= 0, stronger, reason_of), reasons
