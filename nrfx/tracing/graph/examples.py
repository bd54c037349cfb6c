"""What the values of a graph are like for the first example of the batch alone.

The multiply-adds of one example cannot be told from those of a batch: some are done once for all examples, and some
between examples. Nor does a shape say which of its dims holds the examples, if any does.
"""

from collections.abc import Mapping
from typing import Any

from torch import fx

from nrfx.errors import TraceError
from nrfx.tracing.graph.copies import copied
from nrfx.tracing.graph.module import TracedModule, as_parameters
from nrfx.tracing.graph.shapes import Shapes
from nrfx.tracing.graph.walk import Contents


def of_one_example(traced: TracedModule) -> Mapping[fx.Node, Any] | None:
    """The value of each node of the eval graph if the first dim of every input is 1; None where it cannot be so.

    A box is only known at the sizes at which it ran.
    """
    graph = traced.graphs["eval"]
    if any("opaque" in node.meta for node in graph.nodes):
        return None
    twin = copied(graph)
    for node in twin.nodes:
        node.meta.pop("val", None)
    inputs = tuple(((1, *shape[1:]) if shape else shape, dtype) for shape, dtype in traced.inputs)
    contents = Contents.of(traced)
    try:
        Shapes(contents, as_parameters(contents, inputs), training=False).fill(twin)
    except TraceError:
        return None
    return {node: other.meta["val"] for node, other in zip(graph.nodes, twin.nodes, strict=True)}


def batch_of(traced: TracedModule) -> int:
    """Examples in the batch that was traced: what the first dims of all inputs agree on, else 1. Parts of a model get
    anchors and proposals as well, so that their work is that of one run."""
    if traced.facts.parts:
        return 1
    sizes = {shape[0] for shape, _ in traced.inputs if shape}
    return sizes.pop() if len(sizes) == 1 else 1
