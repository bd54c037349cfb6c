"""What the rows of all catalogues have in common: the model, its counts, and what went wrong."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar


@dataclass(frozen=True)
class Row:
    """A model and its results. A result is None where an earlier step failed; `failures` has the reason.

    Attributes:
        input: shapes of the inputs. dtype: of the whole check.
        nodes: of the graph.
        params, flops: of the model, by counting parameters and by FlopCounterMode / 2 on one example.
        params_equal, flops_equal: whether nrfx.utilization gives the same numbers.
        uncounted: nodes that nrfx lists as not counted.
        mortal: share of the params of convolutions and linear layers that can change width (shares.Shares); scaled: the
            same after insert_scales.
        pins: why the other params cannot change width, "share reason", the largest share first.
        dead: gammas that were put to 0.
        seconds: CPU time of the process; wall clock where the process was killed or died.
    """

    model: str
    package: str
    family: str
    input: str
    dtype: str = ""
    nodes: int | None = None
    params: int | None = None
    flops: int | None = None
    params_equal: bool | None = None
    flops_equal: bool | None = None
    uncounted: int | None = None
    mortal: float | None = None
    scaled: float | None = None
    pins: tuple[str, ...] = ()
    dead: int | None = None
    failures: tuple[str, ...] = ()
    seconds: float | None = None
    torch: str = ""
    date: str = ""

    @property
    def sound(self) -> bool:
        """Whether every check of the model held."""
        return not self.failures


AnyRow = TypeVar("AnyRow", bound=Row)


def row_of(kind: type[AnyRow], values: Mapping[str, Any]) -> AnyRow:
    """The row of a JSON object; lists become tuples, unknown names are left out."""
    names = {field.name for field in fields(kind)}
    known = {"mortal": values.get("free"), **values}  # once rows of the field had it under that name
    columns: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in known.items() if name in names
    }
    return kind(**columns)
