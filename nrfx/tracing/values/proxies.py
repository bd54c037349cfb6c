"""Proxies: the values that a forward computes with while it is recorded.

Beyond torch.fx's own they record changes in place (`y += 1`, `y[:, 0] = 1`), which change other values in the same
memory as well. Where Python wants a truth, a length or a number, they ask the decisions of their tracer (decisions.py).
"""

import dis
import functools
import math
import operator
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch._jit_internal
from torch import Tensor, fx, nn
from torch.fx import _symbolic_trace

from nrfx.errors import TraceError
from nrfx.nests import PLAIN
from nrfx.tracing.values.bytecode import called_at

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


_MACHINERY = ("torch.", "nrfx.tracing.", "nrfx.nests.")
_ASKING = (torch.is_tensor.__code__, torch._jit_internal._isinstance.__code__)
"""Functions of torch that a forward asks for a type; what else torch asks is whether it has a proxy in its hands."""


def _asks_for_value(caller: types.FrameType) -> bool:
    """Whether the code that asks for the class of a proxy means the class of the value that it stands for.

    Code of torch and nrfx wants to know that it has a proxy in its hands. So does C code: it would read the memory of a
    tensor. So the code must be at `isinstance(x, ...)`, `x.__class__` or a pattern that names a class.
    """
    asks = False
    while caller.f_code.co_name == "__instancecheck__" and caller.f_back is not None:
        caller, asks = caller.f_back, True
    scope = f"{caller.f_globals.get('__name__')}."
    if scope.startswith(_MACHINERY) and scope != "torch.nn.functional." and caller.f_code not in _ASKING:
        return False
    return asks or _is_at_question(caller.f_code, caller.f_lasti)


@functools.lru_cache(4096)
def _is_at_question(code: types.CodeType, at: int) -> bool:
    name = dis.opname[code.co_code[at]]
    return name in ("LOAD_ATTR", "LOAD_METHOD", "MATCH_CLASS") or called_at(code, at) in ("isinstance", "getattr")


_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)


@functools.lru_cache(1024)
def _is_method(function: Any) -> bool:
    """Whether it is a method or property of tensors, which torch looks up in a table that it asks for each time."""
    return bool(torch.overrides.is_tensor_method_or_property(function))


def _tracer_of(arguments: tuple[Any, ...]) -> Any:
    """The tracer of all proxies among the arguments; None where one is a nest, which may hold proxies of another."""
    found = None
    for each in arguments:
        kind = type(each)
        if kind is SizedProxy or kind is SizedAttribute:
            if found is not None and found is not each.tracer:
                return None
            found = each.tracer
        elif kind not in PLAIN and kind is not nn.Parameter:
            return None
    return found


class SizedProxy(fx.Proxy):
    """A proxy whose tracer knows the shapes of the example inputs."""

    tracer: Any

    def __init__(self, node: fx.Node, tracer: Any) -> None:
        vars(self).update(tracer=tracer, node=node)  # as torch does, past `__setattr__`

    @property  # type: ignore[misc]  # it may be asked for, not set
    def __class__(self) -> Any:
        """The class of the value that the proxy stands for, which isinstance and match ask for too."""
        # type(self) stays what it is: that is what C code and torch's own isinstance of proxies look at first
        return type(self.tracer.value(self)) if _asks_for_value(sys._getframe(1)) else type(self)

    def __getattr__(self, name: str) -> "SizedAttribute":
        # hasattr() in a forward must be answered as for the value: fx's own proxies have every attribute
        if not hasattr(Tensor, name) and not hasattr(self.tracer.value(self), name):
            raise AttributeError(f"{self.node.name} has no attribute {name}")
        return SizedAttribute(self, name)

    def __str__(self) -> str:
        value = self.tracer.value(self)
        return repr(self) if isinstance(value, Tensor) else str(value)

    def __setattr__(self, name: str, value: Any) -> None:
        """An attribute that tensors do not have belongs to the forward, which may read it later; to the graph it is
        nothing."""
        if name == "requires_grad":
            self.tracer.create_proxy("call_method", "requires_grad_", (self, value), {})
            return
        if hasattr(Tensor, name) or (name in _OWN - {"_node"} and name in vars(self)):
            raise self.tracer.decisions.refused(
                TraceError(
                    f"The forward sets the attribute {name} of {self.node.name}, which a graph does not record. "
                    "Use an operation of torch, such as copy_, or an attribute of the module."
                )
            )
        super().__setattr__(name, value)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    @classmethod
    def __torch_function__(cls, orig_method: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        tracer: Any = _tracer_of((*args, *named.values())) if type(orig_method) in _FUNCTIONS else None
        if tracer is not None and not _is_method(orig_method):
            tracer.decisions.parsed(sys._getframe(1), (args, kwargs))
            return tracer.create_proxy("call_function", orig_method, args, named)
        proxy: Any = _symbolic_trace._find_proxy(args, named)
        proxy.tracer.decisions.parsed(sys._getframe(1), (args, kwargs))
        return super().__torch_function__(orig_method, types, args, kwargs)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """A function of numpy on a size is a call of the graph; on a tensor only an operator is one."""
        if (
            method != "__call__"
            or kwargs
            or not all(isinstance(i, fx.Proxy | float | int) or is_number_of_numpy(i) for i in inputs)
        ):
            return NotImplemented
        given = tuple(i if isinstance(i, fx.Proxy) or not hasattr(i, "item") else i.item() for i in inputs)
        tensors = any(isinstance(i, fx.Proxy) and isinstance(self.tracer.value(i), Tensor) for i in given)
        target = _OPERATORS.get(ufunc.__name__) if tensors else ufunc
        return NotImplemented if target is None else self.tracer.create_proxy("call_function", target, given, {})

    def __bool__(self) -> bool:
        truth: bool = self.tracer.decisions.truth(self, sys._getframe(1))
        return truth

    def __iter__(self) -> Iterator[Any]:
        items: Iterator[Any] = self.tracer.decisions.items(self, sys._getframe(1))
        return items

    def __len__(self) -> int:
        length: int = self.tracer.decisions.length(self, sys._getframe(1))
        return length

    def __int__(self) -> int:
        return int(self.tracer.decisions.number(self, sys._getframe(1), "int"))

    def __float__(self) -> float:
        return float(self.tracer.decisions.number(self, sys._getframe(1), "float"))

    def __index__(self) -> int:
        return operator.index(self.tracer.decisions.number(self, sys._getframe(1)))

    def __round__(self, *digits: int) -> Any:
        return self.tracer.create_proxy("call_function", round, (self, *digits), {})

    def __floor__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.floor, (self,), {})

    def __ceil__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.ceil, (self,), {})

    def __trunc__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.trunc, (self,), {})

    def __divmod__(self, other: Any) -> tuple[Any, Any]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple[Any, Any]:
        return other // self, other % self


_OPERATORS: dict[str, Any] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "power": operator.pow,
}
"""What a number of numpy and a tensor make of each other."""


def is_number_of_numpy(value: Any) -> bool:
    """Whether it is a number of numpy."""
    return type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0


class SizedAttribute(SizedProxy, fx.proxy.Attribute):
    """An attribute of a proxy; it becomes a node when it is used otherwise than by a call."""

    def __init__(self, root: SizedProxy, attr: str) -> None:
        fx.proxy.Attribute.__init__(self, root, attr)


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
