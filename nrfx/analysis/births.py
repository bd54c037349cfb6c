"""Births that are tied as wholes, position by position, as the two arms of an addition: nearly all ties are such.

They need no work for each label. Where a network has no other ties, its births tell its channels and spaces.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class Births:
    """The births of a network, and which of them are tied."""

    def __init__(self, births: Iterable[Tensor]) -> None:
        """Takes the births in the order of their labels."""
        self.births = list(births)
        some = [(index, labels) for index, labels in enumerate(self.births) if labels.numel()]
        self.in_memory = {labels.untyped_storage().data_ptr(): index for index, labels in some}
        self.at = {int(labels[0]): index for index, labels in some}
        self.first = list(range(len(self.births)))  # of each birth one that it is tied to; at the end the first

    def tied(self, left: Tensor, right: Tensor) -> bool:
        """Whether both sides are whole births in the order of their labels, which are tied then."""
        one, other = self.whole(left), self.whole(right)
        if one is None or other is None or left.shape != right.shape:
            return False
        one, other = self.root(one), self.root(other)
        self.first[max(one, other)] = min(one, other)
        return True

    def whole(self, labels: Tensor) -> int | None:
        """Which birth the labels are; None where they are none, or no more than a part of one."""
        index = self.in_memory.get(labels.untyped_storage().data_ptr())
        if index is not None and labels.numel() == self.births[index].numel() and labels.is_contiguous():
            return index
        flat = labels.reshape(-1)
        index = self.at.get(int(flat[0])) if flat.numel() else None
        return index if index is not None and torch.equal(self.births[index], flat) else None

    def repeated(self, labels: Tensor) -> bool:
        """Whether the labels are a whole birth, each label equally often in a row, as behind `flatten` of maps."""
        index = self.at.get(int(labels[0])) if labels.numel() else None
        birth = None if index is None else self.births[index]
        if birth is None or labels.numel() % birth.numel():
            return False
        return torch.equal(labels.view(birth.numel(), -1), birth[:, None].expand(-1, labels.numel() // birth.numel()))

    def root(self, index: int) -> int:
        """The first birth that it is tied to, perhaps itself."""
        while self.first[index] != index:
            index = self.first[index]
        return index

    def roots(self, count: int) -> Tensor:
        """[count] int64, for each label the smallest that it is tied to by these ties."""
        root = torch.arange(count)
        for index, labels in enumerate(self.births):
            first = self.births[self.root(index)]
            if first is not labels:
                start = int(labels[0])
                root[start : start + labels.numel()] = first
        return root

    def channels(self) -> tuple[Tensor, int]:
        """[labels] int64, the channel of each label; and the number of channels. There are no other ties."""
        channels: list[Tensor] = []
        count = 0
        for index, labels in enumerate(self.births):
            root = self.root(index)
            if root == index:
                channels.append(torch.arange(count, count + labels.numel()))
                count += labels.numel()
            else:
                channels.append(channels[root])
        return torch.cat([torch.zeros(0, dtype=torch.int64), *channels]), count

    def spaces(self, keys: Sequence[str]) -> tuple[Tensor, list[tuple[dict[str, int], int]]]:
        """The space of each channel, and (births with labels a channel, width) of each space: births that are tied are
        one space. `keys` are those of the births.
        """
        members: dict[int, dict[str, int]] = {}
        for index, key in enumerate(keys):
            if self.births[index].numel():
                members.setdefault(self.root(index), {})[key] = 1
        widths = [self.births[root].numel() for root in members]
        space_of = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths, dtype=torch.int64))
        return space_of, list(zip(members.values(), widths, strict=True))
