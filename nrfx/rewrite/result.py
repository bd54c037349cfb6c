"""What a rewrite returns: the new network, and where each of its numbers comes from."""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nrfx.analysis.utilization import Utilization
from nrfx.plan.absorb import Absorption
from nrfx.plan.budget import Budget
from nrfx.plan.origins import Factors, Origins
from nrfx.plan.resize import Resized
from nrfx.printed import Printed
from nrfx.rewrite.moment import Moment
from nrfx.rewrite.replacement import Change
from nrfx.tracing import TracedModule


class Before:
    """The network before a rewrite, as long as somebody else holds it; a copy of this, or a file, holds none."""

    def __init__(self, module: TracedModule | None = None) -> None:
        self._module = (lambda: None) if module is None else weakref.ref(module)

    def __call__(self) -> TracedModule | None:
        return self._module()

    def __reduce__(self) -> tuple[type["Before"], tuple[()]]:
        return Before, ()


@dataclass(frozen=True, eq=False)
class Decided:
    """What a rewrite decided on dead channels, for networks that follow the one that was rewritten.

    Attributes:
        old: the network before.
        shapes: parameter or buffer -> its shape before.
        gamma_dead: gamma parameter -> bool of its shape.
        live: bool [channels], those that count as live.
        absorption: where the constants of the others went.
        threshold: below which a gamma is dead, relative to its layer's largest.
        scratch: whether every parameter got a new initial value.
    """

    old: Before
    shapes: Mapping[str, torch.Size]
    gamma_dead: Mapping[str, Tensor]
    live: Tensor
    absorption: Absorption
    threshold: float
    scratch: bool


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
        keeps_function: False after constants=False or reinitialize="all", and where a criterion gave up what is not
            constant.
        removed: gamma parameter of the old network -> bool of its shape, whether its channel was dead and went.
        carriers: for each carrier, the name of its space.
        planned: the layouts that `verify` compares; None where nothing changed.
        moment: what `after` is computed from.
        decided: what `nrfx.carry` reads; None where nothing changed.
        budget: what the new network may cost; None where nothing bounds it, as in a compaction.
        change: how far the outputs moved on the batches of a criterion; None where that was not measured.

    >>> import nrfx
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> with torch.no_grad():
    ...     _ = net[1].weight[:4].zero_()
    >>> result = nrfx.compact(nrfx.trace(net, torch.zeros(1, 3, 4, 4)))
    >>> result.before.params.total, result.after.params.total, result.alpha
    (84, 44, 1.0)
    >>> result.origins["0.weight"][0], result.parents["0.weight"], result.removed["1.weight"].sum()
    (tensor([4, 5, 6, 7]), '0.weight', tensor(4))
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
    decided: Decided | None = field(default=None, repr=False)
    budget: Budget | None = None
    change: Change | None = None

    @property
    def after(self) -> Utilization:
        """The utilization of `module` when it was built, computed when it is first asked for."""
        return self.moment.utilization
