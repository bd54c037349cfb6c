"""The effect of one node: that of its op's rule, of a placeholder or an output, or a Python value made of sizes."""

from collections.abc import Callable
from typing import Any

from torch import fx, nn

from nrfx.analysis.obstacles import obstacle
from nrfx.rules import Call, Effect, Family, Op, attempt, counted, op_of, rule_of, tensors, unknown
from nrfx.tracing import runs_known_forward
from nrfx.tracing.module import ByMode


def op_at(node: fx.Node, module: nn.Module | None) -> Op | None:
    """The entry of the op that a node calls; None for what has a forward of its own, which may do anything."""
    if module is not None and not runs_known_forward(module):
        return None
    return op_of(node.target if module is None else module) if node.op.startswith("call_") else None


def effect_of(call: Call) -> Effect:
    return _BY_OP[call.node.op](call)


def _placeholder(call: Call) -> Effect:
    return Effect(Family.SOURCE, out=call.opaque_like(call.val, "the network's input"))


def _output(call: Call) -> Effect:
    pins = tuple(call.pin(labels, "the network's output") for labels in tensors(call.args))
    return Effect(Family.SINK, out=call.args[0], pins=pins)


def _called(call: Call) -> Effect:
    if isinstance(call.module, ByMode):
        return Effect(Family.VALUE, out=call.argument(1, "eval"))
    if call.module is None and _asks_for_sizes(call):
        return Effect(Family.VALUE, out=attempt(_run, call))
    hindered = obstacle(call.module) if call.module is not None else None
    if hindered is None:
        return rule_of(call.node, call.module)(call)
    if op_at(call.node, call.module) is None:
        return unknown(call, hindered)
    return counted(call, hindered, rule_of(call.node, call.module))


SIZES = {"size", "dim", "numel", "ndimension", "ndim", "__len__"}


def _asks_for_sizes(call: Call) -> bool:
    """Whether the node computes Python values: sizes of tensors, or arithmetic on them."""
    if call.node.op == "call_method":
        return call.node.target in SIZES
    if call.node.target is getattr:
        return call.args[1] in ("shape", "ndim", "device", "dtype")
    return call.node.target in (len, int, float) or (not tensors((call.args, call.kwargs)) and not tensors(call.val))


def _run(call: Call) -> Any:
    target: Callable[..., Any] | str = call.node.target
    if isinstance(target, str):
        return getattr(call.args[0], target)(*call.args[1:], **call.kwargs)
    return target(*call.args, **call.kwargs)


_BY_OP: dict[str, Callable[[Call], Effect]] = {
    "placeholder": _placeholder,
    "output": _output,
    "call_module": _called,
    "call_function": _called,
    "call_method": _called,
}
