"""Two graphs in one: where both modes run the same operations, the constants that differ become ByMode calls.

Not handled: operations that exist in one mode only. The model then keeps two graphs.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx, nn

from nrfx.tracing.graph.guards import is_guard
from nrfx.tracing.graph.module import KEPT, ByMode
from nrfx.tracing.graph.shapes import BOTH


class _StructureDiffers(Exception):
    """The two modes do not run the same operations."""


def unified(train: fx.Graph, evaluated: fx.Graph, root: nn.Module) -> fx.Graph | None:
    """One graph for both modes, or None where their structure differs.

    Only booleans and floats may differ: an integer is an index or a size, and two structures are analysed as
    two.
    """
    pairs = list(zip(train.nodes, evaluated.nodes, strict=False))
    twin = {b: a for a, b in pairs}
    same_ops = all(a.op == b.op and a.target == b.target for a, b in pairs)
    if len(train.nodes) != len(evaluated.nodes) or not same_ops:
        return None
    try:
        for a, b in pairs:
            _blend((a.args, a.kwargs), (b.args, b.kwargs), twin, lambda _, value: value)
    except _StructureDiffers:
        return None
    for a, b in pairs:
        b.args, b.kwargs = _blend((a.args, a.kwargs), (b.args, b.kwargs), twin, _insert_by_mode(b, root))
    return evaluated


def with_modes(graph: fx.Graph, root: nn.Module) -> bool:
    """Puts ByMode calls in the place of BOTH in the arguments of all nodes; returns whether there are any."""
    return _in_place_of_both(graph, lambda node: lambda _: _insert_by_mode(node, root)(True, False))


def of_eval(graph: fx.Graph) -> None:
    """Puts False, the mode of eval mode, in the place of BOTH."""
    _in_place_of_both(graph, lambda node: lambda _: False)


def _in_place_of_both(graph: fx.Graph, instead: Callable[[fx.Node], Callable[[Any], Any]]) -> bool:
    found = [node for node in graph.nodes if any(arg is BOTH for arg in (*node.args, *node.kwargs.values()))]
    for node in found:
        of = instead(node)
        node.args = tuple([of(arg) if arg is BOTH else arg for arg in node.args])
        node.kwargs = {name: of(arg) if arg is BOTH else arg for name, arg in node.kwargs.items()}
    return bool(found)


def alike(one: fx.Graph, other: fx.Graph) -> bool:
    """Whether two graphs run the same operations on the same constants, and go by the same decisions."""

    def differing(a: Any, b: Any) -> Any:
        raise _StructureDiffers

    pairs = list(zip(one.nodes, other.nodes, strict=False))
    twin = {b: a for a, b in pairs}
    if len(one.nodes) != len(other.nodes) or any(a.op != b.op or not _same_target(a, b) for a, b in pairs):
        return False
    try:
        for a, b in pairs:
            cut = 2 if is_guard(a) else None  # its text holds shapes of the inputs
            _blend((a.args[:cut], a.kwargs), (b.args[:cut], b.kwargs), twin, differing)
    except _StructureDiffers:
        return False
    return True


def _same_target(a: fx.Node, b: fx.Node) -> bool:
    return a.op == "placeholder" or a.target == b.target


def _blend(a: Any, b: Any, twin: Mapping[fx.Node, fx.Node], differing: Callable[[Any, Any], Any]) -> Any:
    """b, with `differing(a, b)` in the place of each constant that is not the same in a."""
    if isinstance(b, fx.Node):
        if twin[b] is not a:
            raise _StructureDiffers
        return b
    if isinstance(b, bool | float) and type(a) is type(b):
        return b if a == b else differing(a, b)
    if type(a) is not type(b):  # 1 == True == 1.0, so that a == b alone does not tell
        raise _StructureDiffers
    if isinstance(b, tuple | list):
        if len(a) != len(b):
            raise _StructureDiffers
        items = [_blend(x, y, twin, differing) for x, y in zip(a, b, strict=True)]
        return tuple(items) if isinstance(b, tuple) else items
    if isinstance(b, dict):
        if a.keys() != b.keys():
            raise _StructureDiffers
        return {key: _blend(a[key], b[key], twin, differing) for key in b}
    if isinstance(b, slice):
        return slice(*_blend((a.start, a.stop, a.step), (b.start, b.stop, b.step), twin, differing))
    if a != b:
        raise _StructureDiffers
    return b


def _insert_by_mode(node: fx.Node, root: nn.Module) -> Callable[[Any, Any], fx.Node]:
    """A function that puts a ByMode call before the node and returns it.

    The ByMode belongs to the module whose forward holds the constant, and so follows that module's own mode.
    """

    def insert(train: Any, evaluated: Any) -> fx.Node:
        stack = node.meta.get("nn_module_stack")
        path = next(reversed(stack.values()))[0] if stack else ""
        name = _add_by_mode(root.get_submodule(path))
        with node.graph.inserting_before(node):
            call = node.graph.call_module(f"{path}.{name}" if path else name, (train, evaluated))
        call.meta.update({key: node.meta[key] for key in KEPT if key in node.meta})
        return call

    return insert


def _add_by_mode(owner: nn.Module) -> str:
    name = "by_mode"
    while hasattr(owner, name) and not isinstance(getattr(owner, name), ByMode):
        name += "_"
    if not hasattr(owner, name):
        owner.add_module(name, ByMode().train(owner.training))
    return name
