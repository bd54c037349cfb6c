"""Ops that write into their first argument, and who reads the changed memory afterwards."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import fx, nn

from nrfx.rules import Family, op_of


@dataclass(frozen=True)
class Memory:
    """Which values of a graph may lie in the same memory.

    place: node -> its index in the graph. families: node -> what its op does, for the nodes so far. modules: by path.
    """

    place: Mapping[fx.Node, int]
    families: Mapping[fx.Node, Family]
    modules: Mapping[str, nn.Module]

    def later_reader(self, writer: fx.Node) -> str | None:
        """The first node after `writer` that reads the value which it changes, or a view of this value."""
        module = self.modules[str(writer.target)] if writer.op == "call_module" else None
        if not (works_in_place(writer, module) and writer.all_input_nodes):
            return None
        now = self.place[writer]
        shared, queue = set(), writer.all_input_nodes if _writes_by_schema(writer) else writer.all_input_nodes[:1]
        while queue:
            node = queue.pop()
            shared.add(node)
            around = [user for user in node.users if self.place[user] < now and self._shares(user, node)]
            around += [source for source in node.all_input_nodes[:1] if self._shares(node, source)]
            queue.extend(other for other in around if other not in shared)
        readers = {user for node in shared for user in node.users} - shared
        later = [user for user in readers if self.place[user] > now]
        return min(later, key=self.place.__getitem__).name if later else None

    def _shares(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether the value of `node` may lie in the memory of `source`, its first input."""
        op = op_of(node.target) if node.op in ("call_function", "call_method") else None
        if node.all_input_nodes[0] is not source or (op is not None and op.copies):
            return False
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        return self.families[node] in (Family.MOVEMENT, Family.IDENTITY) or works_in_place(node, module)


def _writes_by_schema(node: fx.Node) -> bool:
    """Whether the node calls an op of torch.library, or of torch, that says it changes some of its arguments."""
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverloadPacket):
        return any(getattr(target, overload)._schema.is_mutable for overload in target.overloads())
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def works_in_place(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        op = op_of(module)
        return bool(getattr(module, "inplace", False)) or (op is not None and op.in_place)
    if _writes_by_schema(node):
        return True
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    op = op_of(node.target)
    if (op is not None and op.in_place) or (name.endswith("_") and not name.endswith("__")):
        return True
    if isinstance(node.target, str):
        return False
    index = _inplace_argument(node.target)
    given = node.args[index] if index is not None and index < len(node.args) else node.kwargs.get("inplace")
    return index is not None and given is True


@cache
def _inplace_argument(function: Callable[..., Any]) -> int | None:
    """Which argument of a function is `inplace`; None where there is none."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # builtins have no signature, and no such argument
        return None
    return names.index("inplace") if "inplace" in names else None
