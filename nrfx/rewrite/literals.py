"""Widths that a graph states as numbers: the sizes of a view or of parts, the groups of a convolution as a function."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import fx

from nrfx.rules import op_of
from nrfx.tracing import TracedModule

Literals = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Mode -> node -> argument, by index or name -> its value; in a list of sizes, None where the size stays. "1.2": the
slice at place 2 of the index that is argument 1, as its bounds.
"""


def write_literals(traced: TracedModule, literals: Mapping[tuple[str, str], Mapping[int | str, Any]]) -> None:
    """Writes the arguments, by index or name, of each node (mode, name) into the graphs, in place.

    The traced module's facts hold them from then on: the code of the model states the old widths, and a fresh trace of
    it needs the new ones.
    """
    known = {
        mode: {node: dict(places) for node, places in nodes.items()} for mode, nodes in traced.facts.literals.items()
    }
    for (mode, node), places in literals.items():
        of_node = known.setdefault(mode, {}).setdefault(node, {})
        of_node.update({str(place): _plain(value) for place, value in places.items()})
    put_literals(traced, known)


def put_literals(traced: TracedModule, literals: Literals) -> None:
    """Writes what `Facts.literals` holds into the graphs, in place.

    Raises:
        KeyError: a graph has no such node.
    """
    if not literals:
        return
    for mode, of_nodes in literals.items():
        nodes = {node.name: node for node in traced.graphs[mode].nodes}
        for name, places in of_nodes.items():
            for place, value in places.items():
                _put(nodes[name], place, value)
    traced.facts = replace(traced.facts, literals=literals)
    traced.recompile()


def _put(node: fx.Node, place: str, value: Any) -> None:
    at, _, item = place.partition(".")
    if item:  # the bounds of a slice, which stands there in an index
        index: Any = node.args[int(at)]
        was = index[int(item)]
        bounds = [old if new is None else new for old, new in zip((was.start, was.stop), value, strict=True)]
        node.update_arg(int(at), (*index[: int(item)], slice(*bounds), *index[int(item) + 1 :]))
        return
    positional = place.isdigit()
    old: Any = node.args[int(place)] if positional else node.kwargs[place]
    op = op_of(node.target) if node.op in ("call_function", "call_method") else None
    if isinstance(value, list) and not isinstance(old, tuple | list):  # sizes of parts in the place of one number
        node.target = node.target if op is None or op.sized is None else op.sized
    elif isinstance(value, list):
        items = [before if size is None else size for before, size in zip(old, value, strict=True)]
        value = tuple(items) if isinstance(old, tuple) else items
    if positional:
        node.update_arg(int(place), value)
    else:
        node.update_kwarg(place, value)


def _plain(value: Any) -> Any:
    """The value with None for each node in a list of sizes: what a node computes is not written as a number."""
    return [None if isinstance(item, fx.Node) else item for item in value] if isinstance(value, tuple | list) else value
