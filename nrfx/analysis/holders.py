"""What holds gamma-dead channels: the reasons by channel, the nodes that these reasons lead to, and how many they hold.

A channel may fill several positions of an axis, and have several gammas in a norm (a group of a group norm): then as
many positions count as held as there are dead ones among its gammas.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels
from nrfx.analysis.liveness import IN_GROUP, Held, Liveness
from nrfx.ids import among, joined


class Holders:
    """The held channels of a network, for questions about some of them.

    A network asks for each space on each axis, which may be thousands: what all questions share is computed once.
    """

    def __init__(self, channels: Channels, liveness: Liveness) -> None:
        self.count, self.constants = channels.space_of.numel(), liveness.constants
        self.reasons = list(dict.fromkeys(entry.reason for entry in liveness.held))
        self.held, entry_of = joined([entry.channels for entry in liveness.held])
        codes = [self.reasons.index(entry.reason) for entry in liveness.held]
        self.code = torch.tensor(codes, dtype=torch.int64)[entry_of]
        self.of_channels, self.entries = channels, liveness.held
        self.readers, self.read, self.reader = _varying_reads(channels, liveness)
        self.shares: dict[str, Tensor] = {}
        self.known: dict[bytes, Mapping[str, tuple[Tensor, set[str]]]] = {}  # many axes read the same channels

    def among(self, members: Tensor) -> Mapping[str, tuple[Tensor, set[str]]]:
        """Reason -> the channels among `members` that are held for it, each once, and the nodes that hold them."""
        if not self.reasons:
            return {}
        key = members.numpy().tobytes()
        if key not in self.known:
            here = among(self.held, self._mask(members))
            codes, channels = self.code[here], self.held[here]
            held = {self.reasons[code]: channels[codes == code].unique() for code in codes.unique().tolist()}
            self.known[key] = {reason: (each, self._nodes(reason, each)) for reason, each in held.items()}
        return self.known[key]

    def _nodes(self, reason: str, held: Tensor) -> set[str]:
        """The node that makes their constant vary, or those that read them varying."""
        if reason in self.constants.causes:
            return {self.constants.places[self.constants.causes.index(reason)]}
        if reason == IN_GROUP:
            return set(self._norms(held))
        return {self.readers[index] for index in self.reader[among(self.read, self._mask(held))].unique().tolist()}

    def _norms(self, held: Tensor) -> Iterator[str]:
        """The nodes of the norms that have several gammas for one of these channels."""
        gammas = {e.gamma for e in self.entries if e.reason == IN_GROUP and bool(torch.isin(e.channels, held).any())}
        for step in self.of_channels.steps:
            if step.effect.norm is not None and step.effect.norm.gamma in gammas:
                yield step.node.name

    def positions(self, reason: str, members: Tensor) -> int:
        """How many positions of an axis with these channels are held for the reason."""
        if reason not in self.shares:
            entries = [entry for entry in self.entries if entry.reason == reason]
            self.shares[reason] = held_share(self.of_channels, entries)
        return int(held_positions(members, self.shares[reason], torch.zeros_like(members), 1))

    def _mask(self, members: Tensor) -> Tensor:
        mask = torch.zeros(self.count, dtype=torch.bool)
        mask[members] = True
        return mask


def held_share(channels: Channels, entries: Iterable[Held]) -> Tensor:
    """float64 [channels]: which part of a channel's gammas in one norm is held by these entries, the largest over the
    norms."""
    share = torch.zeros(channels.space_of.numel(), dtype=torch.float64)
    for entry in entries:
        here, held = entry.channels.unique(return_counts=True)
        layout = channels.norms[entry.gamma] if entry.gamma else None
        along = here if layout is None else channels.channels_along(layout)
        each, times = along.unique(return_counts=True)
        share[here] = torch.maximum(share[here], held.double() / times[torch.searchsorted(each, here)])
    return share


def held_positions(members: Tensor, share: Tensor, axis_of: Tensor, axes: int) -> Tensor:
    """int64 [axes]: how many positions of each axis are held.

    Args:
        members: the channel at each position, below 0 for none; axis_of: the axis of each position.
        share: as from `held_share`.
    """
    known = among(members, share > 0)
    (axis, channel), times = torch.stack([axis_of[known], members[known]]).unique(dim=1, return_counts=True)
    held = (times * share[channel] - 1e-9).ceil().long()  # a channel with one held gamma of two has one position
    return torch.zeros(axes, dtype=torch.int64).index_add(0, axis, held)


def _varying_reads(channels: Channels, liveness: Liveness) -> tuple[list[str], Tensor, Tensor]:
    """Nodes with weights; then a pair of a channel and the index of a node, for each that reads the channel varying."""
    readers, columns = [], []
    for step in channels.steps:
        if (reading := step.effect.reading) is not None:
            for value in liveness.constants.read.get(reading.key, ()):
                readers.append(step.node.name)
                columns.append(channels.channels_along(reading.cols)[value.isnan()])
    read, reader = joined(columns)
    return readers, read, reader
