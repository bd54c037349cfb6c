"""Pooling and resizing: each channel is summarised over its positions.

A constant channel stays constant, except where zeros at the border are averaged in.
"""

import re
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrfx.labels import along, layout
from nrfx.rules.effect import Call, Effect, Family, unknown
from nrfx.rules.registry import register, rule
from nrfx.rules.sizes import of_adaptive_average, of_windows
from nrfx.rules.ties import ties_along

MAX = (
    *(F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool2d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, F.adaptive_max_pool1d, F.adaptive_max_pool2d),
    *(F.adaptive_max_pool3d,),
)
RESIZING = (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, F.interpolate, F.upsample)


def pooled(call: Call, *, keeps_constants: bool = True) -> Effect:
    """The effect of an op on [N, C, positions] that keeps channels and changes positions."""
    labels: Tensor = call.args[0] if call.args else call.kwargs["input"]
    if not isinstance(call.val, Tensor):
        return unknown(call, "it returns indices besides the pooled values")
    axis = _axis(call, labels)
    channels = layout(labels, axis)
    shape = [*labels.shape[:axis], channels.numel(), *call.val.shape[axis + 1 :]]
    return Effect(
        Family.POOL,
        out=along(channels, axis, shape),
        ties=ties_along(labels, axis),
        homogeneous=True,
        keeps_constants=keeps_constants,
    )


def _axis(call: Call, labels: Tensor) -> int:
    """The axis of the channels: before as many spatial dims as the op's name says (MaxPool2d), else 1."""
    target = type(call.module) if call.module is not None else call.node.target
    spatial = re.search(r"([123])d", getattr(target, "__name__", ""))
    return labels.dim() - int(spatial[1]) - 1 if spatial else 1


@rule(nn.MaxPool1d, gives=partial(of_windows, 1), workless=True)
@rule(nn.MaxPool2d, gives=partial(of_windows, 2), workless=True)
@rule(nn.MaxPool3d, gives=partial(of_windows, 3), workless=True)
@rule(*MAX, workless=True)
def maximum(call: Call) -> Effect:
    return replace(pooled(call), positive_only=True)


register(pooled, *RESIZING, workless=True)
register(pooled, nn.AdaptiveAvgPool1d, F.adaptive_avg_pool1d, gives=partial(of_adaptive_average, 1), workless=True)
register(pooled, nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d, gives=partial(of_adaptive_average, 2), workless=True)
register(pooled, nn.AdaptiveAvgPool3d, F.adaptive_avg_pool3d, gives=partial(of_adaptive_average, 3), workless=True)


@rule(nn.AvgPool1d, gives=partial(of_windows, 1), workless=True)
@rule(nn.AvgPool2d, gives=partial(of_windows, 2), workless=True)
@rule(nn.AvgPool3d, gives=partial(of_windows, 3), workless=True)
@rule(F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, workless=True)
def average(call: Call) -> Effect:
    if call.module is not None:
        padding: Any = call.module.padding
        divisor = getattr(call.module, "divisor_override", None)
        counts_padding = call.module.count_include_pad
    else:
        padding = call.argument(3, "padding", 0)
        divisor = call.argument(6, "divisor_override")
        counts_padding = call.argument(5, "count_include_pad", True)
        padding = padding or call.is_computed(3, "padding")  # none in the trace, perhaps some at another size
    if divisor is not None:
        return unknown(call, "an average with a divisor of its own")
    padded = any(padding) if isinstance(padding, tuple | list) else bool(padding)
    return pooled(call, keeps_constants=not (padded and counts_padding))
