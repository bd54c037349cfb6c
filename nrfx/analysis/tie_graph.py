"""Ties and pins as a graph, and the shortest ways from a layer to a pin.

vertex       a node of the traced graph together with one group of the labels that meet there: those born at one place
             that lie in one space, or those that are opaque for one reason
edge         from a node to those that use its value, and back; between tied groups; between nodes that read the same
             weights
pin          a vertex too, one for each space that it touches. Edges lead into it, and from it to the end of the space
             alone, so that no way to one pin leads through another
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels, Step
from nrfx.labels import OPAQUE, collapse
from nrfx.rules import Family, Pin, tensors

Hop = Literal["start", "onward", "back", "shared"]
"""How a way comes to a node: it starts there, or from an input of the node, from a user of it, or by shared weights."""


@dataclass(frozen=True)
class Vertex:
    """A node with one group of the labels that meet there; or a pin, where `pin` >= 0; or the end of a space.

    All pins of a space lead to one end, and all additions on its stream to another, so that the nearest pin or addition
    is found by one shortest way to the end.
    """

    mode: str
    node: str
    group: int
    pin: int = -1


class TieGraph:
    """The ties and pins of a network as a graph (see the top of this file)."""

    def __init__(self, channels: Channels) -> None:
        import networkx  # noqa: PLC0415 (slow to import, and only why asks for ways)

        self.channels = channels
        self.graph = networkx.DiGraph()
        self.group_of = _group_of(channels)
        self._flow()
        self._ties()
        self._shared()
        self.vertices = self._by_space()
        self.at: dict[tuple[int, str], list[Vertex]] = {}
        for space, vertices in self.vertices.items():
            for vertex in vertices:
                self.at.setdefault((space, vertex.node), []).append(vertex)
        for index, pin in enumerate(channels.pins):
            self._pin(index, pin)
        for step in channels.steps:
            if step.effect.adds:
                self._join(step)

    def to_pin(self, steps: Sequence[Step], space: int) -> list[Vertex]:
        """The way from a layer to the nearest pin of a space, which comes last."""
        return self._shortest(steps, space, [_pinned(space)])[:-1]

    def to_join(self, steps: Sequence[Step], space: int) -> list[Vertex]:
        """The way from a layer to the nearest addition on its stream."""
        return self._shortest(steps, space, [_joined(space)])[:-1]

    def to_nodes(self, steps: Sequence[Step], space: int, nodes: set[str]) -> list[Vertex]:
        """The way from a layer to the nearest of the nodes."""
        return self._shortest(steps, space, [v for node in nodes for v in self.at.get((space, node), ())])

    def to_source(self, steps: Sequence[Step], code: int) -> list[Vertex]:
        """The way from a layer to the node from which the opaque labels of this code come."""
        return self._shortest(steps, code, self._sources(code))

    def to_met(self, way: Sequence[Vertex], reason: str) -> list[Vertex]:
        """From a pin that says "meets REASON" on to the node from which the opaque labels with that reason come."""
        met = reason.removeprefix("meets ")
        if not way or met == reason:
            return []
        step = next(step for step in self.channels.steps if step.node.name == way[-1].node)
        return self.to_source([step], OPAQUE - self.channels.reasons.index(met))

    def pins_of(self, space: int) -> list[int]:
        """The indices of the pins of a space."""
        end = _pinned(space)
        return sorted(vertex.pin for vertex in self.graph.pred[end]) if end in self.graph else []

    def hop(self, before: Vertex | None, after: Vertex) -> Hop:
        """How a way comes from one vertex to the next."""
        return "start" if before is None or before.pin >= 0 else self.graph.edges[before, after].get("hop", "shared")

    def _flow(self) -> None:
        """Edges between each node and those that use its value, for each group of labels in the value."""
        outs: dict[tuple[str, str], list[int]] = {}
        known: dict[int, list[int]] = {}  # by the identity of a label tensor: many steps hand on the same one
        for step in self.channels.steps:
            values = tensors(step.effect.out) if step.effect.family is not Family.VALUE else []
            for labels in values:
                if id(labels) not in known:
                    known[id(labels)] = self._groups(labels)
            here = list(dict.fromkeys(group for labels in values for group in known[id(labels)]))
            outs[step.mode, step.node.name] = here
            self.graph.add_nodes_from(_at(step, group) for group in here)
            for source in step.node.all_input_nodes:
                for group in outs[step.mode, source.name]:
                    before, after = Vertex(step.mode, source.name, group), _at(step, group)
                    self.graph.add_edge(before, after, hop="onward")
                    self.graph.add_edge(after, before, hop="back")

    def _ties(self) -> None:
        """Edges between the groups that a step ties."""
        for step, left, right in self.channels.ties:
            both = torch.stack([x.reshape(-1) for x in torch.broadcast_tensors(left, right)])
            both = both[:, (both >= 0).all(0)]
            for one, other in torch.unique(self.group_of[both], dim=1).t().tolist() if both.numel() else ():
                if one != other:
                    self._both_ways(_at(step, one), _at(step, other))

    def _shared(self) -> None:
        """Edges between the first step that reads a weight and the later ones."""
        first: dict[tuple[str, int], tuple[Step, list[int]]] = {}
        for step in self.channels.steps:
            for site in step.effect.sites:
                if (site.parameter, site.dim) not in first:
                    first[site.parameter, site.dim] = step, self._groups(site.layout)
                earlier, groups = first[site.parameter, site.dim]
                if earlier is not step:
                    for group in groups:
                        self._both_ways(_at(earlier, group), _at(step, group))

    def _pin(self, index: int, pin: Pin) -> None:
        """A vertex for the pin in each space that it touches, behind its node.

        A pin may name a layer or a parameter instead of a node: then it stands behind the nodes that read this.
        """
        touched = [group for group in self._groups(pin.labels) if group >= 0]
        named = {v for mode in ("eval", "train") for g in touched if (v := Vertex(mode, pin.node, g)) in self.graph}
        if not named:
            nodes = self._readers(pin.node)
            named = {v for g in touched for v in self.vertices[self._space(g)] if v.node in nodes and v.group == g}
        for vertex in named:
            space = self._space(vertex.group)
            end = Vertex("", pin.node, space, pin=index)
            self.graph.add_edge(vertex, end)
            self.graph.add_edge(end, _pinned(space))

    def _readers(self, place: str) -> set[str]:
        """The nodes that read the layer or the parameter."""
        return {
            step.node.name
            for step in self.channels.steps
            if place in {site.parameter for site in step.effect.sites}
            or (step.effect.reading is not None and step.effect.reading.key == place)
        }

    def _join(self, step: Step) -> None:
        for group in {group for labels in tensors(step.effect.out) for group in self._groups(labels) if group >= 0}:
            self.graph.add_edge(_at(step, group), _joined(self._space(group)))

    def _both_ways(self, one: Vertex, other: Vertex) -> None:
        for ends in ((one, other), (other, one)):
            if not self.graph.has_edge(*ends):
                self.graph.add_edge(*ends)

    def _groups(self, labels: Tensor) -> list[int]:
        """The groups of the labels: a number >= 0 for a birth and space, or an opaque code."""
        ids = collapse(labels).reshape(-1)
        groups = ids[ids <= OPAQUE]
        if self.group_of.numel():
            groups = torch.cat([self.group_of[ids[ids >= 0]], groups])
        return in_order(groups)

    def _space(self, group: int) -> int:
        return group % len(self.channels.spaces) if group >= 0 else group

    def _by_space(self) -> dict[int, list[Vertex]]:
        """The vertices of each space, and of each opaque code."""
        vertices: dict[int, list[Vertex]] = {}
        for vertex in self.graph:
            vertices.setdefault(self._space(vertex.group), []).append(vertex)
        return vertices

    def _sources(self, code: int) -> list[Vertex]:
        """The vertices of an opaque code whose nodes have no input with the same code."""
        edges = self.graph.edges
        return [
            vertex
            for vertex in self.vertices.get(code, ())
            if all(edges[before, vertex].get("hop") != "onward" for before in self.graph.pred[vertex])
        ]

    def _shortest(self, steps: Sequence[Step], space: int, ends: Sequence[Vertex]) -> list[Vertex]:
        """The shortest way from one of the steps, at a vertex of the space, to one of the ends; [] if there is none."""
        import networkx  # noqa: PLC0415 (see __init__)

        starts = [
            vertex for step in steps for vertex in self.at.get((space, step.node.name), ()) if vertex.mode == step.mode
        ]
        known = [end for end in ends if end in self.graph]
        if not (starts and known):
            return []
        # both ends of the way are one vertex each, so that one search finds the nearest of all pairs
        self.graph.add_edges_from([*((_START, start) for start in starts), *((end, _END) for end in known)])
        try:
            way: list[Vertex] = networkx.bidirectional_shortest_path(self.graph, _START, _END)[1:-1]
        except networkx.NetworkXNoPath:
            way = []
        self.graph.remove_nodes_from([_START, _END])
        return way


_START, _END = Vertex("", "start", -1), Vertex("", "end", -1)


def _at(step: Step, group: int) -> Vertex:
    return Vertex(step.mode, step.node.name, group)


def _pinned(space: int) -> Vertex:
    return Vertex("", "pinned", space)


def _joined(space: int) -> Vertex:
    return Vertex("", "joined", space)


def _group_of(channels: Channels) -> Tensor:
    """[labels] int64: birth * spaces + space of each label, so that group % spaces is the space."""
    groups = torch.zeros(channels.channel_of.numel(), dtype=torch.int64)
    for index, labels in enumerate(channels.births.values()):
        groups[labels] = index * len(channels.spaces) + channels.spaces_along(labels)
    return groups


def in_order(ids: Tensor) -> list[int]:
    """The distinct ids, in the order in which they come."""
    return list(dict.fromkeys(ids.unique_consecutive().tolist()))
