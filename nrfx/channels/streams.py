"""Residual streams: what an addition joins, and the value at which its arms part."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import networkx
from torch import Tensor, fx

from nrfx.channels.value import Step
from nrfx.rules import tensors
from nrfx.trace import TracedModule


def on_streams(traced: TracedModule, steps: Iterable[Step]) -> Iterator[tuple[str, Tensor]]:
    """(addition, labels) of every value on a residual stream."""
    outs = {(step.mode, step.node.name): step.effect.out for step in steps}
    joins = [step for step in steps if step.effect.joins]
    trees = {mode: _dominator_tree(traced.graphs[mode]) for mode in {step.mode for step in joins}}
    for step in joins:
        for value in (step.effect.out, *_entries(step, outs, trees[step.mode])):
            for labels in tensors(value):
                yield step.node.name, labels


def _entries(step: Step, outs: Mapping[tuple[str, str], Any], tree: Mapping[Any, Any]) -> list[Any]:
    """The value at which the two arms of an addition part: the nearest node that every path to both must cross."""
    operands = [arg for arg in step.node.all_input_nodes if tensors(outs[step.mode, arg.name])]
    if len(operands) < 2:
        return []
    common = _dominators(operands[0], tree)
    for operand in operands[1:]:
        above = set(_dominators(operand, tree))
        common = [node for node in common if node in above]
    return [outs[step.mode, node.name] for node in common[:1]]


def _dominators(node: fx.Node, tree: Mapping[Any, Any]) -> list[fx.Node]:
    """The nodes that every path from the inputs to `node` crosses, nearest first, itself included."""
    above: list[fx.Node] = []
    while isinstance(node, fx.Node) and node not in above:
        above.append(node)
        node = tree.get(node, _ENTRY)
    return above


_ENTRY: Any = "entry"


def _dominator_tree(graph: fx.Graph) -> dict[Any, Any]:
    """Node -> its immediate dominator."""
    flow = networkx.DiGraph()
    flow.add_node(_ENTRY)
    for node in graph.nodes:
        flow.add_edges_from((source, node) for source in node.all_input_nodes or [_ENTRY])
    return dict(networkx.immediate_dominators(flow, _ENTRY))
