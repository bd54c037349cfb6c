"""What ops of torch give on values of the same shapes, found once.

torch runs many functions on the meta device in code of Python: a clamp takes a millisecond, and the blocks of a network
call the same functions on the same shapes. Nothing but shape, strides, dtype and plain values tells what such an op
gives there. Not for functions of others, which may know more, nor while a mode of torch stands around the calls.
"""

import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn

from nrfx.nests import with_tensors
from nrfx.rules import op_of
from nrfx.rules.registry import asks_for_sizes, is_of_torch


class EqualCalls:
    """The values of the calls of one interpretation."""

    def __init__(self) -> None:
        self._values: dict[Any, Any] = {}
        self._of_shapes: dict[Any, bool] = {}
        self._in_a_mode = True

    def begin(self) -> None:
        """Looks whether a mode of torch stands around the calls that come now."""
        self._in_a_mode = bool(torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack())

    def value(self, node: fx.Node, run: Callable[[Any, Any], Any], args: Any, kwargs: Any) -> Any:
        """What `run(args, kwargs)` gives, the call of a node; it is not run where an equal call was.

        Tensors are of their own each time: what changes the shape of one in place changes no other.
        """
        key = None if self._in_a_mode else self._key(node, args, kwargs)
        if key is None:
            return run(args, kwargs)
        if key not in self._values:
            self._values[key] = run(args, kwargs)
        return with_tensors(self._values[key], Tensor.detach)

    def _key(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """What equal calls have in common; None where the call is of another kind."""
        if node.op not in ("call_function", "call_method") or not isinstance(args[0], Tensor | list | tuple):
            return None
        target = node.target
        if target is getattr or asks_for_sizes(node):  # as quick to run; an attribute may be no matter of shapes
            return None
        if target not in self._of_shapes:
            self._of_shapes[target] = _is_of_shapes(target)
        if self._of_shapes[target] and "opaque" not in node.meta:
            with suppress(_Unknown):
                return target, torch.get_default_dtype(), _of(args), _of(kwargs)
        return None


class _Unknown(Exception):
    """An argument is no value of which the shape tells all."""


def _of(value: Any) -> Any:
    """What is equal for values of which ops make values of one shape.

    Raises:
        _Unknown: it is no tensor, plain value or nest of them.
    """
    kind = type(value)
    if kind is Tensor or kind is nn.Parameter:
        return value.shape, value.stride(), value.dtype, value.device
    if kind in _PLAIN:
        return kind, value
    if kind in (tuple, list, torch.Size):
        return kind, *map(_of, value)
    if kind is dict:
        return kind, *((name, _of(part)) for name, part in value.items())
    if kind is slice:
        return kind, *map(_of, (value.start, value.stop, value.step))
    raise _Unknown


_PLAIN = frozenset({int, float, bool, str, type(None), type(Ellipsis), torch.dtype, torch.device, torch.memory_format})


def _is_of_shapes(target: Any) -> bool:
    """Whether a function or method is an op of torch that changes none of its arguments and has no quick answer."""
    if not isinstance(target, str) and (not isinstance(target, _FUNCTIONS) or not is_of_torch(target)):
        return False
    name = target if isinstance(target, str) else target.__name__
    op = op_of(target)
    return not name.endswith("_") and (
        op is None or not (op.keeps_shape or op.in_place or op.flags or op.makes or op.checks)
    )


_FUNCTIONS = types.BuiltinFunctionType | types.FunctionType
