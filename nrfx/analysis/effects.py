"""The effect of one node: that of its op's rule, of a placeholder or an output, or a Python value made of sizes."""

from collections.abc import Callable
from dataclasses import replace
from types import BuiltinFunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn

from nrfx.analysis.obstacles import hooked_work, obstacle
from nrfx.nests import PLAIN
from nrfx.rules import Call, Effect, Family, Op, Work, attempt, counted, op_of, rule_of, tensors, unknown
from nrfx.rules.registry import asks_for_sizes
from nrfx.tracing import runs_known_forward
from nrfx.tracing.calls.boxes import Box
from nrfx.tracing.graph.module import ByMode
from nrfx.tracing.graph.regions import is_border


def op_at(node: fx.Node, module: nn.Module | None) -> Op | None:
    """The entry of the op that a node calls; None for what has a forward of its own, which may do anything."""
    if module is not None and not runs_known_forward(module):
        return None
    return op_of(node.target if module is None else module) if node.op.startswith("call_") else None


def effect_of(call: Call) -> Effect:
    box = call.node.meta.get("opaque")
    return _BY_OP[call.node.op](call) if box is None else _boxed(call, box)


def plain_value(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Effect | None:
    """The effect of a node that asks for a size, or that computes with numbers: as `effect_of` a call of it, without
    the call. There are hundreds of them in a network that cuts its maps into windows. None for other nodes.
    """
    target = node.target
    if asks_for_sizes(node):
        if not args or not isinstance(args[0], Tensor | torch.Size) or kwargs:
            return None
    elif type(target) is not BuiltinFunctionType or target.__module__ != "_operator" or kwargs or tensors(args):
        return None
    val = node.meta.get("val")
    if "opaque" in node.meta or val is None or not (type(val) in PLAIN or type(val) is torch.Size):
        return None
    try:
        return Effect(Family.VALUE, out=_value(target, val, args, kwargs))
    except Exception:  # it is told as the failure of a call
        return None


def _placeholder(call: Call) -> Effect:
    return Effect(Family.SOURCE, out=call.opaque_like(call.val, "the network's input"))


def _output(call: Call) -> Effect:
    pins = tuple(call.pin(labels, "the network's output") for labels in tensors(call.args))
    return Effect(Family.SINK, out=call.args[0], pins=pins)


def _called(call: Call) -> Effect:
    if isinstance(call.module, ByMode):
        return Effect(Family.VALUE, out=call.argument(1, "eval"))
    if call.module is not None:
        return _of_module(call, obstacle(call.module))
    if is_border(call.node):
        return Effect(Family.VALUE)
    sizes = _asks_for_sizes(call)
    if (sizes or isinstance(call.val, _FACTS)) and not _checks(call.node):
        known = not sizes or isinstance(call.val, torch.dtype)  # labels have a dtype of their own
        return Effect(Family.VALUE, out=call.val if known else attempt(_run, call))
    return rule_of(call.node, None)(call)


def _of_module(call: Call, hindered: str | None) -> Effect:
    if hindered is None:
        return rule_of(call.node, call.module)(call)
    if op_at(call.node, call.module) is None:
        return unknown(call, hindered)
    effect = counted(call, hindered, rule_of(call.node, call.module))
    hooks = hooked_work(call.module) if call.module is not None else 0
    return replace(effect, work=(*effect.work, Work(hooks, None, None))) if hooks else effect


def _boxed(call: Call, box: Box) -> Effect:
    """The effect of what was not looked into, with the multiply-adds of one example in the run that measured them."""
    if box.flops is None:
        return unknown(call, box.reason)
    divided = box.flops // call.batch
    work = (Work(divided if box.of_one is None or call.batch == 1 else box.of_one, None, None),)
    return replace(unknown(call, box.reason), work=work)


def _checks(node: fx.Node) -> bool:
    """Whether the node checks a decision of the trace."""
    op = op_of(node.target)
    return op is not None and op.checks


_FACTS = (bool, str, torch.dtype, torch.device)
"""Values that say something of a tensor that does not depend on its widths: x.is_cuda, torch.is_floating_point(x)."""


def _asks_for_sizes(call: Call) -> bool:
    """Whether the node computes Python values: sizes of tensors, or arithmetic on them."""
    if asks_for_sizes(call.node) or call.node.target in (int, float):
        return True
    if call.args and isinstance(call.args[0], Tensor):  # nearly always
        return False
    return not tensors((call.args, call.kwargs)) and not tensors(call.val)


def _run(call: Call) -> Any:
    """The value; dtypes and devices are those of the tensors, not of their labels."""
    return _value(call.node.target, call.val, call.args, call.kwargs)


def _value(target: Any, val: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if target is getattr and isinstance(val, torch.dtype | torch.device):
        return val
    if isinstance(target, str):
        return getattr(args[0], target)(*args[1:], **kwargs)
    return target(*args, **kwargs)


_BY_OP: dict[str, Callable[[Call], Effect]] = {
    "placeholder": _placeholder,
    "output": _output,
    "call_module": _called,
    "call_function": _called,
    "call_method": _called,
}
