"""Regions of a graph: `with torch.no_grad():`, `enable_grad`, `set_grad_enabled` and `autocast` in a forward.

A region is a pair of nodes: `begin(kind, ...)` and `end(region)`. What stands between them runs in it, so that a node
that a rewrite inserts beside another is in the regions of that one. In the code of the graph the pair is a `with` block
(codegen.py). Both functions do what they say, for whoever runs the graph node by node.

Not recorded, and refused: `torch.inference_mode`, whose tensors no later layer can learn from.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import has_side_effect
from torch.utils._pytree import tree_leaves

from nrfx.errors import TraceError

KINDS: dict[str, Any] = {
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "set_grad_enabled": torch.set_grad_enabled,
    "autocast": torch.autocast,
}
"""The name of each kind of region in torch, and its class."""


@has_side_effect
def begin(kind: str, *args: Any, **kwargs: Any) -> Any:
    """Begins a region of that kind; the arguments are those of its class."""
    region = KINDS[kind](*args, **kwargs)
    region.__enter__()
    return region


@has_side_effect
def end(region: Any) -> None:
    """Ends a region that `begin` gave."""
    region.__exit__(None, None, None)


def is_border(node: fx.Node) -> bool:
    """Whether the node begins or ends a region; it takes and gives no tensor."""
    return node.op == "call_function" and node.target in (begin, end)


def erase_empty(graph: fx.Graph) -> None:
    """Removes the regions that compute no tensor: there a forward asked for sizes. Values are known (`meta["val"]`)."""
    for node in reversed(graph.nodes):
        if node.target is end and not any(_gives_tensors(inner) for inner in _between(node.args[0], node)):
            region = node.args[0]
            graph.erase_node(node)
            graph.erase_node(region)


def _between(first: Any, last: fx.Node) -> Iterator[fx.Node]:
    node = first.next
    while node is not last:
        yield node
        node = node.next


def _gives_tensors(node: fx.Node) -> bool:
    return any(isinstance(value, Tensor) for value in tree_leaves(node.meta["val"]))


def without_gradients(graph: fx.Graph) -> frozenset[fx.Node]:
    """The nodes that run in a region in which no gradients are recorded, in training."""
    return frozenset(graph.nodes) - _inside(graph, _records, True)


def under_autocast(graph: fx.Graph) -> frozenset[fx.Node]:
    """The nodes that run in a region that switches autocast on."""
    return _inside(graph, casts, False)


def _inside(graph: fx.Graph, switched: Callable[[fx.Node, bool], bool], at_first: bool) -> frozenset[fx.Node]:
    """The nodes at which a switch is on that the regions turn: (border, before) -> after."""
    inside, states = set(), [at_first]
    for node in graph.nodes:
        if node.target is begin:
            states.append(switched(node, states[-1]))
        if states[-1]:
            inside.add(node)
        if node.target is end:
            states.pop()
    return frozenset(inside)


def _records(border: fx.Node, before: bool) -> bool:
    """Whether gradients are recorded in the region that a node begins."""
    kind = str(border.args[0])
    if kind != "set_grad_enabled":
        return before if kind == "autocast" else kind == "enable_grad"
    return bool(_constant(border.args[1]))


def casts(border: fx.Node, before: bool) -> bool:
    """Whether autocast is on in the region that a node begins."""
    if border.args[0] != "autocast":
        return before
    return bool(_constant(border.kwargs.get("enabled", border.args[3] if len(border.args) > 3 else True)))


def _constant(flag: Any) -> Any:
    """A flag; what it is in training where it depends on the mode, and its value on the example inputs if traced."""
    if not isinstance(flag, fx.Node):
        return flag
    return flag.args[0] if flag.op == "call_module" else flag.meta.get("val", True)


def exchanges(tracer: Any) -> Iterator[tuple[type, str, Callable[..., Any]]]:
    """(class, method, what takes its place) while `tracer` records: regions begin and end in the graph too.

    They are entered all the same, so that a forward that asks for the mode gets the answer of its model.
    """
    for kind, region in KINDS.items():
        yield region, "__enter__", _entering(tracer, kind, region.__enter__)
        yield region, "__exit__", _leaving(tracer, region.__exit__)
    yield torch.autocast, "__init__", _autocast(tracer, torch.autocast.__init__)
    yield torch.inference_mode, "__enter__", _refused


def _entering(tracer: Any, kind: str, enter: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def entering(self: Any) -> Any:
        if kind == "set_grad_enabled":  # it has set the mode before it is entered
            torch._C._set_grad_enabled(self.prev)
        tracer.regions.open(kind, *_arguments(self, kind), lambda: enter(self))
        return self

    return entering


def _leaving(tracer: Any, leave: Callable[..., Any]) -> Callable[..., Any]:
    def leaving(self: Any, *error: Any) -> Any:
        return tracer.regions.close(lambda: leave(self, *error))

    return leaving


def _arguments(region: Any, kind: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with which the region was made."""
    if kind == "set_grad_enabled":
        return (region.mode,), {}
    if kind != "autocast":
        return (), {}
    if hasattr(region, "given"):
        args, kwargs = region.given
        return args, kwargs
    # it was made before the forward began, to decorate a function
    made = {"dtype": region.fast_dtype, "enabled": region._enabled, "cache_enabled": region._cache_enabled}
    return (region.device,), made


def _autocast(tracer: Any, make: Callable[..., None]) -> Callable[..., None]:
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        """Keeps the arguments as they are, and makes the region of the values that they have on the example inputs."""
        self.given = args, kwargs
        make(self, *map(tracer.plain, args), **{name: tracer.plain(value) for name, value in kwargs.items()})

    return init


def _refused(_: Any) -> None:
    raise TraceError(
        "The forward has a region of torch.inference_mode, which a graph does not record. Use torch.no_grad there, or "
        "run the whole model in inference mode."
    )
