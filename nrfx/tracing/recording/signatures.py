"""Whether a call fits the signature of what it calls."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn


def check_call(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raises the TypeError that a module which is recorded as one call would raise for these arguments."""
    if not (module._forward_pre_hooks or module._forward_hooks):
        _bind(type(module).forward, len(args), tuple(kwargs))


@functools.cache
def _bind(function: Any, count: int, names: tuple[str, ...]) -> None:
    """Raises the TypeError of a method called with so many arguments by position, and with these names."""
    _signature(function).bind(None, *[None] * count, **dict.fromkeys(names))


@functools.cache
def _signature(function: Any) -> inspect.Signature:
    return inspect.signature(function)
