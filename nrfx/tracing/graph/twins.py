"""Nodes of one graph that are the same op on the same values as nodes of another."""

from collections.abc import Sequence
from typing import Any

from torch import fx


class Twins:
    """The twins of nodes of one graph, which are asked for in their order, among those of another.

    Attributes:
        of: node -> its twin.
        back: twin -> the node.

    >>> def graph():
    ...     made = fx.Graph()
    ...     x = made.placeholder("x")
    ...     made.output(made.call_method("relu", (made.call_method("abs", (x,)),)))
    ...     return made
    >>> twins = Twins(graph())
    >>> [twins.find(node, node.all_input_nodes).name for node in graph().nodes]
    ['x', 'abs_1', 'relu', 'output']
    """

    def __init__(self, graph: fx.Graph) -> None:
        """Takes the other graph."""
        self.of: dict[fx.Node, fx.Node] = {}
        self.back: dict[fx.Node, fx.Node] = {}
        self._waiting: dict[tuple[Any, ...], list[fx.Node]] = {}
        for other in graph.nodes:
            self._waiting.setdefault((other.op, other.target, *other.all_input_nodes), []).append(other)

    def find(self, node: fx.Node, sources: Sequence[fx.Node]) -> fx.Node | None:
        """The first node that is the twin of this one and of none before it; sources: the inputs of the node."""
        inputs = [self.of.get(source) for source in sources]
        for other in self._waiting.get((node.op, node.target, *inputs), ()):
            if other not in self.back and fx.map_arg((node.args, node.kwargs), self.of.__getitem__) == (
                other.args,
                other.kwargs,
            ):
                self.pair(node, other)
                return other
        return None

    def pair(self, node: fx.Node, other: fx.Node) -> None:
        """Says that two nodes are twins."""
        self.of[node], self.back[other] = other, node
