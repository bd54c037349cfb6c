"""One row of the coverage table: what came out for one model."""

from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from nrfx.choices import Residual

RESIDUALS: tuple[Residual, ...] = ("live", "fixed", "coupled")


@dataclass(frozen=True)
class Row:
    """A model and what was found; None where it was not got to, and `failures` say why.

    Attributes:
        input: shape of one example. dtype: of the whole check.
        params, flops: of the model, by counting parameters and by FlopCounterMode / 2 on one example.
        params_equal, flops_equal: whether nrfx.utilization says the same.
        uncounted: nodes whose multiply-adds nrfx does not know.
        free, mortal: shares of convolution and linear params (coverage_shares.Shares); scaled: mortal after
            insert_scales. scales: whether the rewrites below worked on the network with inserted scales.
        listens: how far the outputs move on other inputs, relative.
        gammas, dead: how many there are, and how many were put to 0.
        r_*: live share of the params under that residual setting; alpha_*: growth at 1.0x; difference_*: of eval
            outputs before and after, the larger of both budgets.
        share: least part of its budget that a rewrite used. cases: rewrites of which every check held, of six.
        idle: rewrites that changed nothing, for there was nothing to do.
        seconds_rewrite: CPU time of one rejuvenate, the mean. analysis: CPU time of nrfx.utilization on the traced
            model, as a multiple of torch.fx.symbolic_trace on the model; None where that cannot trace it.
        pins: what keeps the rest as it is, "share reason", most first.
        seconds: CPU time of everything; wall clock where the process did not end by itself.
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
    known = {field.name for field in fields(Row)}
    return Row(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name in known})


def row_of_cells(cells: dict[str, str]) -> Row:
    """The row of a line of the CSV."""
    kinds = get_type_hints(Row)
    return Row(**{name: _parsed(cell, kinds[name]) for name, cell in cells.items()})


def _parsed(cell: str, kind: Any) -> Any:
    if kind == tuple[str, ...]:
        return tuple(cell.split("; ")) if cell else ()
    if kind in (str, bool, int):
        return {"str": str, "bool": lambda text: text == "True", "int": int}[kind.__name__](cell)
    if not cell:
        return None
    if kind == bool | None:
        return cell == "True"
    return int(cell) if kind == int | None else float(cell)
