"""What holds gamma-dead channels: the reasons by channel, and the nodes that these reasons lead to."""

from collections.abc import Mapping

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels
from nrfx.analysis.liveness import Liveness
from nrfx.labels import among, joined


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
        self.readers, self.read, self.reader = _varying_reads(channels, liveness)
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
        return {self.readers[index] for index in self.reader[among(self.read, self._mask(held))].unique().tolist()}

    def _mask(self, members: Tensor) -> Tensor:
        mask = torch.zeros(self.count, dtype=torch.bool)
        mask[members] = True
        return mask


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
