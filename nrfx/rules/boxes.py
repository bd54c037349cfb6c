"""Two rules for layers and functions that are not to be described in detail, each registered in one line.

channelwise(Strongest)     channel c of the result depends on channel c of the input alone: channels pass through
opaque(Router)             what it touches keeps its width, and the report says so
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nrfx.labels import along, layout
from nrfx.rules.effect import Call, Effect, Family, attempt, tensors, unknown, without_nan
from nrfx.rules.registry import register
from nrfx.rules.ties import ties_along


def channelwise(*keys: Any, axis: int = 1, keeps_shape: bool = False) -> None:
    """Says of layers or functions that they treat each channel alone: channels pass from the input to the result.

    Each element of the result may depend on all positions of its own channel, and on no other channel; in eval mode
    the same input must give the same result. What becomes of the constant of a dead channel is found by running the op
    on it. No multiply-adds are counted. A layer with parameters of its own needs a rule that says which of their axes
    are channels, and is pinned until then.

    Args:
        keys: as for `rule`: module classes, functions, names of methods.
        axis: of the channels, in the input and in the result.
        keeps_shape: the result has the shape and dtype of the input, so that the op need not run for its shape.

    >>> from torch import nn
    >>> class Strongest(nn.Module):
    ...     def forward(self, x):
    ...         return x.flatten(2).sort(2).values[..., -4:]
    >>> channelwise(Strongest)
    """
    register(partial(_channelwise, axis=axis), *keys, keeps_shape=keeps_shape)


def opaque(*keys: Any, reason: str = "it is an opaque box", keeps_shape: bool = False) -> None:
    """Says of layers or functions that they are not looked into: whatever goes in or comes out keeps its width.

    Their parameters count, and so do the multiply-adds that they do when they run on meta tensors; where they cannot,
    they are listed as not counted. `nrfx.why` gives the reason.

    Args:
        keys: as for `rule`: module classes, functions, names of methods.
        keeps_shape: the result has the shape and dtype of the first argument. Without it the op is run on meta tensors
            to find the shape, which control flow on values does not survive.

    >>> from torch import nn
    >>> class Router(nn.Module):
    ...     def forward(self, x):
    ...         return x.flip(1) if float(x.sum()) > 0 else x
    >>> opaque(Router, reason="it chooses by the values of its input", keeps_shape=True)
    """
    register(partial(_opaque, reason=reason), *keys, keeps_shape=keeps_shape)


def _channelwise(call: Call, axis: int) -> Effect:
    if call.module is not None and any(True for _ in call.module.parameters()):
        return unknown(call, f"{type(call.module).__name__} has parameters, whose axes only a rule of its own can name")
    inputs = tensors((call.args, call.kwargs))
    if len(inputs) != 1 or not isinstance(call.val, Tensor):
        return unknown(call, "a channelwise op takes one tensor and gives one")
    (labels,) = inputs
    if not all(-dims <= axis < dims for dims in (labels.dim(), call.val.dim())):
        return unknown(call, f"channelwise(axis={axis}), and there is no such axis")
    at, later = axis % labels.dim(), axis % call.val.dim()
    channels = layout(labels, at)
    shape = [*call.val.shape[:later], channels.numel(), *call.val.shape[later + 1 :]]
    apply = partial(_on_constants, call.function, at, later)
    return Effect(Family.MIXED, out=along(channels, later, shape), ties=ties_along(labels, at), apply=apply)


def _on_constants(op: Callable[..., Any], axis: int, later: int, *args: Any, **kwargs: Any) -> Tensor:
    """What the op makes of constants, channel by channel: NaN, a value that varies, stays NaN in the whole channel."""
    (x,) = tensors((args, kwargs))
    others = [dim for dim in range(x.dim()) if dim != axis]
    varies = x.isnan().amax(others) if others else x.isnan()
    given, named = without_nan((args, kwargs))
    result: Tensor = attempt(op, *given, **named)
    return torch.where(along(varies, later, result.shape), float("nan"), result.double())


def _opaque(call: Call, reason: str) -> Effect:
    return unknown(call, reason)
