"""How strongly each gamma is pulled: all alike, or by what its channel costs."""

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels
from nrfx.analysis.cost import LayoutWidths, eval_steps, total_cost
from nrfx.analysis.gammas import gammas_of
from nrfx.analysis.liveness import liveness_of, prunable_gammas
from nrfx.analysis.spaces import channels_of
from nrfx.choices import Measure, Residual
from nrfx.errors import TrainingError
from nrfx.tracing import TracedModule, as_traced


def gamma_weights(
    gm: Any,
    measure: Measure | None = None,
    *,
    threshold: float = 0.01,
    residual: Residual = "live",
    example_inputs: Any = None,
) -> dict[str, Tensor]:
    """How strongly each gamma is pulled: parameter name -> float32 [channels], 0 for gammas that cannot die.

        None        1                                                                               Network Slimming
        measure     cost of the channel in the live network / cost of the whole network             MorphNet

    MorphNet's changes as channels die: compute it again from time to time, once an epoch or so.

    Raises:
        TrainingError: no gamma can die, or the measure is not one of those above.
        AnalysisError: as for `nrfx.utilization`.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017, Eq. 1. Gordon et
    al., MorphNet, CVPR 2018: the regulariser G, which is linear in each |gamma| once it is known which other channels
    are alive. There the cost is that of the convolutions; here every parameter, or every multiply-add, counts.

    >>> import nrfx
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    >>> gm = nrfx.trace(net, torch.zeros(1, 3, 8, 8))
    >>> gamma_weights(gm)
    {'1.weight': tensor([1., 1., 1., 1.])}
    >>> gamma_weights(gm, "flops")  # 3 * 64 + 2 * 64 of 20 * 64
    {'1.weight': tensor([0.2500, 0.2500, 0.2500, 0.2500])}
    """
    if measure not in ("params", "flops", None):
        raise TrainingError(f"measure is {measure!r}; expected 'params', 'flops' or None.")
    traced = as_traced(gm, example_inputs)
    masks = prunable_gammas(traced, residual)
    channels = channels_of(traced)
    if not masks:
        raise TrainingError(gammas_of(traced, channels, residual, in_training=True).note)
    if measure is None:
        return {name: mask.float() for name, mask in masks.items()}
    shares = _shares(traced, channels, liveness_of(traced, channels, threshold, residual).live, measure)
    weights = {}
    for name, mask in masks.items():
        at = channels.channels_along(channels.norms[name]).clamp(min=0)
        each = torch.bincount(at)[at]  # several gammas of one channel share its cost, for they live and die together
        weights[name] = torch.where(mask, shares[at] / each, 0.0)
    return weights


def _shares(traced: TracedModule, channels: Channels, live: Tensor, measure: Measure) -> Tensor:
    """float32 [channels]: the cost of each channel in the live network, as a share of the whole network's cost.

    A parameter, or a piece of work, costs a factor times the widths of its axes. A channel on one axis costs this
    factor times the live widths of the other axes.
    """
    width_of = LayoutWidths(channels, live)
    spent = torch.zeros(channels.space_of.numel()).double()
    for times, axes in _products(traced, channels, measure):
        for index, axis in enumerate(axes):
            others = prod(width_of(other) for place, other in enumerate(axes) if place != index)
            here = channels.channels_along(axis)
            spent += times * others * torch.bincount(here[here >= 0], minlength=spent.numel())
    whole: int = getattr(total_cost(traced, channels), measure)
    shares: Tensor = spent / max(whole, 1)
    return shares.float()


def _products(traced: TracedModule, channels: Channels, measure: Measure) -> Iterator[tuple[int, list[Tensor]]]:
    """(factor, axes) of every parameter, or of every piece of work, whose cost is factor * the widths of the axes."""
    if measure == "flops":
        for step in eval_steps(channels):
            for work in step.effect.work:
                yield work.times, [axis for axis in (work.rows, work.cols) if axis is not None]
        return
    for name, parameter in traced.named_parameters():
        dims = channels.layouts.get(name, (None,) * parameter.dim())
        fixed = prod(size for size, axis in zip(parameter.shape, dims, strict=True) if axis is None)
        yield fixed, [axis for axis in dims if axis is not None]
