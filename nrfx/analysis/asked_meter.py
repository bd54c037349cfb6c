"""The meter of a criterion: the live and the total cost, asked of the criterion at each reading."""

from typing import Any

import torch

from nrfx.analysis.cost import total_cost
from nrfx.analysis.criterion import Criterion, judge_of
from nrfx.analysis.meter import Meter, MeterReading
from nrfx.analysis.spaces import channels_of
from nrfx.analysis.utilization import Share
from nrfx.choices import Residual
from nrfx.tracing import TracedModule, as_traced


class AskedMeter:
    """Reads the utilization of a network by a criterion. It keeps nothing from one reading to the next.

    Args:
        residual: as for `nrfx.rejuvenate`.
    """

    def __init__(self, traced: TracedModule, criterion: Criterion, residual: Residual = "live") -> None:
        self.traced, self.criterion, self.residual = traced, criterion, residual

    @torch.no_grad()
    def read(self) -> MeterReading:
        """The utilization now: the batches of the criterion are run.

        Raises:
            AnalysisError: the criterion cannot be applied to the network.
        """
        traced = as_traced(self.traced)
        channels = channels_of(traced)
        live = judge_of(traced, self.criterion, 0.0, self.residual)(channels, {}).live
        part, whole = total_cost(traced, channels, live), total_cost(traced, channels)
        return MeterReading(Share(part.params, whole.params), Share(part.flops, whole.flops))

    def forget(self) -> None:
        """Nothing is kept."""


def meter_of(traced: TracedModule, criterion: Criterion | None, threshold: float, residual: Residual) -> Any:
    """The meter of a network: of its gammas, or of a criterion if there is one."""
    return Meter(traced, threshold, residual) if criterion is None else AskedMeter(traced, criterion, residual)
