"""The constants that a network has without a gamma near 0: those of gammas that are 0, and of filters that are 0.

A filter of zeros gives its bias everywhere, and an activation of it is a constant too. The graph is interpreted on
constants as for dead gammas (constants.py), with one more source of them.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nrfx.analysis.affine import Affine
from nrfx.analysis.channels import Channels, Step
from nrfx.analysis.constants import Constants, Propagation
from nrfx.analysis.liveness import reader
from nrfx.analysis.reinterpret import flow
from nrfx.analysis.varying import NAN
from nrfx.labels import along
from nrfx.rules import Reading
from nrfx.tracing import TracedModule
from nrfx.tracing.graph.registered import registered


def exact_constants(traced: TracedModule, channels: Channels, affine: Mapping[str, Affine]) -> Constants:
    """What columns read that is a constant on all inputs, by the weights as they are.

    Args:
        affine: key of a norm -> its values in eval mode.
    """
    zeroed = {key: replace(norm, dead=norm.gamma == 0) for key, norm in affine.items()}
    found = _ZeroFilters(traced, channels, zeroed)
    flow(channels, found.value)
    read = {key: tuple(rows) for key, rows in found.read.items()}
    return Constants(read, found.lost, tuple(found.causes), tuple(found.places))


class _ZeroFilters(Propagation):
    """The interpretation on constants, in which rows of zeros give their bias."""

    def __init__(self, traced: TracedModule, channels: Channels, affine: Mapping[str, Affine]) -> None:
        read = reader(traced)
        super().__init__(channels, affine, affine.keys(), read, read)
        self.traced = traced

    def contraction(self, step: Step, args: Any, kwargs: Any) -> Any:
        varying = super().contraction(step, args, kwargs)
        reading = step.effect.reading
        assert reading is not None
        out = step.effect.out
        if not isinstance(out, Tensor) or reading.weight is None or bool((reading.rows < 0).any()):
            return varying
        zero = self._zero_rows(reading)
        if not bool(zero.any()) or out.shape[reading.axis] != zero.numel():
            return varying
        bias = torch.zeros(zero.shape).double() if reading.bias is None else self.bias(reading.bias)
        return along(torch.where(zero, bias, NAN), reading.axis, out.shape)

    def _zero_rows(self, reading: Reading) -> Tensor:
        """bool [rows]: the whole filter is 0."""
        assert reading.weight is not None
        weight = reading.by_rows(registered(self.traced, reading.weight).detach())
        return ~weight.flatten(1).any(1).cpu()
