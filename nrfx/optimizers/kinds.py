"""The kinds of optimizers: for each, how its state follows a parameter that a rewrite scales, narrows and widens.

    power   a parameter scaled by f has its gradient scaled by 1 / f. A state tensor that is made of gradients is scaled
            with them: by f ** -power, with power 1 for means of gradients, 2 for means of their squares, and 0 for what
            is made of steps that do not depend on the gradient's scale. A copy of the parameter has power -1
    fill    what positions start from that are new, or whose parameter was written anew

A subclass is of the kind of its nearest known ancestor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from types import MappingProxyType
from typing import Any

from torch import optim
from torch.optim import Optimizer

from nrfx.errors import TrainingError

PARAMETER, MEAN = "parameter", "mean"
"""Fills: the value of the new parameter there; the mean over the positions that were carried."""

Fill = float | str
"""A number, PARAMETER, MEAN, or the name of an option of the optimizer's group, such as "lr"."""


@dataclass(frozen=True)
class Kind:
    """How the state of a kind of optimizer follows its parameters.

    Attributes:
        powers: state tensor of the parameter's shape -> the power of 1 / f that it is scaled by.
        fill: state tensor -> what new positions start from; 0 where it is not named.
        sums: state tensors that keep their fill as a summand, undecayed, so that it is not scaled.
        factored: means of squared gradients over the last dim -> over the last but one, which stand for their product.
        restarts: state that belongs to the parameter as a whole and cannot be carried: where channels come, go or are
            rescaled, all the parameter's state starts anew.
        joint: whether the state belongs to all parameters together, so that it starts anew where one changes.
        note: a sentence on what of the step is not carried exactly, or "".
    """

    powers: Mapping[str, float]
    fill: Mapping[str, Fill] = field(default_factory=dict)
    sums: frozenset[str] = frozenset()
    factored: Mapping[str, str] = field(default_factory=dict)
    restarts: frozenset[str] = frozenset()
    joint: bool = False
    note: str = ""

    @property
    def known(self) -> frozenset[str]:
        """The names of the state tensors that it says something of."""
        return frozenset({*self.powers, *self.factored, *self.factored.values(), *self.restarts})


ADAM = Kind({"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2})
AS_A_WHOLE = "its step depends on the parameter as a whole, so that the steps of survivors change by a common factor"
ADAFACTOR_NOTE = f"{AS_A_WHOLE} (the clipping by a root mean square, and the scale of the parameter)"

TORCH: Mapping[type[Optimizer], Kind] = MappingProxyType(
    {
        optim.SGD: Kind({"momentum_buffer": 1}),
        optim.Adam: ADAM,
        optim.AdamW: ADAM,
        optim.NAdam: ADAM,
        optim.RAdam: ADAM,
        optim.SparseAdam: ADAM,
        optim.Adamax: Kind({"exp_avg": 1, "exp_inf": 1}),
        optim.Adagrad: Kind({"sum": 2}, {"sum": "initial_accumulator_value"}, sums=frozenset({"sum"})),
        # the unit of its steps comes from eps: they do not depend on the gradient's scale
        optim.Adadelta: Kind({"square_avg": 2, "acc_delta": 0}),
        # the buffer is a mean of gradients that were divided by their size
        optim.RMSprop: Kind({"square_avg": 2, "grad_avg": 1, "momentum_buffer": 0}),
        optim.Rprop: Kind({"prev": 1, "step_size": 0}, {"step_size": "lr"}),
        optim.ASGD: Kind({"ax": -1}, {"ax": PARAMETER}),
        optim.Adafactor: Kind(
            {"variance": 2}, {"variance": MEAN}, factored={"row_var": "col_var"}, note=ADAFACTOR_NOTE
        ),
        optim.Muon: Kind(
            {"momentum_buffer": 1}, note="its step is orthogonal as a matrix, so that each entry depends on all"
        ),
        optim.LBFGS: Kind({}, joint=True),
    }
)

_registered: dict[type[Optimizer] | str, Kind] = {}


def register_optimizer(
    kind: type[Optimizer] | str,
    powers: Mapping[str, float],
    fill: Mapping[str, Fill] | None = None,
    *,
    restarts: tuple[str, ...] = (),
    note: str = "",
) -> None:
    """Says how the state of an optimizer follows its parameters, so that a rejuvenation can carry it over.

    A rewrite scales positions of a parameter by factors f > 0, so that their gradients are scaled by 1 / f. Each state
    tensor of the parameter's shape is gathered like the parameter and multiplied by f ** -power.

    Args:
        kind: the class, subclasses included; or its name as "package.Class", for a class that may not be installed.
        powers: state tensor -> power: 1 for means of gradients, 2 for means of squared ones, 0 for what does not depend
            on their scale, -1 for a copy of the parameter. {} for an optimizer whose state holds single numbers alone.
        fill: state tensor -> what new positions start from: a number (0 if it is not named), "parameter" for the new
            parameter's own values, "mean" for the mean over carried positions, or the name of an option of the group
            ("lr"). A copy of the parameter (power -1) with "parameter" keeps its distance from the parameter.
        restarts: state that cannot be carried, such as preconditioners of a whole matrix. Where its parameter changes,
            all the state of that parameter starts anew, as before a first step.
        note: a sentence for the notes of an event, on what is not carried exactly.

    Raises:
        TrainingError: an argument is none of these.

    >>> import torch
    >>> class SignMomentum(torch.optim.SGD):
    ...     pass
    >>> register_optimizer(SignMomentum, {"momentum_buffer": 1})
    """
    fill = dict(fill or {})
    _check(kind, powers, fill, restarts)
    _registered[kind] = Kind(dict(powers), fill, restarts=frozenset(restarts), note=note)


def _check(kind: Any, powers: Any, fill: Mapping[str, Any], restarts: Any) -> None:
    named = isinstance(kind, str) and kind.count(".") == 1 and all(kind.split("."))
    if not named and not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise TrainingError(f'kind is {kind!r}; expected a class of optimizer, or its name as "package.Class".')
    if not isinstance(powers, Mapping) or isinstance(restarts, str):
        raise TrainingError(
            f"powers is {powers!r} and restarts {restarts!r}; expected a mapping such as "
            '{"exp_avg": 1, "exp_avg_sq": 2}, and a tuple of names.'
        )
    for key, power in powers.items():
        if isinstance(power, bool) or not isinstance(power, int | float) or not isfinite(power):
            raise TrainingError(
                f"The power of {key!r} is {power!r}; expected a number such as 1 for means of gradients."
            )
    for key, start in fill.items():
        if key not in powers:
            raise TrainingError(
                f"fill names {key!r}, which powers does not; it names {', '.join(powers) or 'nothing'}."
            )
        if isinstance(start, bool) or not isinstance(start, int | float | str):
            raise TrainingError(
                f'The fill of {key!r} is {start!r}; expected a number, "parameter", "mean" or the name of an option.'
            )
        if start == PARAMETER and powers[key] != -1:
            raise TrainingError(
                f"{key!r} is filled with the parameter and has the power {powers[key]}; a copy of it has -1."
            )


def registered() -> Mapping[type[Optimizer] | str, Kind]:
    """What `register_optimizer` was told."""
    return MappingProxyType(_registered)
