"""Two rules for layers and functions that are not to be described in detail, each registered in one line.

channelwise(GlobalPool)    channel c of the result depends on channel c of the input alone: channels pass through
opaque(Router)             what it touches keeps its width, and the report says so
"""

from functools import partial
from typing import Any

from torch import Tensor

from nrfx.labels import along, layout
from nrfx.rules.effect import Call, Effect, Family, tensors, unknown
from nrfx.rules.registry import register
from nrfx.rules.ties import ties_along


def channelwise(*keys: Any, axis: int = 1) -> None:
    """Says of layers or functions that they treat each channel alone: channels pass from the input to the result.

    Each element of the result may depend on all positions of its own channel, and on no other channel. A dead channel
    that is not zero is held behind it, for what becomes of its constant is not known; no multiply-adds are counted. A
    layer with parameters of its own needs a rule that says which of their axes are channels, and is pinned until then.

    Args:
        keys: as for `rule`: module classes, functions, names of methods.
        axis: of the channels, in the input and in the result.

    >>> import torch
    >>> from torch import nn
    >>> class Strongest(nn.Module):
    ...     def forward(self, x):
    ...         return x.flatten(2).sort(2).values[..., -4:]
    >>> channelwise(Strongest)
    """
    register(partial(_channelwise, axis=axis), *keys)


def opaque(*keys: Any, reason: str = "it is an opaque box") -> None:
    """Says of layers or functions that they are not looked into: whatever goes in or comes out keeps its width.

    Their parameters count, their multiply-adds are listed as not counted, and `nrfx.why` gives the reason.

    >>> import torch
    >>> def routed(x):
    ...     return x[torch.randperm(x.shape[0])]
    >>> opaque(routed, reason="it shuffles the examples")
    """
    register(partial(_opaque, reason=reason), *keys)


def _channelwise(call: Call, axis: int) -> Effect:
    if call.module is not None and any(True for _ in call.module.parameters()):
        return unknown(call, f"{type(call.module).__name__} has parameters, whose axes only a rule of its own can name")
    inputs = tensors((call.args, call.kwargs))
    if len(inputs) != 1 or not isinstance(call.val, Tensor):
        return unknown(call, "a channelwise op takes one tensor and gives one")
    (labels,) = inputs
    at = axis % labels.dim()
    channels = layout(labels, at)
    shape = [*call.val.shape[:at], channels.numel(), *call.val.shape[at + 1 :]]
    return Effect(Family.MIXED, out=along(channels, at, shape), ties=ties_along(labels, at))


def _opaque(call: Call, reason: str) -> Effect:
    return unknown(call, reason)
