"""Births that are tied as wholes, position by position, as the two arms of an addition, or group by group, as by a
grouped convolution: nearly all ties are such.

They need no work for each label. Where a network has no other ties, its births tell its channels and spaces.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

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
        self.group = [1] * len(self.births)  # of each first birth: so many labels in a row are one channel

    def tied(self, left: Tensor, right: Tensor) -> bool:
        """Whether both sides are whole births in the order of their labels, which are tied then; or the right one is,
        in groups, and the left one has the last label of each group of a birth in the place of all.
        """
        size = right.shape[1] if left.dim() == right.dim() == 2 and left.stride(1) == 0 else 1
        one, other = self.whole(left) if size == 1 else self._of_last(left[:, 0], size), self.whole(right)
        if one is None or other is None or left.shape != right.shape:
            return False
        if one != other and self.group[self.root(one)] % size:  # the left one's groups are apart
            return False
        first, second = sorted((self.root(one), self.root(other)))
        sizes = sorted((size, self.group[first], self.group[second]))
        if any(large % small for small, large in pairwise(sizes)):
            return False
        self.first[second], self.group[first] = first, sizes[-1]
        return True

    def _of_last(self, labels: Tensor, size: int) -> int | None:
        """The birth of which these are the last labels of each group of so many; None where they are not."""
        index = self.at.get(int(labels[0]) - size + 1) if labels.numel() else None
        if index is None or self.births[index].numel() != labels.numel() * size:
            return None
        return index if torch.equal(self.births[index][size - 1 :: size], labels) else None

    def whole(self, labels: Tensor) -> int | None:
        """Which birth the labels are; None where they are none, or no more than a part of one."""
        index = self.in_memory.get(labels.untyped_storage().data_ptr())
        if index is not None:
            birth = self.births[index]
            whole = labels.numel() == birth.numel() and (labels.is_contiguous() or _in_order(labels, birth))
            return index if whole else None
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
            first = self.root(index)
            if self.births[first] is not labels or self.group[first] > 1:
                start, size = int(labels[0]), self.group[first]
                lead = self.births[first]
                lead = lead if size == 1 else lead[::size].repeat_interleave(size)
                root[start : start + labels.numel()] = lead
        return root

    def channels(self) -> tuple[Tensor, int]:
        """[labels] int64, the channel of each label; and the number of channels. There are no other ties."""
        channels: list[Tensor] = []
        count = 0
        for index, labels in enumerate(self.births):
            root = self.root(index)
            if root == index:
                width = labels.numel() // self.group[root]
                channels.append(torch.arange(count, count + width).repeat_interleave(self.group[root]))
                count += width
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
                members.setdefault(self.root(index), {})[key] = self.group[self.root(index)]
        widths = [self.births[root].numel() // self.group[root] for root in members]
        space_of = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths, dtype=torch.int64))
        return space_of, list(zip(members.values(), widths, strict=True))


def _in_order(labels: Tensor, birth: Tensor) -> bool:
    """Whether the labels are those of the birth, in their order."""
    return torch.equal(birth, labels.reshape(-1))
