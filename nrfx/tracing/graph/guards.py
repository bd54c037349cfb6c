"""What a trace took for granted: each decision that the forward takes on a traced value is checked when the graph runs.

A graph holds one way through the forward. An `if`, the length of a loop and a number that Python wants plain (range, an
index) are decided by the example inputs; the node that `assumed` is records what was decided, and raises where other
inputs would decide otherwise.

Not checked: decisions on the sizes of parameters, which are the network's own and stay as they were taken.
"""

import linecache
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, fx

from nrfx.errors import SizeError
from nrfx.tracing.graph.shapes import InputSpec


def assumed(found: Any, expected: Any, text: str) -> None:
    """Raises SizeError unless `found` is what the trace found. Where `expected` is a bool, its truth counts.

    Given a traced value, it records itself: the check survives when a graph is traced again.

    Args:
        text: where the decision is taken, and on which inputs the trace took it.
    """
    if isinstance(found, fx.Proxy):
        found.tracer.create_proxy("call_function", assumed, (found, expected, text), {})
        return
    met = found
    if isinstance(expected, bool):
        met = True if found else False  # noqa: SIM210  torch.compile knows the truth of a symbol by a branch alone
    if met != expected:
        raise SizeError(
            f"{text} met {expected}, and these inputs give {met}, for which the graph has no way. "
            "Trace the model again with inputs like these."
        )


fx.node.has_side_effect(assumed)


def text_of(frame: types.FrameType, what: str, inputs: Iterable[InputSpec]) -> str:
    """The first half of the error's sentence: the place of a decision, and the inputs on which it was taken."""
    name, line = frame.f_code.co_filename, frame.f_lineno
    source = linecache.getline(name, line).strip()
    code = f" (`{source}`)" if source else ""
    shapes = ", ".join(str(list(shape)) for shape, _ in inputs)
    return f"{name}:{line}, in {frame.f_code.co_name}{code}, {what}: the trace, on inputs of shapes {shapes},"


def is_guard(node: fx.Node) -> bool:
    """Whether the node checks a decision of the trace."""
    return node.target is assumed


def without_doubles(graph: fx.Graph) -> None:
    """Erases each guard whose condition another one has checked before, in place."""
    seen = set()
    for node in list(graph.nodes):
        if not is_guard(node):
            continue
        condition = (_expression(node.args[0]), repr(node.args[1]))
        if condition in seen:
            graph.erase_node(node)
        seen.add(condition)


def _expression(value: Any) -> Any:
    """A value as the operations that make it from tensors, so that two nodes that ask the same are equal."""
    if not isinstance(value, fx.Node):
        return repr(value)
    if value.op not in ("call_function", "call_method") or isinstance(value.meta.get("val"), Tensor):
        return value
    args = tuple(_expression(arg) for arg in value.args)
    return value.op, value.target, args, tuple((key, _expression(arg)) for key, arg in value.kwargs.items())


def reads(node: Any) -> Iterator[fx.Node]:
    """The node and all that it is computed from, back to the tensors (they included) that it says something of."""
    seen = set()
    queue = [node] if isinstance(node, fx.Node) else []
    while queue:
        source = queue.pop()
        if source in seen:
            continue
        seen.add(source)
        yield source
        if source.op != "call_module" and not isinstance(source.meta.get("val"), Tensor):
            queue += source.all_input_nodes


def without_taken(before: Mapping[str, fx.Graph], after: Mapping[str, fx.Graph]) -> None:
    """Erases, in place, each guard of a rewritten network's graphs that the new widths alone have made false.

    The forward has decided on the network's own width, and the decision is taken: a rewrite keeps the function.

    Args:
        before, after: mode -> graph, with the values of their nodes at the inputs of the trace.
    """
    for mode, graph in after.items():
        old = {node.name: node.meta.get("val") for node in before[mode].nodes}
        for node in list(graph.nodes):
            if is_guard(node) and _is_broken(node) and _changed(node, old):
                graph.erase_node(node)


def _is_broken(node: fx.Node) -> bool:
    condition, expected = node.args[:2]
    found = condition.meta["val"] if isinstance(condition, fx.Node) else condition
    return bool((bool(found) if isinstance(expected, bool) else found) != expected)


def _changed(node: fx.Node, old: Mapping[str, Any]) -> bool:
    """Whether a size that the condition is computed from is another one than before."""
    return any(_is_size(source) and source.meta["val"] != old.get(source.name) for source in reads(node.args[0]))


def _is_size(node: fx.Node) -> bool:
    value = node.meta["val"]
    return isinstance(value, int | tuple) and not isinstance(value, bool)
