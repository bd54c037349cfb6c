"""Residual streams: the sum of an addition, and the value at which its two arms begin.

In y + f(y) the arms are y itself and f; they begin at y, the last value that all of the sum comes from. A sum with a
parameter (a bias, a position embedding) is no stream: it has one arm.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, fx

from nrfx.analysis.channels import Step
from nrfx.rules import tensors
from nrfx.tracing import TracedModule


def on_streams(traced: TracedModule, steps: Sequence[Step]) -> Iterator[tuple[str, Tensor]]:
    """(addition, labels) of every value on a residual stream."""
    sums = [step for step in steps if step.effect.adds]
    outs = {step.node: step.effect.out for step in steps}  # of two graphs no node is in both
    fed = {mode: fed_by_inputs(traced.graphs[mode]) for mode in {step.mode for step in sums}}
    joins = [step for step in sums if sum(source in fed[step.mode] for source in _operands(step, outs)) > 1]
    trees = {mode: _Dominators(traced.graphs[mode]) for mode in {step.mode for step in joins}}
    for step in joins:
        for value in (step.effect.out, *_entries(step, outs, trees[step.mode])):
            for labels in tensors(value):
                yield step.node.name, labels


def _entries(step: Step, outs: Mapping[fx.Node, Any], tree: "_Dominators") -> list[Any]:
    """The value at which the arms of an addition begin: the nearest node that every path to its operands crosses."""
    operands = _operands(step, outs)
    parting = tree.nearest(operands) if len(operands) > 1 else None
    return [] if parting is None else [outs[parting]]


def _operands(step: Step, outs: Mapping[fx.Node, Any]) -> list[fx.Node]:
    return [arg for arg in step.node.all_input_nodes if tensors(outs[arg])]


def fed_by_inputs(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose values come from an input of the network."""
    fed = set[fx.Node]()
    for node in graph.nodes:
        if node.op == "placeholder" or not fed.isdisjoint(node.all_input_nodes):
            fed.add(node)
    return fed


class _Dominators:
    """The tree of immediate dominators of a graph: node -> the nearest other node that every path to it crosses.

    The nodes of a graph come after their inputs, so that one pass builds the tree: the dominator of a node is the
    nearest common ancestor of its inputs. None stands for the entry, above all nodes. networkx.immediate_dominators,
    which is made for any graph, takes 3.7 times as long on ResNet-50 and 4.5 times on Swin-T.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.above: dict[fx.Node, fx.Node | None] = {}
        self.depth: dict[fx.Node | None, int] = {None: 0}
        for node in graph.nodes:
            sources = node.all_input_nodes
            above = sources[0] if len(sources) == 1 else self.nearest(sources)
            self.above[node], self.depth[node] = above, self.depth[above] + 1

    def nearest(self, nodes: Sequence[fx.Node]) -> fx.Node | None:
        """The nearest node that every path to each of `nodes` crosses, perhaps one of them."""
        common = nodes[0] if nodes else None
        for node in nodes[1:]:
            other: fx.Node | None = node
            # the deeper of the two climbs until both are one: the entry at the latest, which has depth 0
            while common is not other:
                if self.depth[common] < self.depth[other]:
                    common, other = other, common
                common = self.above[common] if common is not None else None
        return common
