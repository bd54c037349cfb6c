"""Ops that have no value at some numbers (log, sqrt, x / y), and the births that must not grow in front of them.

What was trained keeps away from such numbers; a new channel, which starts around 0 with both signs, does not. A weight
of 0 that reads it does not help, for 0 times NaN is NaN. The graph is interpreted on a few numbers that a new channel
may have at every position: relu(x) + 1 is then known to be at least 1, so that its logarithm has a value.
"""

from typing import Any

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels, Step
from nrfx.analysis.constants import Propagation
from nrfx.analysis.reinterpret import flow, like, operands
from nrfx.labels import collapse
from nrfx.rules import Family, tensors

PROBES = (-11.3, -0.37, 0.0, 0.37, 11.3)
"""Far enough from 0 to leave the domain of log(1 + x), near enough that sigmoid(x) is neither 0 nor 1 in float64."""
_ANYTHING = (Family.SOURCE, Family.UNKNOWN, Family.SINK, Family.NORM, Family.GROUPED, Family.CONTRACTION)


def not_to_grow(channels: Channels) -> dict[str, str]:
    """Birth -> why, for the births of free spaces that meet an op without a value at what new channels may have."""
    if not any(step.effect.undefined for step in channels.steps):
        return {}
    reasons: dict[str, str] = {}
    for probe in PROBES:
        probing = _Probing(channels, probe)
        flow(channels, probing.value)
        reasons |= {birth: reason for birth, reason in probing.reasons.items() if birth not in reasons}
    return reasons


class _Probing(Propagation):
    """The interpretation in which whatever a channel may be is one number."""

    def __init__(self, channels: Channels, probe: float) -> None:
        super().__init__(channels, {}, set())
        self.channels, self.probe = channels, torch.tensor(probe, dtype=torch.float64)
        self.reasons: dict[str, str] = {}

    def value(self, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        family = step.effect.family
        if family in _ANYTHING or (family is Family.MIXED and step.effect.apply is None):
            return like(step.effect.out, lambda labels: self.probe.expand(labels.shape))
        result = super().value(step, args, kwargs)
        if step.effect.undefined and not bool(collapse(result).isfinite().all()):
            self.outside(step)
        return like(result, self.finite)

    def finite(self, values: Tensor) -> Tensor:
        """The values, with the probe where there is none: what is not followed may be anything."""
        small = collapse(values)
        return torch.where(small.isfinite(), small, self.probe).expand(values.shape)

    def outside(self, step: Step) -> None:
        """Notes the births of all channels that the step reads."""
        for labels in tensors(operands(step, self.labels)):
            spaces = self.channels.spaces_along(collapse(labels).reshape(-1)).unique()
            for space in (self.channels.spaces[int(index)] for index in spaces[spaces >= 0]):
                reason = f"{step.node.name} has no value at some numbers that new channels may have"
                self.reasons |= dict.fromkeys(space.births, reason) if space.free else {}
