"""Ops that write into their first argument.

Many of them give back the tensor that they have changed. Whoever reads this tensor later reads their result: in the
graph too, so that what they changed and what they made of it are not taken for one value.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn

from nrfx.rules import op_of
from nrfx.rules.effect import attribute_of
from nrfx.rules.registry import is_of_torch
from nrfx.tracing.values.proxies import AUGMENTED


def read_results(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> None:
    """Lets each node behind an op that changes a tensor and gives it back read the result, in place of the tensor."""
    place = {node: index for index, node in enumerate(graph.nodes)}
    for writer in graph.nodes:
        module = modules.get(str(writer.target)) if writer.op == "call_module" else None
        if _gives_back(writer, module):
            changed = writer.args[0]
            changed.replace_all_uses_with(writer, delete_user_cb=lambda user: place[user] > place[writer])  # noqa: B023


def _gives_back(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the node changes its first argument, and its result is this very tensor."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source.op == "get_attr":  # what the network keeps is read under its name
        return False
    was, now = source.meta["val"], node.meta["val"]
    same = isinstance(was, Tensor) and isinstance(now, Tensor) and (was.shape, was.dtype) == (now.shape, now.dtype)
    if not same or not works_in_place(node, module):
        return False
    if module is not None:
        return is_of_torch(module.forward)
    return isinstance(node.target, str) or node.target in AUGMENTED or is_of_torch(node.target)


def writes_by_schema(node: fx.Node) -> bool:
    """Whether the node calls an op of torch.library, or of torch, that says it changes some of its arguments."""
    target: Any = node.target
    if type(target) in (BuiltinFunctionType, FunctionType):  # nearly all
        return False
    if isinstance(target, torch._ops.OpOverloadPacket):
        return any(getattr(target, overload)._schema.is_mutable for overload in target.overloads())
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def works_in_place(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        op = op_of(module)
        return bool(attribute_of(module, "inplace")) or (op is not None and op.in_place)
    if node.op not in ("call_function", "call_method"):
        return False
    if node.op == "call_function" and writes_by_schema(node):
        return True
    op = op_of(node.target)
    if op is not None and (op.in_place or op.flags):
        return op.in_place
    return _says_so(node)


def _says_so(node: fx.Node) -> bool:
    """Whether the name of an op ends with "_", or a call of it has inplace=True."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name.endswith("_") and not name.endswith("__"):
        return True
    index = None if isinstance(node.target, str) else _inplace_argument(node.target)
    if index is None:
        return False
    return (node.args[index] if index < len(node.args) else node.kwargs.get("inplace")) is True


def has_inplace(node: fx.Node) -> bool:
    """Whether an argument of the op says whether it works in place."""
    return not isinstance(node.target, str) and _inplace_argument(node.target) is not None


@cache
def _inplace_argument(function: Callable[..., Any]) -> int | None:
    """Which argument of a function is `inplace`; None where there is none."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # builtins have no signature, and no such argument
        return None
    return names.index("inplace") if "inplace" in names else None
