"""How often each channel must occur on each axis of each parameter at the new widths."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels, Mismatch, Step
from nrfx.labels import NONE, memory_of


class Expected:
    """How often each channel must occur on each axis of a parameter at the new widths.

    Args:
        births: place -> its labels at the new widths, as `grown_births` made them.
    """

    def __init__(self, channels: Channels, births: Mapping[str, Tensor], kept: Tensor, width: Tensor) -> None:
        self.channels, self.kept = channels, kept
        more = width - torch.bincount(channels.space_of[kept], minlength=len(channels.spaces))
        self.space_of_new = torch.repeat_interleave(torch.arange(len(channels.spaces)), more)
        self.total = torch.bincount(channels.space_of, minlength=len(channels.spaces))
        # pairs of layouts by their memory, which the caller holds: those of a layer are those of its norm, too. A grown
        # birth has what it must have by the way in which it is made, and most layouts are those of a birth
        self.grown = {(memory_of(old), memory_of(births[key])) for key, old in channels.births.items()}
        self.matched = set(self.grown)
        self.seen: set[tuple[int, int]] = set()  # ids of pairs that were checked, which the steps hold

    def check(self, old: Step, new: Step, channel_of: Tensor) -> None:
        """Raises Mismatch where a weight or norm does not read each channel as often as it must."""
        pairs = [(a.layout, b.layout) for a, b in zip(old.effect.sites, new.effect.sites, strict=False)]
        reading, resized = old.effect.reading, new.effect.reading
        if reading is not None and resized is not None:
            pairs = [(reading.rows, resized.rows), (reading.cols, resized.cols)]
        for before, after in pairs:
            if (ids := (id(before), id(after))) in self.seen:
                continue
            self.seen.add(ids)
            pair = memory_of(before), memory_of(after)
            if pair not in self.matched and not self.matches(before, after, channel_of):
                raise Mismatch(old.node.name, "it no longer reads the same channels", (before, after))
            self.matched.add(pair)

    def check_padding(self, old: Step, new: Step, channel_of: Tensor) -> None:
        """Raises Mismatch where a channel that met another meets a padded zero now, or the other way round."""
        if all(bool((side >= 0).all()) for tie in new.effect.ties for side in tie):
            return
        if len(old.effect.ties) != len(new.effect.ties):
            labels = tuple(side for tie in new.effect.ties for side in tie)
            raise Mismatch(new.node.name, "its operands no longer meet as they did", labels)
        spaces = torch.cat([self.channels.space_of, self.space_of_new])
        for before, after in zip(old.effect.ties, new.effect.ties, strict=True):
            for mine, other in ((0, 1), (1, 0)):
                was, now = (_company(tie[mine], tie[other], channel_of) for tie in (before, after))
                for then, since in zip(was, now, strict=True):
                    known = since < self.channels.space_of.numel()
                    fresh = spaces[since[~known]]
                    if not bool(torch.isin(since[known], then).all() & torch.isin(fresh, spaces[then]).all()):
                        raise Mismatch(new.node.name, "a padded zero now lies beside other channels", after)

    def matches(self, before: Tensor, after: Tensor, channel_of: Tensor) -> bool:
        if not torch.equal(before[before < 0], after[after < 0]):
            return False
        expected = self.times(before)
        return torch.equal(torch.bincount(channel_of[after[after >= 0]], minlength=expected.numel()), expected)

    def times(self, layout: Tensor) -> Tensor:
        """[old and new channels] int64: how often each channel must occur on an axis that had this layout.

        Survivors occur as often as before, removed channels not at all, new ones as often as others of their space.
        """
        channels = self.channels.space_of.numel()
        counts = torch.bincount(self.channels.channel_of[layout[layout >= 0]], minlength=channels)
        # all channels of a space occur equally often, for analysis/spaces.py pins the others: so the sum over the width
        each = torch.zeros_like(self.total).index_add(0, self.channels.space_of, counts) // self.total.clamp(min=1)
        return torch.cat([counts * self.kept, each[self.space_of_new]])

    def shape(self, name: str, now: Sequence[int]) -> tuple[int, ...]:
        """The shape that a parameter or buffer must have."""
        layouts = self.channels.layouts.get(name, (None,) * len(now))
        return tuple(
            size if layout is None else int(self.times(layout).sum()) + int((layout < 0).sum())
            for size, layout in zip(now, layouts, strict=True)
        )


def _company(mine: Tensor, other: Tensor, channel_of: Tensor) -> tuple[Tensor, Tensor]:
    """The channels of `mine` that meet padded zeros (NONE) of `other`, and those that meet anything else."""
    first, second = torch.broadcast_tensors(mine, other)
    alone = (first >= 0) & (second == NONE)
    return channel_of[first[alone]].unique(), channel_of[first[(first >= 0) & (second != NONE)]].unique()
