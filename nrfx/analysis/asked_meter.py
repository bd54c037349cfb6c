"""The meter of a criterion: the live and the total cost, asked of the criterion at each reading."""

import torch

from nrfx.analysis.channels import Channels
from nrfx.analysis.cost import total_cost
from nrfx.analysis.criterion import Criterion, check_whole, live_by
from nrfx.analysis.meter import Meter, MeterReading
from nrfx.analysis.spaces import channels_of
from nrfx.analysis.structure import Structure
from nrfx.analysis.utilization import Share
from nrfx.choices import Residual
from nrfx.tracing import TracedModule, as_traced


class AskedMeter:
    """Reads the utilization of a network by a criterion, whose batches are run at each reading.

    Args:
        residual: as for `nrfx.rejuvenate`.

    Raises:
        AnalysisError: the model was traced in parts; in `read`, the criterion cannot be applied to the network.
    """

    def __init__(self, traced: TracedModule, criterion: Criterion, residual: Residual = "live") -> None:
        check_whole(traced)
        self.traced, self.criterion, self.residual = traced, criterion, residual
        self._known: tuple[Structure, Channels] | None = None

    @torch.no_grad()
    def read(self) -> MeterReading:
        """The utilization now. What was exchanged, added, removed or changed in the network since is noticed."""
        if self._known is None or not self._known[0].holds():
            self._known = Structure(self.traced), channels_of(as_traced(self.traced))
        channels = self._known[1]
        live = live_by(self.traced, channels, self.criterion, self.residual)
        part, whole = total_cost(self.traced, channels, live), total_cost(self.traced, channels)
        return MeterReading(Share(part.params, whole.params), Share(part.flops, whole.flops))

    def whole(self) -> MeterReading:
        """The cost of all, which counts as live; no batch is run."""
        cost = total_cost(self.traced, channels_of(as_traced(self.traced)))
        return MeterReading(Share(cost.params, cost.params), Share(cost.flops, cost.flops))

    def forget(self) -> None:
        """Lets go of the tensors of the network; the next reading looks at it anew."""
        self._known = None


def meter_of(
    traced: TracedModule, criterion: Criterion | None, threshold: float, residual: Residual
) -> Meter | AskedMeter:
    """The meter of a network: of its gammas, or of a criterion if there is one."""
    return Meter(traced, threshold, residual) if criterion is None else AskedMeter(traced, criterion, residual)
