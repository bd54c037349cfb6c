"""Results that print themselves. A result is Printed; the report that prints it registers here (nrfx/report)."""

from collections.abc import Callable
from typing import Any

_REPORTS: dict[type, Callable[[Any], str]] = {}


class Printed:
    """A value whose str() is the report registered for its class, and its repr() where no report was loaded."""

    def __str__(self) -> str:
        return _REPORTS.get(type(self), repr)(self)


def prints(kind: type, report: Callable[[Any], str]) -> None:
    """Makes report(value) the str() of every value of `kind`."""
    assert issubclass(kind, Printed), f"{kind.__name__} is not Printed"
    _REPORTS[kind] = report
