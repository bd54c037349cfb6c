"""What torch says of a call that cannot be run: on "meta" a convolution says only "Invalid channel dimensions"."""

import types
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from nrfx.rules.registry import is_of_torch
from nrfx.tracing.graph.clone import shell

LARGEST = 2**24
"""So many numbers may a call work on, for it to be run for its error."""


def complaint(error: Exception, target: Any, args: Any, kwargs: Any) -> str:
    """The class and the first line of an error that a call raised on "meta"; in the place of a RuntimeError of torch
    the one that the same call raises on zeros, where it is small.

    target: the module or function that was called.
    """
    if isinstance(error, RuntimeError) and _is_small_and_of_torch(target, args, kwargs):
        try:
            zero_args, zero_kwargs = pytree.tree_map(_zeros, (args, kwargs))
            function = shell(target, _zeros).forward if isinstance(target, nn.Module) else target
            function(*zero_args, **zero_kwargs)
        except Exception as real:
            if type(real) is RuntimeError:  # another kind of error explains nothing
                error = real
    return _first_line(error)


_FUNCTIONS = (types.BuiltinFunctionType, types.FunctionType, types.MethodType)


def _is_small_and_of_torch(target: Any, args: Any, kwargs: Any) -> bool:
    function = target.forward if isinstance(target, nn.Module) else target
    # neither operators of the user's own nor those of an extension are run for a second time
    if not (isinstance(function, _FUNCTIONS) and is_of_torch(function)):
        return False
    own = target.parameters() if isinstance(target, nn.Module) else ()
    given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    numbers: int = sum(tensor.numel() for tensor in (*own, *given))
    return numbers <= LARGEST


def _zeros(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    zeros = torch.zeros(value.shape, dtype=value.dtype)
    return nn.Parameter(zeros, requires_grad=False) if isinstance(value, nn.Parameter) else zeros


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    line = text[0] if text else ""
    return f"{type(error).__name__}: {line}" + ("" if line.endswith(".") else ".")
