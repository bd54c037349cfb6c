"""Copies of graphs, made at once or later.

Until it is made, a later one is plain data: a node leads to its graph, and that to its module with all weights.
"""

import copy
from dataclasses import dataclass
from typing import Any, Self

from torch import fx
from torch.fx.node import map_aggregate

# the setters of the properties: an assignment to a node takes it out of the table of its graph, and in again
SET_ARGS: Any = fx.Node.args.fset  # type: ignore[attr-defined]
SET_KWARGS: Any = fx.Node.kwargs.fset  # type: ignore[attr-defined]


def copied(graph: fx.Graph) -> fx.Graph:
    """A copy of the graph with the same names and metadata."""
    twin = fx.Graph(tracer_cls=graph._tracer_cls)
    nodes: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        # arguments that come afterwards are not searched for symbolic sizes, of which there are none
        own = nodes[node] = twin.create_node(node.op, node.target, name=node.name, type_expr=node.type)
        if node.args:
            SET_ARGS(own, fx.map_arg(node.args, nodes.__getitem__))
        if node.kwargs:
            SET_KWARGS(own, fx.map_arg(node.kwargs, nodes.__getitem__))
        own.meta.update(node.meta)  # to set an attribute of a node takes long
    twin._codegen = copy.deepcopy(graph._codegen)
    return twin


@dataclass(frozen=True)
class _Place:
    """The node that was in this place of the graph, as an argument of another."""

    index: int


@dataclass(frozen=True)
class KeptGraph:
    """A graph at one moment, from which `copied` would have made a copy then; `made` makes it later.

    nodes: (op, target, args, kwargs, name, type, meta) of each node, in order.
    """

    tracer: Any
    codegen: Any
    nodes: tuple[tuple[str, Any, Any, Any, str, Any, dict[str, Any]], ...]

    @classmethod
    def of(cls, graph: fx.Graph) -> Self:
        """The graph as it is now."""
        places: dict[fx.Node, _Place] = {}
        nodes = []
        for index, node in enumerate(graph.nodes):
            args, kwargs = node.args, node.kwargs
            if args:
                args = fx.map_arg(args, places.__getitem__)  # type: ignore[arg-type]
            if kwargs:
                kwargs = fx.map_arg(kwargs, places.__getitem__)  # type: ignore[arg-type]
            nodes.append((node.op, node.target, args, kwargs, node.name, node.type, copy.copy(node.meta)))
            places[node] = _Place(index)
        return cls(graph._tracer_cls, copy.deepcopy(graph._codegen), tuple(nodes))

    def made(self) -> fx.Graph:
        """The graph."""
        graph = fx.Graph(tracer_cls=self.tracer)
        nodes: list[fx.Node] = []

        def node_of(value: Any) -> Any:
            return nodes[value.index] if isinstance(value, _Place) else value

        for op, target, args, kwargs, name, kind, meta in self.nodes:
            node = graph.create_node(
                op, target, map_aggregate(args, node_of), map_aggregate(kwargs, node_of), name, kind
            )
            node.meta.update(meta)
            nodes.append(node)
        graph._codegen = copy.deepcopy(self.codegen)
        return graph
