"""One row of the table of the field: how nrfx takes one model."""

from dataclasses import dataclass, fields
from typing import Any, Literal

Form = Literal["", "whole", "parts", "refused"]


@dataclass(frozen=True)
class Row:
    """A model and its results. A result is None where an earlier step failed; `failures` has the reason.

    Attributes:
        model: "package:name". family: the architecture.
        input, second: shapes of the inputs, and of those of the second size.
        form: how `nrfx.trace(..., partial=True)` takes the model. reason: why it is refused, or not whole.
        parts: number of submodules that are graphs; inside: share of the params in them.
        free: share of the params of convolutions and linear layers that can change width (shares.Shares.mortal);
            scaled: the same after insert_scales; pins: why the others cannot.
        params, flops: of the model, by counting parameters and by FlopCounterMode / 2 on one example.
        params_equal, flops_equal: whether nrfx.utilization gives the same numbers; uncounted: what it names as
            not counted.
        dead: gammas that were put to 0. changed: whether `rejuvenate` to 1.0x of the params changed the network.
        difference: of the eval outputs after the rewrite; scaled_difference: of those of the network with scales.
        budget_met: params within the budget, and what the result says of itself is what is counted.
        loaded: the saved file, loaded into a fresh model, gives the same outputs.
        second_size: what the traced model does there: "equal" to the model, or "refused: why".
        failures: what is wrong. seconds: CPU time.
    """

    model: str
    package: str
    family: str
    input: str
    second: str = ""
    dtype: str = ""
    form: Form = ""
    reason: str = ""
    nodes: int | None = None
    parts: int | None = None
    inside: float | None = None
    free: float | None = None
    scaled: float | None = None
    pins: tuple[str, ...] = ()
    params: int | None = None
    flops: int | None = None
    params_equal: bool | None = None
    flops_equal: bool | None = None
    uncounted: int | None = None
    dead: int | None = None
    changed: bool | None = None
    difference: float | None = None
    scaled_difference: float | None = None
    budget_met: bool | None = None
    loaded: bool | None = None
    second_size: str = ""
    failures: tuple[str, ...] = ()
    seconds: float | None = None
    torch: str = ""
    date: str = ""

    @property
    def sound(self) -> bool:
        """Whether every check of the model held; a model that is refused with a reason is sound."""
        return not self.failures


def row_of(values: dict[str, Any]) -> Row:
    """The row of a JSON object; lists become tuples, unknown names are left out."""
    names = {field.name for field in fields(Row)}
    columns: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name in names
    }
    return Row(**columns)
