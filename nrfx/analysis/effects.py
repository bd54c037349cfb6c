"""The effect of one node: that of its op's rule, of a placeholder or an output, or a Python value made of sizes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from nrfx.rules import Call, Effect, Family, Op, attempt, counted, op_of, rule_of, tensors, unknown
from nrfx.tracing import runs_known_forward
from nrfx.tracing.module import ByMode
from nrfx.tracing.regions import is_border


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
    if is_border(call.node):
        return Effect(Family.VALUE)
    if call.module is None and not _checks(call.node) and (_asks_for_sizes(call) or isinstance(call.val, _FACTS)):
        return Effect(Family.VALUE, out=attempt(_run, call) if _asks_for_sizes(call) else call.val)
    if call.module is not None and not runs_known_forward(call.module):
        return unknown(call, f"{type(call.module).__name__} has a forward of its own")
    obstacle = _obstacle(call.module)
    if obstacle is not None:
        return counted(call, obstacle, rule_of(call.node, call.module))
    return rule_of(call.node, call.module)(call)


def _checks(node: fx.Node) -> bool:
    """Whether the node checks a decision of the trace."""
    op = op_of(node.target)
    return op is not None and op.checks


def _obstacle(module: nn.Module | None) -> str | None:
    """What stands between a module and its class's rule."""
    if module is None:
        return None
    if module._forward_hooks or module._forward_pre_hooks:
        return "it has forward hooks, which may do anything"
    computed = [name for name in ("weight", "bias") if name not in module._parameters and _holds(module, name)]
    return f"its {computed[0]} is computed from other tensors" if computed else None


def _holds(module: nn.Module, name: str) -> bool:
    """Whether an attribute that is no parameter is a tensor, or a property that gives one (a parametrization)."""
    own = vars(module).get(name, getattr(type(module), name, None))
    return isinstance(own, Tensor | property) or module._buffers.get(name) is not None


_FACTS = (bool, str, torch.dtype, torch.device)
"""Values that say something of a tensor that does not depend on its widths: x.is_cuda, torch.is_floating_point(x)."""
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
