"""Widths that a graph states as numbers: the sizes of a view, the groups of a convolution called as a function."""

from collections.abc import Mapping
from typing import Any

from nrfx.trace import TracedModule


def write_literals(traced: TracedModule, literals: Mapping[tuple[str, str], Mapping[int | str, Any]]) -> None:
    """Writes the arguments, by index or name, of each node (mode, name) into the graphs, in place."""
    if not literals:
        return
    for mode, graph in traced.graphs.items():
        for node in graph.nodes:
            for place, value in literals.get((mode, node.name), {}).items():
                if isinstance(place, int):
                    node.update_arg(place, value)
                else:
                    node.update_kwarg(place, value)
    traced.recompile()
