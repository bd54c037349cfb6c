"""Where the constants of dead channels go: into a bias, into running means, or to a carrier.

    absorb    bias += W c, or the running mean of every norm behind -= W c      weights that read no zeros at a border
    carrier   one dead channel k stays, with gamma 0 and beta 1: W[:, k] = sum over dead d of (c_d / c_k) W[:, d]
    hold      neither is exact: the channel stays, with the reason

A carrier is exact behind zero padding too. At the border a weight reads 0 where it reads c_d elsewhere; the map that it
reads is c_d times a map of ones padded with zeros, which is the same map for every dead channel. So (c_d / c_k) W[:, d]
on the carrier's map gives what W[:, d] gave on that of d. A bias has one value a channel and cannot follow the border.

Into a cross-attention layer nothing is absorbed (the constant would leave the sigmoid): there each generation has its
carrier. Not in the paper, where dead channels are dropped (Sec. 3.1.1: "removing it will have little effect").
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx

from nrfx.analysis.affine import Affine
from nrfx.analysis.channels import Channels, Step, readers
from nrfx.analysis.constants import constants_of
from nrfx.analysis.liveness import Liveness, live_along, reader
from nrfx.analysis.varying import same
from nrfx.ids import among, occurrence
from nrfx.rules import Family, Norm, Reading
from nrfx.tracing import TracedModule


@dataclass(frozen=True)
class Absorption:
    """Where the constants of dead channels go, by the keys of the weights that read them.

    Attributes:
        carriers: bool [channels], the dead channels that stay as carriers.
        absorbers: key -> the norms whose running means take the constant part of the layer's output; an empty tuple
            where the layer's own bias takes it. Weights that are not among the keys read carriers.
        before: key -> float64 [columns], the constant that each column reads in the old network, 0 for live columns.
        after: key -> float64 [columns], the constant that it reads in the new network, 0 where it is no carrier's, NaN
            where a carrier is none (then `hold` has its channels).
        carrier_of: int64 [channels], the carrier that stands for each dead channel, -1 for none.
        stands: key -> int64 [columns], the column of the carrier that stands for each column, -1 for none; for the
            weights that read carriers, where there are any.
        hold: channels for which neither way is exact, with the reason. Where there are any, the rest is not valid:
            liveness must be computed again with these channels held.
        given: whether the constants are those of a criterion (placed.py), for twins of the network too.
        exact: whether the function is kept.
        notes: sentences on constants that have no place.
    """

    carriers: Tensor
    absorbers: Mapping[str, tuple[Norm, ...]]
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    carrier_of: Tensor
    hold: Mapping[int, str]
    stands: Mapping[str, Tensor] = field(default_factory=dict)
    given: bool = False
    exact: bool = True
    notes: tuple[str, ...] = ()


def drop_constants(channels: Channels) -> Absorption:
    """The absorption that drops all constants: no carriers, and nothing added to biases or means."""
    count = channels.space_of.numel()
    return Absorption(torch.zeros(count, dtype=torch.bool), {}, {}, {}, torch.full((count,), -1), {})


def absorb(traced: TracedModule, channels: Channels, liveness: Liveness, attention: set[str]) -> Absorption:
    """A bias, running means or a carrier for the constant of each dead channel, or the reason to hold it.

    Args:
        attention: keys of the weights that will be cross-attention layers.
    """
    readings = {key: step for key, step in readers(channels.steps).items() if step.effect.family is Family.CONTRACTION}
    dead = ~liveness.live
    before, hold = _constants_before(channels, liveness, readings, dead)
    absorbers = {
        key: target
        for key, step in readings.items()
        if key not in attention
        for target in [absorber(channels, step, len(liveness.constants.read[key]))]
        if target is not None and step.effect.reading is not None and not step.effect.reading.padded
    }
    # weights that absorb need no carrier; every other one needs a carrier for each constant that is not 0 to it
    needed = torch.zeros_like(dead)
    for key, step in readings.items():
        if key not in absorbers:
            needed[_non_zero(channels, step.effect.reading, before[key])] = True
    carriers, carrier_of = _choose(channels, dead, needed & dead, readings, before)
    after = _constants_after(reader(traced), channels, liveness, carriers, readings)
    stands = _stands(channels, readings, absorbers, carrier_of) if bool(carriers.any()) else {}
    hold = {**hold, **_unreached(channels, readings, absorbers, before, after, carrier_of, stands)}
    return Absorption(carriers, absorbers, before, after, carrier_of, hold, stands)


def absorb_alike(
    read: Callable[[str], Tensor], channels: Channels, liveness: Liveness, absorption: Absorption
) -> Absorption:
    """The same absorption for a network that differs in its numbers: its own constants, in the places that were found.

    Columns whose constant has no place in this network read 0, and `hold` has their channels.

    Args:
        read: reads a parameter or buffer of that network by name, in float64 on the CPU.
        channels: those of the network for which the places were found; `liveness` has the other network's values.
    """
    if not absorption.before or absorption.given:  # constants are dropped, or the same for all
        return absorption
    readings = {key: step for key, step in readers(channels.steps).items() if step.effect.family is Family.CONTRACTION}
    before, hold = _constants_before(channels, liveness, readings, ~liveness.live)
    after = _constants_after(read, channels, liveness, absorption.carriers, readings)
    places = absorption.absorbers, before, after, absorption.carrier_of, absorption.stands
    hold = {**hold, **_unreached(channels, readings, *places)}
    lost = torch.zeros_like(liveness.live)
    for key, step in readings.items():
        assert step.effect.reading is not None
        channel = channels.channels_along(step.effect.reading.cols)
        varying = channel[before[key].isnan() & (channel >= 0)]
        hold.update(dict.fromkeys(varying.tolist(), f"{step.path} reads it where it is no constant"))
    lost[list(hold)] = True
    for key, step in readings.items():
        assert step.effect.reading is not None
        gone = _at(channels, lost, step.effect.reading.cols)
        before[key], after[key] = torch.where(gone, 0.0, before[key]), after[key].nan_to_num(0.0)
    return replace(absorption, before=before, after=after, hold=hold)


def _constants_before(
    channels: Channels, liveness: Liveness, readings: Mapping[str, Step], dead: Tensor
) -> tuple[dict[str, Tensor], dict[int, str]]:
    """By key, the constant of each dead column, 0 for live ones; and the channels to hold, for their constant differs
    between the calls of a layer.
    """
    before, hold = {}, {}
    # the columns of all weights as one vector
    columns = [step.effect.reading.cols for step in readings.values() if step.effect.reading is not None]
    sizes, read = [cols.numel() for cols in columns], liveness.constants.read
    whole = ~live_along(channels, ~dead, torch.cat([torch.zeros(0, dtype=torch.int64), *columns]))
    constants = torch.where(whole, torch.cat([torch.zeros(0).double(), *(read[key][0] for key in readings)]), 0.0)
    parts = zip(readings.items(), whole.split(sizes), constants.split(sizes), strict=True)
    for (key, step), gone, first in parts:
        assert step.effect.reading is not None
        before[key] = first
        for other in (torch.where(gone, value, 0.0) for value in read[key][1:]):
            for channel in channels.channel_of[step.effect.reading.cols[(other != first) & gone]].tolist():
                hold[channel] = f"{step.path} is called more than once and reads different constants"
    return before, hold


def absorber(channels: Channels, step: Step, visits: int) -> tuple[Norm, ...] | None:
    """The norms whose running means take the layer's constant, () where its bias takes it; None where neither can.

    It is exact where the layer reads no zeros of a padding.

    The layer is called once in each mode. Norms can take its constant where nothing else reads its output.
    """
    reading = step.effect.reading
    assert reading is not None
    visited = channels.visits[step.path]
    modes = len({other.mode for other in visited})
    if reading.generation is not None or visits > modes:
        return None
    if reading.bias is not None:
        return None if reading.bias in channels.shared else ()
    if bool((reading.rows < 0).any()):  # what the layer gives is not its rows alone (a gate), or is not understood
        return None
    norms = [norm for other in visited for norm in _norms_behind(channels, other)]
    if any(norm is None for norm in norms) or not norms:
        return None
    unique = {norm.key: norm for norm in norms if norm is not None}
    all_take = all(_takes_offsets(channels, norm) for norm in unique.values())
    return tuple(unique.values()) if all_take else None


def _takes_offsets(channels: Channels, norm: Norm) -> bool:
    """Whether the norm has a running mean that no other module uses, and is called once in each mode."""
    modes = channels.norm_modes[norm.key]
    return norm.mean is not None and norm.mean not in channels.shared and len(modes) == len(set(modes))


def _norms_behind(channels: Channels, step: Step) -> list[Norm | None]:
    """The norms that read a step's output, perhaps through ops that pass an offset on; None for each other reader.

    None too where labels are tied on the way: rows with offsets of their own would share a mean.
    """
    norms: list[Norm | None] = []
    queue: list[fx.Node] = list(step.node.users)
    while queue:
        reader_step = channels.at[step.mode, queue.pop()]
        effect = reader_step.effect
        if effect.ties:
            norms.append(None)
        elif effect.family is Family.NORM:
            norms.append(effect.norm)
        elif effect.family in (Family.IDENTITY, Family.MOVEMENT, Family.POOL) and effect.keeps_constants:
            queue.extend(reader_step.node.users)
        elif effect.family is not Family.VALUE:
            norms.append(None)
    return norms


def _non_zero(channels: Channels, reading: Reading | None, before: Tensor) -> Tensor:
    """The channels that this weight reads as a constant other than 0."""
    assert reading is not None
    return channels.channel_of[reading.cols[(before != 0) & (reading.cols >= 0)]]


def _choose(
    channels: Channels, dead: Tensor, needed: Tensor, readings: Mapping[str, Step], before: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """(bool [channels], int64 [channels]): the carriers, and the carrier of each dead channel, -1 for none.

    Each space and generation with a constant to carry gets one: the dead channel with the largest constant.

    Args:
        needed: bool [channels], the dead channels that need a carrier.
    """
    carriers = torch.zeros_like(dead)
    carrier_of = torch.full(dead.shape, -1)
    if not bool(needed.any()):
        return carriers, carrier_of
    group = _groups(channels, readings)
    # float64 [channels]: the largest constant that any weight reads of the channel
    size = torch.zeros(dead.shape).double()
    for key, step in readings.items():
        assert step.effect.reading is not None
        cols = step.effect.reading.cols
        known = cols >= 0
        size.scatter_reduce_(0, channels.channel_of[cols[known]], before[key].abs()[known], "amax")
    for number in torch.unique(group[needed]).tolist():
        members = ((group == number) & dead).nonzero().flatten()
        carrier = members[size[members].argmax()]
        carriers[carrier] = True
        carrier_of[members] = carrier
    return carriers, carrier_of


def _groups(channels: Channels, readings: Mapping[str, Step]) -> Tensor:
    """[channels] int64: equal for the channels of one space that every cross layer counts to one generation."""
    group = channels.space_of
    for step in readings.values():
        reading = step.effect.reading
        if reading is not None and reading.generation is not None:
            known = reading.cols >= 0
            generation = torch.full_like(group, -1)
            generation[channels.channel_of[reading.cols[known]]] = reading.generation[known]
            _, group = torch.unique(torch.stack([group, generation]), dim=1, return_inverse=True)
    return group


def _constants_after(
    read_tensor: Callable[[str], Tensor],
    channels: Channels,
    liveness: Liveness,
    carriers: Tensor,
    readings: Mapping[str, Step],
) -> dict[str, Tensor]:
    """By key, the constant that each column reads once carriers have gamma 0 and beta 1; 0 where it is no carrier's.

    NaN where it is another one at each call of the layer: behind an addition a carrier gives 2, before it 1.
    """
    if not bool(carriers.any()):
        return {key: _none(step) for key, step in readings.items()}
    affine = dict(liveness.affine)
    for key, norm in channels.first_norms.items():
        if norm.gamma is not None and norm.beta is not None:
            affine[key] = carrying(affine[key], _at(channels, carriers, norm.layout))
    read = constants_of(channels, affine, read_tensor, read_tensor).read
    after = {}
    for key, step in readings.items():
        assert step.effect.reading is not None
        carried = _at(channels, carriers, step.effect.reading.cols)
        constant = same(torch.stack(read[key], 1)) if key in read else torch.zeros(carried.shape).double()
        after[key] = torch.where(carried, constant, 0.0)
    return after


def _none(step: Step) -> Tensor:
    """float64 [columns]: no constant in any column that the step reads."""
    assert step.effect.reading is not None
    return torch.zeros(step.effect.reading.cols.shape, dtype=torch.float64)


def carrying(affine: Affine, carried: Tensor) -> Affine:
    """The norm with gamma 0 and beta 1 where `carried`."""
    return replace(affine, beta=torch.where(carried, 1.0, affine.beta), dead=affine.dead | carried)


def _at(channels: Channels, mask: Tensor, layout: Tensor) -> Tensor:
    """bool [len layout]: whether the position's channel is in `mask`."""
    return among(channels.channels_along(layout), mask)


def _unreached(
    channels: Channels,
    readings: Mapping[str, Step],
    absorbers: Mapping[str, object],
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    carrier_of: Tensor,
    stands: Mapping[str, Tensor],
) -> dict[int, str]:
    """Dead channels whose constant no carrier can stand for, or whose carrier is not one constant at all calls."""
    hold = {}
    some = bool((carrier_of >= 0).any())
    for key, step in readings.items():
        if key in absorbers and not some:  # nearly all
            continue
        reading = step.effect.reading
        assert reading is not None
        reason = f"no carrier has a constant at {step.path} that could take the place of its own"
        known = reading.cols >= 0
        channel = channels.channels_along(reading.cols)
        # a carrier that varies here can stand for none of its channels, at this weight or another
        varying = channel[after[key].isnan() & known]
        if varying.numel():
            hold.update(dict.fromkeys(torch.isin(carrier_of, varying).nonzero().flatten().tolist(), reason))
        if key not in absorbers:
            unable = (before[key] != 0) & known
            if key in stands:  # else there are no carriers
                carried = torch.where(stands[key] >= 0, after[key][stands[key].clamp(min=0)], 0.0)
                unable &= carried == 0
            hold.update(dict.fromkeys(channel[unable].tolist(), reason))
    return hold


def _stands(
    channels: Channels, readings: Mapping[str, Step], absorbers: Mapping[str, object], carrier_of: Tensor
) -> dict[str, Tensor]:
    """By the key of each weight that reads carriers, the columns of those that stand for its columns."""
    reading_of = {key: step.effect.reading for key, step in readings.items() if key not in absorbers}
    return {
        key: carrier_columns(channels, reading.cols, carrier_of)
        for key, reading in reading_of.items()
        if reading is not None
    }


def carrier_columns(channels: Channels, cols: Tensor, carrier_of: Tensor) -> Tensor:
    """int64 [columns]: the column of the carrier that stands for each column of a weight, -1 for none.

    After a flatten a channel has a column for each position: the n-th column of the channel goes to the n-th of its
    carrier.
    """
    channel = channels.channels_along(cols)
    carrier = torch.where(channel >= 0, carrier_of[channel.clamp(min=0)], -1)
    if channel.numel() and int(channel[0]) >= 0 and bool((channel[1:] > channel[:-1]).all()):
        # nearly always: each channel has one column, in order
        place = torch.searchsorted(channel, carrier).clamp_(max=channel.numel() - 1)
        return torch.where(channel[place] == carrier, place, -1)
    # (channel, occurrence) as one number, as in origins.origin
    times, rank = channel.numel() + 1, occurrence(channel)
    ordered, order = torch.sort(channel * times + rank)
    wanted = carrier * times + rank
    place = torch.searchsorted(ordered, wanted).clamp(max=channel.numel() - 1)
    return torch.where((carrier >= 0) & (ordered[place] == wanted), order[place], -1)
