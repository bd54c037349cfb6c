"""The network that a Rejuvenator watches, with what is kept of it from step to step."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from nrfx.analysis.asked_meter import meter_of
from nrfx.plan.options import Options
from nrfx.tracing import TracedModule
from nrfx.training.hooks import clock
from nrfx.training.penalty import Penalty, Pull


class Watched:
    """A network under training. What it was when it was looked at is never changed: another network is another value.

    Attributes:
        module: the network.
        penalty: on its scales that can die.
        meter: of its utilization.
        clock: the optimizer whose steps are counted.
    """

    def __init__(self, module: TracedModule, optimizers: Sequence[Any], options: Options, pull: Pull) -> None:
        self.module = module
        self.penalty = Penalty(module, options, pull)
        self.meter = meter_of(module, options.criterion, options.threshold, options.residual)
        self.clock = clock(optimizers, module)
        self._facts = module.facts

    @property
    def is_current(self) -> bool:
        """Whether nobody has made it another network since: a second Rejuvenator, a state dict."""
        return self.module.facts is self._facts

    @property
    def gammas(self) -> dict[nn.Parameter, Tensor]:
        """The gammas that can die, with the masks of their elements that can."""
        return {self.module.get_parameter(name): mask for name, mask in self.penalty.gammas.items()}
