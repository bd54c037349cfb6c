"""What the analysis of channels gives: steps, spaces, and how labels, channels and spaces correspond."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, fx

from nrfx.rules import Effect, Family, Norm, Pin, Reading


@dataclass(frozen=True)
class Step:
    """One interpreted node: what its rule said."""

    mode: str
    node: fx.Node
    path: str
    effect: Effect


@dataclass(frozen=True)
class Space:
    """Channels that differ only by position.

    `births` names the places where they are born, `width` counts them, `each` says how many labels one channel has at
    each birth (1, or the size of a group). `pinned` is the reason why the width is fixed, else None. `joined_by` is the
    addition that makes it part of a stream.
    """

    index: int
    name: str
    births: Mapping[str, int]
    width: int
    pinned: str | None
    pinned_by: str | None
    joined_by: str | None
    normed: bool
    frozen: bool

    @property
    def stream(self) -> bool:
        """Whether it lies on a residual stream."""
        return self.joined_by is not None

    @property
    def free(self) -> bool:
        """Whether channels may come and go."""
        return self.pinned is None


@dataclass(frozen=True)
class Channels:
    """The channels of a graph. Labels index `channel_of`; channels index `space_of`; `NONE` and opaque are negative."""

    steps: tuple[Step, ...]
    births: Mapping[str, Tensor]
    layouts: Mapping[str, tuple[Tensor | None, ...]]  # parameter or buffer -> its layout on each dim
    channel_of: Tensor
    space_of: Tensor
    spaces: tuple[Space, ...]
    norms: Mapping[str, Tensor]  # gamma -> its layout
    reasons: tuple[str, ...]
    aliases: Mapping[str, str]  # every parameter and buffer name -> its first name
    axes: Mapping[str, int | None]  # bare parameter -> the axis that holds its channels, None for none
    ties: tuple[tuple[Step, Tensor, Tensor], ...]  # labels that the step makes one
    pins: tuple[Pin, ...]

    @cached_property
    def first_norms(self) -> dict[str, Norm]:
        """Key -> the norm, as its first visit (in eval mode, where there is one) sees it."""
        first: dict[str, Norm] = {}
        for step in self.steps:
            if step.effect.norm is not None:
                first.setdefault(step.effect.norm.key, step.effect.norm)
        return first

    @cached_property
    def shared(self) -> frozenset[str]:
        """The parameters and buffers that more than one layer or node reads, so that no one may change their values."""
        tied = {first for name, first in self.aliases.items() if first != name}
        return frozenset(tied | {name for name, _ in read_directly(self.steps, self.aliases)})

    def channels_along(self, layout: Tensor) -> Tensor:
        """The channel of each label of a layout, negative labels kept."""
        return _looked_up(self.channel_of, layout)

    def spaces_along(self, layout: Tensor) -> Tensor:
        """The space of each label of a layout, negative labels kept."""
        return _looked_up(self.space_of, _looked_up(self.channel_of, layout))


def _looked_up(table: Tensor, ids: Tensor) -> Tensor:
    """table[id] of each id, negative ids kept."""
    if not table.numel():
        return ids
    return table[ids] if bool((ids >= 0).all()) else torch.where(ids >= 0, table[ids.clamp(min=0)], ids)


class Mismatch(Exception):
    """Labels of other widths did not meet where the old ones did; `labels` are those concerned."""

    def __init__(self, node: str, reason: str, labels: tuple[Tensor, ...]) -> None:
        super().__init__(f"{node}: {reason}")
        self.node, self.reason, self.labels = node, reason, labels


def read_directly(steps: Iterable[Step], aliases: Mapping[str, str]) -> list[tuple[str, str]]:
    """(parameter or buffer, node) wherever a node reads one otherwise than as a weight that its rule understands."""
    known = {(step.mode, step.node): step.effect for step in steps}
    direct = []
    for (mode, node), _ in known.items():
        if node.op == "get_attr" and not known[mode, node].sites:
            name = aliases.get(str(node.target), str(node.target))
            for user in node.users:
                if known[mode, user].family is not Family.VALUE and name not in {
                    site.parameter for site in known[mode, user].sites
                }:
                    direct.append((name, user.name))
    return direct


def readers(steps: Iterable[Step]) -> dict[str, Step]:
    """Key -> the first step at which those weights read; later visits are tied to it."""
    first: dict[str, Step] = {}
    for step in steps:
        if step.effect.reading is not None:
            first.setdefault(step.effect.reading.key, step)
    return first


def first_readings(steps: Iterable[Step]) -> dict[str, Reading]:
    """Key -> what those weights read and give at their first visit."""
    return {key: step.effect.reading for key, step in readers(steps).items() if step.effect.reading is not None}
