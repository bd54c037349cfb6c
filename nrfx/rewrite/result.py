"""What a rewrite returns: the new network, and where each of its numbers comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from nrfx.analysis.utilization import Utilization
from nrfx.plan.origins import Factors, Origins
from nrfx.plan.resize import Resized
from nrfx.printed import Printed
from nrfx.rewrite.moment import Moment
from nrfx.tracing import TracedModule


@dataclass(frozen=True, eq=False)
class Rejuvenation(Printed):
    """A rewritten network, and where each of its numbers comes from.

    Attributes:
        module: the new network; same submodule names, device, dtype, requires_grad, mode. Shares no tensor with the
            old.
        before: utilization of the old network. `after` is that of the new one.
        alpha: the factor by which all live widths grew, 1.0 where none did.
        notes: sentences on channels, layers and gammas that stayed as they were, and why.
        origins: parameter or buffer of `module` -> for each dim, int64: the old position of each new one, -1 for new
            ones; None where the dim is unchanged.
        parents: parameter or buffer -> the old name that its origins point into, None if there is none. It differs
            from the new name only where a weight was split into blocks.
        factors: parameter or buffer -> for each dim, float64: new value = gathered old value * product of the factors.
            0 marks positions that were written anew (carriers); None is 1 everywhere.
        changed: False where there was nothing to do; `module` then is an equal copy.
        keeps_function: False after constants=False or reinitialize="all".
        removed: gamma parameter of the old network -> bool of its shape, whether its channel was dead and went.
        carriers: for each carrier, the name of its space.
        planned: the layouts that `verify` compares; None where nothing changed.
        moment: what `after` is computed from.
    """

    module: TracedModule
    before: Utilization
    alpha: float
    notes: tuple[str, ...]
    origins: Mapping[str, Origins]
    parents: Mapping[str, str | None]
    factors: Mapping[str, Factors]
    changed: bool
    keeps_function: bool
    removed: Mapping[str, Tensor]
    carriers: tuple[str, ...]
    planned: Resized | None = field(repr=False)
    moment: Moment = field(repr=False)

    @property
    def after(self) -> Utilization:
        """The utilization of `module` when it was built, computed when it is first asked for."""
        return self.moment.utilization
