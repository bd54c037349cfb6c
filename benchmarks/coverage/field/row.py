"""One row of the table of the field: how nrfx takes one model."""

from dataclasses import dataclass
from typing import Literal

from benchmarks.coverage.row import Row


@dataclass(frozen=True)
class FieldRow(Row):
    """The columns of the field beside those of every row; a model that is refused with a reason is sound.

    Attributes:
        second: shapes of the inputs of the second size.
        form: how `nrfx.trace(..., partial=True)` takes the model. reason: why it is refused, or not whole.
        parts: number of submodules that are graphs; inside: share of the params in them.
        changed: whether `rejuvenate` to 1.0x of the params changed the network.
        difference: of the eval outputs after the rewrite; scaled_difference: of those of the network with scales.
        budget_met: params within the budget, and what the result says of itself is what is counted.
        loaded: the saved file, loaded into a fresh model, gives the same outputs.
        second_size: what the traced model does there: "equal" to the model, "differs", or "refused: why".
    """

    second: str = ""
    form: Literal["", "whole", "parts", "refused"] = ""
    reason: str = ""
    parts: int | None = None
    inside: float | None = None
    changed: bool | None = None
    difference: float | None = None
    scaled_difference: float | None = None
    budget_met: bool | None = None
    loaded: bool | None = None
    second_size: str = ""
