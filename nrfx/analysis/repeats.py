"""The steps of eval mode that are steps of train mode as well.

Where the modes have graphs of their own, most nodes are in both: the same op on the same labels has the same effect.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx

from nrfx.analysis.channels import Step
from nrfx.nests import with_tensors
from nrfx.rules import Effect, Family
from nrfx.tracing.graph.twins import Twins

_NAMELESS = (Family.VALUE, Family.IDENTITY, Family.MOVEMENT, Family.POINTWISE, Family.POOL)
"""What an op of these does says nothing of the name of its node, where it pins nothing."""


class Repeats:
    """The steps of one mode, as those of the graph of another, whose nodes are asked for in their order."""

    def __init__(self, graph: fx.Graph, steps: Mapping[fx.Node, Step]) -> None:
        self._twins = Twins(graph)
        self._steps = steps
        self._alike: set[fx.Node] = set()

    def step(self, mode: str, node: fx.Node, sources: Sequence[fx.Node], apart: bool) -> Step | None:
        """The step of a node, if it is the same op on the same labels as a node of the other graph.

        apart: whether its effect belongs to its own graph.
        """
        other = self._twins.find(node, sources)
        if other is None or apart or not self._alike.issuperset(sources):
            return None
        step = self._steps[other]
        if not _holds(step.effect, node, other):
            return None
        self._alike.add(node)
        return Step(mode, node, node.name if step.path == other.name else step.path, step.effect)


def _holds(effect: Effect, node: fx.Node, other: fx.Node) -> bool:
    """Whether the effect of one node is that of its twin."""
    if effect.family is Family.UNKNOWN or _shape(node) != _shape(other):
        return False
    return node.name == other.name or (effect.family in _NAMELESS and not effect.pins)


def _shape(node: fx.Node) -> Any:
    return with_tensors(node.meta.get("val"), lambda value: value.shape)
