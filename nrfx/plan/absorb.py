"""Where the constants of dead channels go: into a bias, into running means, or to a carrier.

    absorb    bias += W c, or the running mean of every norm behind -= W c      weights that read no zeros at a border
    carrier   one dead channel k stays, with gamma 0 and beta 1: W[:, k] = sum over dead d of (c_d / c_k) W[:, d]
    hold      neither is exact: the channel stays, with the reason

A carrier is exact behind zero padding too, for a constant map padded with zeros is a multiple of any other. Into a
cross-attention layer nothing is absorbed (the constant would leave the sigmoid): there each generation has its carrier.
Not in the paper, where dead channels are dropped (Sec. 3.1.1: "removing it will have little effect").
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from nrfx.analysis.channels import Channels, Step, readers
from nrfx.analysis.constants import Affine, constants_of
from nrfx.analysis.liveness import Liveness, live_along, reader
from nrfx.labels import among
from nrfx.rules import Family, Norm, Reading
from nrfx.tracing import TracedModule


@dataclass(frozen=True)
class Absorption:
    """`carriers`: bool [channels]. `absorbers`: key -> the norms whose running means take what the weight adds; none of
    them where its own bias does.

    `given[key]` is the constant that each column gave, `left[key]` the one that it gives in the new network (0 where
    it is gone). `carrier_of` is the carrier that stands for each dead channel, -1 for none. `hold`: channels for which
    nothing is exact; where there are any, liveness must be asked again.
    """

    carriers: Tensor
    absorbers: Mapping[str, tuple[Norm, ...]]
    given: Mapping[str, Tensor]
    left: Mapping[str, Tensor]
    carrier_of: Tensor
    hold: Mapping[int, str]


def drop_constants(channels: Channels) -> Absorption:
    """The settlement that drops constants."""
    count = channels.space_of.numel()
    return Absorption(torch.zeros(count, dtype=torch.bool), {}, {}, {}, torch.full((count,), -1), {})


def absorb(traced: TracedModule, channels: Channels, liveness: Liveness, attention: set[str]) -> Absorption:
    """Settles the constants of all dead channels.

    Args:
        attention: keys of the weights that will be cross-attention layers.
    """
    readings = {key: step for key, step in readers(channels.steps).items() if step.effect.family is Family.CONTRACTION}
    dead = ~liveness.live
    given, hold = _given(channels, liveness, readings, dead)
    absorbers = {
        key: target
        for key, step in readings.items()
        if key not in attention
        for target in [_absorber(channels, step, len(liveness.constants.read[key]))]
        if target is not None
    }
    needs = [
        _non_zero(channels, step.effect.reading, given[key], dead)
        for key, step in readings.items()
        if key not in absorbers
    ]
    carriers, carrier_of = _choose(channels, dead, needs, readings, given)
    left = _left(traced, channels, liveness, carriers, readings)
    hold = {**hold, **_unreached(channels, readings, absorbers, given, left, carrier_of, dead)}
    return Absorption(carriers, absorbers, given, left, carrier_of, hold)


def _given(
    channels: Channels, liveness: Liveness, readings: Mapping[str, Step], dead: Tensor
) -> tuple[dict[str, Tensor], dict[int, str]]:
    """The constant of each dead column, 0 for live ones; channels whose constant differs between visits are to be
    held.
    """
    given, hold = {}, {}
    for key, step in readings.items():
        assert step.effect.reading is not None
        gone = ~live_along(channels, ~dead, step.effect.reading.cols)
        first, *others = (torch.where(gone, value, 0.0) for value in liveness.constants.read[key])
        given[key] = first
        for other in others:
            for channel in channels.channel_of[step.effect.reading.cols[(other != first) & gone]].tolist():
                hold[channel] = f"{step.path} is called more than once and reads different constants"
    return given, hold


def _absorber(channels: Channels, step: Step, visits: int) -> tuple[Norm, ...] | None:
    """The norms that read all that the layer gives, none where it has a bias; None where neither will do."""
    reading = step.effect.reading
    assert reading is not None
    modes = len({other.mode for other in channels.steps if other.path == step.path})
    if reading.padded or reading.generation is not None or visits > modes:
        return None
    if reading.bias is not None:
        return None if reading.bias in channels.shared else ()
    visited = [other for other in channels.steps if other.path == step.path]
    norms = [norm for other in visited for norm in _norms_behind(channels, other)]
    if any(norm is None for norm in norms) or not norms:
        return None
    unique = {norm.key: norm for norm in norms if norm is not None}
    whole = all(_takes_offsets(channels, norm) for norm in unique.values())
    return tuple(unique.values()) if whole else None


def _takes_offsets(channels: Channels, norm: Norm) -> bool:
    """Whether its running mean may be moved: it has one, of its own, and is called once."""
    visits = [step.mode for step in channels.steps if step.effect.norm is not None and step.effect.norm.key == norm.key]
    return norm.mean is not None and norm.mean not in channels.shared and len(visits) == len(set(visits))


def _norms_behind(channels: Channels, step: Step) -> list[Norm | None]:
    """The norms that read what a step gives, through ops that pass an offset on; None for any other reader."""
    steps = {other.node: other for other in channels.steps if other.mode == step.mode}
    norms: list[Norm | None] = []
    queue: list[fx.Node] = list(step.node.users)
    while queue:
        reader_step = steps[queue.pop()]
        effect = reader_step.effect
        if effect.family is Family.NORM:
            norms.append(effect.norm)
        elif effect.family in (Family.IDENTITY, Family.MOVEMENT, Family.POOL) and effect.keeps_constants:
            queue.extend(reader_step.node.users)
        elif effect.family is not Family.VALUE:
            norms.append(None)
    return norms


def _non_zero(channels: Channels, reading: Reading | None, given: Tensor, dead: Tensor) -> Tensor:
    """bool [channels]: dead, and not zero for this weight."""
    assert reading is not None
    needed = torch.zeros_like(dead)
    labels = reading.cols[(given != 0) & (reading.cols >= 0)]
    needed[channels.channel_of[labels]] = True
    return needed & dead


def _choose(
    channels: Channels, dead: Tensor, needs: list[Tensor], readings: Mapping[str, Step], given: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """One carrier for each space and generation that needs one: the dead channel with the largest constant."""
    carriers = torch.zeros_like(dead)
    carrier_of = torch.full(dead.shape, -1)
    needed = torch.stack(needs).any(0) if needs else torch.zeros_like(dead)
    if not bool(needed.any()):
        return carriers, carrier_of
    group = _groups(channels, readings)
    size = torch.zeros(dead.shape).double()
    for key, step in readings.items():
        assert step.effect.reading is not None
        cols = step.effect.reading.cols
        known = cols >= 0
        size.scatter_reduce_(0, channels.channel_of[cols[known]], given[key].abs()[known], "amax")
    for number in torch.unique(group[needed]).tolist():
        members = ((group == number) & dead).nonzero().flatten()
        carrier = members[size[members].argmax()]
        carriers[carrier] = True
        carrier_of[members] = carrier
    return carriers, carrier_of


def _groups(channels: Channels, readings: Mapping[str, Step]) -> Tensor:
    """[channels] int64: equal for channels of one space that belong to one generation for every cross layer."""
    group = channels.space_of
    for step in readings.values():
        reading = step.effect.reading
        if reading is not None and reading.generation is not None:
            known = reading.cols >= 0
            generation = torch.full_like(group, -1)
            generation[channels.channel_of[reading.cols[known]]] = reading.generation[known]
            _, group = torch.unique(torch.stack([group, generation]), dim=1, return_inverse=True)
    return group


def _left(
    traced: TracedModule, channels: Channels, liveness: Liveness, carriers: Tensor, readings: Mapping[str, Step]
) -> dict[str, Tensor]:
    """The constant that each column gives once carriers have gamma 0 and beta 1; 0 where it is no carrier."""
    affine = dict(liveness.affine)
    for key, norm in channels.first_norms.items():
        if norm.gamma is not None and norm.beta is not None:
            affine[key] = carrying(affine[key], _at(channels, carriers, norm.layout))
    read = constants_of(channels, affine, reader(traced), reader(traced)).read if bool(carriers.any()) else {}
    left = {}
    for key, step in readings.items():
        assert step.effect.reading is not None
        carried = _at(channels, carriers, step.effect.reading.cols)
        left[key] = torch.where(carried, read[key][0], 0.0) if key in read else torch.zeros(carried.shape).double()
    return left


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
    given: Mapping[str, Tensor],
    left: Mapping[str, Tensor],
    carrier_of: Tensor,
    dead: Tensor,
) -> dict[int, str]:
    """Dead channels whose constant no carrier can stand for, or whose carrier is not constant."""
    hold = {}
    for key, step in readings.items():
        reading = step.effect.reading
        assert reading is not None
        reach = torch.zeros(dead.shape).double()
        known = reading.cols >= 0
        reach[channels.channel_of[reading.cols[known]]] = left[key][known]
        bad = (given[key] != 0) & known if key not in absorbers else torch.zeros_like(known)
        bad = bad | left[key].isnan()
        for channel in channels.channel_of[reading.cols[bad & known]].tolist():
            carrier = int(carrier_of[channel])
            reason = f"no constant reaches {step.path} that could stand for its own"
            if carrier < 0 or float(reach[carrier]) == 0:
                hold[channel] = reason
            elif not bool(reach[carrier].isfinite()):
                hold.update(dict.fromkeys((carrier_of == carrier).nonzero().flatten().tolist(), reason))
    return hold
