"""Steps, channels and spaces: what a graph looks like once its labels are known (see spaces.py)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from nrfx.labels import all_channels
from nrfx.records import record
from nrfx.rules import Effect, Family, Norm, Pin, Reading, reads_as_weight
from nrfx.rules.registry import gives_matrix, transposes


@record
class Step:
    """One node of one mode's graph, with the effect that its rule gave.

    `path` is the module that owns the weights or the norm, else the module that is called, else the node's name.
    """

    mode: str
    node: fx.Node
    path: str
    effect: Effect


@dataclass(frozen=True)
class Space:
    """Channels that differ only by position.

    Attributes:
        index: its position among the spaces.
        name: its first birth.
        births: the places where its channels are born -> labels of one channel there (1, or the size of a group).
        width: its channels.
        pinned, pinned_by: the reason why the width must not change, and the node or layer that gives it; else None.
        joined_by: the addition that makes it part of a residual stream, else None.
        normed: whether a gamma scales its channels.
        frozen: whether a parameter with requires_grad False lies on it.
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
        """Whether the space lies on a residual stream."""
        return self.joined_by is not None

    @property
    def free(self) -> bool:
        """Whether channels may come and go."""
        return self.pinned is None


@dataclass(frozen=True)
class Channels:
    """The channels of a network, over the graphs of both modes.

    A label indexes `channel_of`, a channel indexes `space_of`, a space indexes `spaces`. Negative labels (labels.NONE,
    labels.OPAQUE) are no index.
    """

    steps: tuple[Step, ...]
    births: Mapping[str, Tensor]  # place -> the labels that it brings into being, in order
    layouts: Mapping[str, tuple[Tensor | None, ...]]  # parameter or buffer -> its layout on each dim
    channel_of: Tensor  # int64 [labels]
    space_of: Tensor  # int64 [channels]
    spaces: tuple[Space, ...]
    norms: Mapping[str, Tensor]  # gamma -> its layout
    reasons: tuple[str, ...]  # of opaque labels: OPAQUE - k has the k-th
    aliases: Mapping[str, str]  # every parameter and buffer name -> its first name
    axes: Mapping[str, int | None]  # bare parameter -> the axis that holds its channels, None for none
    ties: tuple[tuple[Step, Tensor, Tensor], ...]  # labels that the step makes one channel, element by element
    pins: tuple[Pin, ...]

    @cached_property
    def first_norms(self) -> dict[str, Norm]:
        """Key -> the norm at its first visit, which is in the eval graph if that calls it."""
        first: dict[str, Norm] = {}
        for step in self.steps:
            if step.effect.norm is not None:
                first.setdefault(step.effect.norm.key, step.effect.norm)
        return first

    @cached_property
    def at(self) -> dict[tuple[str, fx.Node], Step]:
        """(mode, node) -> its step."""
        return {(step.mode, step.node): step for step in self.steps}

    @cached_property
    def visits(self) -> dict[str, list[Step]]:
        """Path -> the steps there, over both modes."""
        visits: dict[str, list[Step]] = {}
        for step in self.steps:
            visits.setdefault(step.path, []).append(step)
        return visits

    @cached_property
    def norm_modes(self) -> dict[str, list[str]]:
        """Key of a norm -> the mode of each of its visits."""
        modes: dict[str, list[str]] = {}
        for step in self.steps:
            if step.effect.norm is not None:
                modes.setdefault(step.effect.norm.key, []).append(step.mode)
        return modes

    @cached_property
    def shared(self) -> frozenset[str]:
        """The parameters and buffers that several layers or nodes read: for one of them alone no value may change."""
        tied = {first for name, first in self.aliases.items() if first != name}
        return frozenset(tied | {name for name, _ in read_directly(self.steps, self.aliases)})

    def channels_along(self, layout: Tensor) -> Tensor:
        """The channel of each label of a layout, negative labels kept."""
        return _looked_up(self.channel_of, layout)

    def spaces_along(self, layout: Tensor) -> Tensor:
        """The space of each label of a layout, negative labels kept."""
        return _looked_up(self.space_of, _looked_up(self.channel_of, layout))


@record
class _Outline:
    """What is known of a node without its graph."""

    op: str
    name: str
    target: Any


def apart(channels: Channels) -> Channels:
    """The channels without the nodes of the graph, which lead to its module, and without the steps that say nothing of
    parameters or work. Effects have neither what they give nor what they apply."""
    steps = []
    for step in channels.steps:
        effect, node = step.effect, step.node
        if node.op == "call_module" or effect.sites or effect.work or effect.reading or effect.family is Family.UNKNOWN:
            own: Any = _Outline(node.op, node.name, node.target)
            told = Effect(
                *(effect.family, None, effect.sites, (), effect.pins, effect.work, effect.reading),
                norm=effect.norm,
                reason=effect.reason,
            )
            steps.append(Step(step.mode, own, step.path, told))
    return replace(channels, steps=tuple(steps), ties=())


def _looked_up(table: Tensor, ids: Tensor) -> Tensor:
    """table[id] of each id, negative ids kept."""
    if not table.numel():  # then no id is an index
        return ids
    if not all_channels(ids):
        return torch.where(ids >= 0, table[ids.clamp(min=0)], ids)
    return table.index_select(0, ids) if ids.dim() == 1 else table[ids]


class Mismatch(Exception):
    """An op does not take the new widths. `labels` are those, old or new, whose spaces are concerned."""

    def __init__(self, node: str, reason: str, labels: tuple[Tensor, ...]) -> None:
        super().__init__(f"{node}: {reason}")
        self.node, self.reason, self.labels = node, reason, labels


def read_directly(steps: Iterable[Step], aliases: Mapping[str, str]) -> list[tuple[str, str]]:
    """(parameter or buffer, node) for each read that is not the read of a weight which the node's rule understands, and
    for all that the code of a box may read."""
    known = {(step.mode, step.node): step.effect for step in steps}
    direct = []
    for (mode, node), _ in known.items():
        if (box := node.meta.get("opaque")) is not None:
            direct += [(aliases.get(name, name), node.name) for name in box.reads]
        if node.op == "get_attr" and not known[mode, node].sites:
            name = aliases.get(str(node.target), str(node.target))
            for user in _reading_users(node):
                if known[mode, user].family is not Family.VALUE and name not in {
                    site.parameter for site in known[mode, user].sites
                }:
                    direct.append((name, user.name))
    return direct


def _reading_users(node: fx.Node) -> Iterator[fx.Node]:
    """The users of a tensor that the graph reads; behind a transposition or a view of a weight, the users of that."""
    for user in node.users:
        passes = (transposes(user) or gives_matrix(user)) and reads_as_weight(node, user)
        yield from _reading_users(user) if passes else (user,)


def readers(steps: Iterable[Step]) -> dict[str, Step]:
    """Key -> the first step at which these weights read; their later visits are tied to it."""
    first: dict[str, Step] = {}
    for step in steps:
        if step.effect.reading is not None:
            first.setdefault(step.effect.reading.key, step)
    return first


def first_readings(steps: Iterable[Step]) -> dict[str, Reading]:
    """Key -> the channels that these weights read and give, at their first visit."""
    return {key: step.effect.reading for key, step in readers(steps).items() if step.effect.reading is not None}
