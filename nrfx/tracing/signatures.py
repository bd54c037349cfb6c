"""Whether a call fits the signature of what it calls, and what it names its arguments."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from nrfx.errors import TraceError
from nrfx.tracing.shapes import InputSpec


def check_call(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raises the TypeError that a module which is recorded as one call would raise for these arguments."""
    if not (module._forward_pre_hooks or module._forward_hooks):
        _signature(type(module).forward).bind(module, *args, **kwargs)


@functools.cache
def _signature(function: Any) -> inspect.Signature:
    return inspect.signature(function)


def argument_names(forward: Callable[..., Any], inputs: tuple[InputSpec, ...]) -> list[str]:
    """The names of the first arguments of a bound forward, one for each input."""
    signature = inspect.signature(forward)
    try:
        bound = signature.bind(*inputs).arguments
    except TypeError as error:
        shapes = [list(shape) for shape, _ in inputs]
        raise TraceError(
            f"{len(inputs)} example inputs of shapes {shapes} do not fit forward{signature}: {error}."
        ) from error
    names: list[str] = []
    for argument in bound:
        variadic = signature.parameters[argument].kind is inspect.Parameter.VAR_POSITIONAL
        names.extend([f"{argument}_{index}" for index in range(len(bound[argument]))] if variadic else [argument])
    return names
