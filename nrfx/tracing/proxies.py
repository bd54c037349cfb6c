"""Proxies: the values that a forward computes with while it is recorded.

Beyond torch.fx's own they record changes in place (`y += 1`, `y[:, 0] = 1`), which change other values in the same
memory as well. And they are numbers where Python wants one (`range(n)`, `int(n)`) and the shapes of the example inputs
say which.
"""

import operator
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch._jit_internal
from torch import Tensor, fx

from nrfx.errors import TraceError

_AUGMENTED = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"),
    *("and", "or", "xor", "lshift", "rshift"),
)
AUGMENTED: dict[Any, Any] = {
    getattr(operator, f"i{name}"): getattr(operator, f"{name}_" if name in ("and", "or") else name)
    for name in _AUGMENTED
}
"""Each augmented assignment, with the operator that it is where the value is not a tensor."""

_OWN = frozenset({"node", "tracer", "root", "attr", "_node"})  # attributes that fx sets on proxies itself


class SizedProxy(fx.Proxy):
    """A proxy whose tracer knows the shapes of the example inputs."""

    tracer: Any

    def __getattr__(self, name: str) -> "SizedAttribute":
        # hasattr() in a forward must be answered as for the value: fx's own proxies have every attribute
        if not hasattr(Tensor, name) and not hasattr(self.tracer.value(self), name):
            raise AttributeError(f"{self.node.name} has no attribute {name}")
        return SizedAttribute(self, name)

    def __str__(self) -> str:
        value = self.tracer.value(self)
        return repr(self) if isinstance(value, Tensor) else str(value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _OWN:
            raise TraceError(
                f"The forward sets the attribute {name} of {self.node.name}, which a graph does not record. "
                "Use an operation of torch, such as copy_, or an attribute of the module."
            )
        super().__setattr__(name, value)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    def __len__(self) -> int:
        value = self.tracer.value(self)
        return len(value) if isinstance(value, tuple | list | dict) else super().__len__()

    def __int__(self) -> int:
        return int(self._number("an integer"))

    def __float__(self) -> float:
        return float(self._number("a float"))

    def __index__(self) -> int:
        return operator.index(self._number("an index"))  # type: ignore[arg-type]

    def _number(self, what: str) -> int | float:
        number: int | float | None = self.tracer.number(self)
        if number is None:
            raise TypeError(f"{self.node.name} is traced, and cannot be interpreted as an integer or {what}")
        return number


_is_instance = isinstance  # Python's own, also while `is_instance` stands in its place
_MACHINERY = ("torch.", "nrfx.tracing.", "nrfx.nests.")
_ASKING = (torch.is_tensor.__code__, torch._jit_internal._isinstance.__code__)
"""Functions of torch that a forward asks for a type; what else torch asks is whether it has a proxy in its hands."""


def is_instance(value: Any, kinds: Any) -> bool:
    """isinstance while a forward is recorded: for all code but torch's, a proxy is the value that it stands for."""
    if _is_instance(value, kinds):
        return True
    if not _is_instance(value, SizedProxy):
        return False
    caller = sys._getframe(1)
    scope = f"{caller.f_globals.get('__name__')}."
    plain = scope.startswith(_MACHINERY) and scope != "torch.nn.functional." and caller.f_code not in _ASKING
    return not plain and _is_instance(value.tracer.value(value), kinds)


class SizedAttribute(SizedProxy, fx.proxy.Attribute):
    """An attribute of a proxy; it becomes a node when it is used otherwise than by a call."""


def _augmented(inplace: Callable[[Any, Any], Any]) -> Callable[[SizedProxy, Any], fx.Proxy]:
    def record(self: SizedProxy, other: Any) -> fx.Proxy:
        changed: fx.Proxy = self.tracer.create_proxy("call_function", inplace, (self, other), {})
        return changed

    return record


_WRITING_METHODS = {f"__{inplace.__name__}__" for inplace in AUGMENTED} | {"__setitem__"}


def writes(node: fx.Node) -> bool:
    """Whether a node changes its first argument, judged by its name."""
    if node.op not in ("call_function", "call_method") or node.target in AUGMENTED.values():
        return False
    if node.target in AUGMENTED or node.target is operator.setitem:
        return True
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return (name.endswith("_") and not name.endswith("__")) or name in _WRITING_METHODS


# Python looks up operators on the class, not in __getattr__: each needs a method
for _inplace in AUGMENTED:
    setattr(SizedProxy, f"__{_inplace.__name__}__", _augmented(_inplace))
