"""Results that print themselves. A result is Printed; who loads the reports registers here (nrfx/api.py)."""

from collections.abc import Callable
from typing import Any

from nrfx.errors import UsageError
from nrfx.files import Location, write

_REPORTS: dict[type, Callable[[Any], str]] = {}
_PAGES: dict[type, Callable[[Any, str], str]] = {}
_CELLS: dict[type, Callable[[Any], str]] = {}


class Printed:
    """A value whose str() is the report registered for its class, and its repr() where there is none."""

    def __str__(self) -> str:
        return _REPORTS.get(type(self), repr)(self)

    def to_html(self, path: Location, title: str = "network") -> None:
        """Writes the report as a page: one HTML file that needs nothing from outside.

        Args:
            path: where; a file that is there is replaced.
            title: the name of the network.

        Raises:
            CheckpointError: the file cannot be written; what was there is as it was.
            UsageError: there are no pages on results of this class.
        """
        if type(self) not in _PAGES:
            raise UsageError(
                f"There is no page on a result of class {type(self).__name__}: print it, or take to_json()."
            )
        write(path, _PAGES[type(self)](self, title).encode())

    def _repr_html_(self) -> str | None:
        """What a notebook shows; None where no page is registered."""
        return _CELLS[type(self)](self) if type(self) in _CELLS else None


def prints(
    kind: type,
    report: Callable[[Any], str],
    page: Callable[[Any, str], str] | None = None,
    cell: Callable[[Any], str] | None = None,
) -> None:
    """Makes report(value) the str() of every value of `kind`, page(value, title) its page, cell(value) its output in a
    notebook."""
    assert issubclass(kind, Printed), f"{kind.__name__} is not Printed"
    _REPORTS[kind] = report
    if page is not None and cell is not None:
        _PAGES[kind], _CELLS[kind] = page, cell
