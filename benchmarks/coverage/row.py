"""One row of the coverage table: the results for one model."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from nrfx.choices import Residual

RESIDUALS: tuple[Residual, ...] = ("live", "fixed", "coupled")


@dataclass(frozen=True)
class Row:
    """A model and its results. A result is None where an earlier step failed; `failures` has the reason.

    Attributes:
        input: shape of one example. dtype: of the whole check.
        params, flops: of the model, by counting parameters and by FlopCounterMode / 2 on one example.
        params_equal, flops_equal: whether nrfx.utilization gives the same numbers.
        uncounted: nodes that nrfx lists as not counted.
        free, mortal: shares of convolution and linear params (shares.Shares); scaled: mortal after insert_scales.
        scales: whether the rewrites below worked on the network with inserted scales.
        listens: relative change of the outputs with the input.
        gammas, dead: number of gammas, and of those that were put to 0.
        r_*: live share of the params under that residual setting; alpha_*: growth at 1.0x; difference_*: of eval
            outputs before and after, the larger of both budgets.
        share: least part of its budget that a rewrite used. cases: rewrites of which every check held, of six.
        idle: rewrites that changed nothing, for there was nothing to do.
        seconds_rewrite: CPU time of one rejuvenate, the mean. analysis: CPU time of nrfx.utilization on the traced
            model, as a multiple of torch.fx.symbolic_trace on the model; None where that cannot trace it.
        pins: why the other params cannot change width, "share reason", the largest share first.
        seconds: CPU time of the process; wall clock where the process was killed or died.
    """

    model: str
    source: str
    family: str
    input: str
    dtype: str = ""
    built: bool = False
    traced: bool = False
    nodes: int | None = None
    params: int | None = None
    flops: int | None = None
    params_equal: bool | None = None
    flops_equal: bool | None = None
    uncounted: int | None = None
    free: float | None = None
    mortal: float | None = None
    scaled: float | None = None
    scales: bool | None = None
    listens: float | None = None
    gammas: int | None = None
    dead: int | None = None
    r_live: float | None = None
    r_fixed: float | None = None
    r_coupled: float | None = None
    alpha_live: float | None = None
    alpha_fixed: float | None = None
    alpha_coupled: float | None = None
    difference_live: float | None = None
    difference_fixed: float | None = None
    difference_coupled: float | None = None
    share: float | None = None
    cases: int = 0
    idle: int = 0
    seconds_rewrite: float | None = None
    analysis: float | None = None
    pins: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    seconds: float | None = None
    torch: str = ""
    date: str = ""

    @property
    def sound(self) -> bool:
        """Whether every check of the model held."""
        return not self.failures

    @property
    def share_mortal(self) -> float:
        """The share of layers that can change width, with scales where they help."""
        return max(self.mortal or 0.0, self.scaled or 0.0)


def row_of(values: dict[str, Any]) -> Row:
    """The row of a JSON object; lists become tuples, unknown names are left out."""
    names = {field.name for field in fields(Row)}
    columns: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name in names
    }
    return Row(**columns)


def row_of_cells(cells: dict[str, str]) -> Row:
    """The row of a line of the CSV."""
    kinds = get_type_hints(Row)
    return Row(**{name: _parsed(cell, kinds[name]) for name, cell in cells.items()})


def _parsed(cell: str, kind: Any) -> Any:
    if kind == tuple[str, ...]:
        return tuple(cell.split("; ")) if cell else ()
    if not cell and kind is not str:
        return None
    parsers: dict[Any, Callable[[str], Any]] = {str: str, int: int, float: float, bool: lambda text: text == "True"}
    plain = next(known for known in parsers if kind in (known, known | None))
    return parsers[plain](cell)
