"""Results that print themselves. A result is Printed; who loads the reports registers here (nrfx/api.py)."""

from collections.abc import Callable
from typing import Any

_REPORTS: dict[type, Callable[[Any], str]] = {}


class Printed:
    """A value whose str() is the report registered for its class, and its repr() where there is none."""

    def __str__(self) -> str:
        return _REPORTS.get(type(self), repr)(self)


def prints(kind: type, report: Callable[[Any], str]) -> None:
    """Makes report(value) the str() of every value of `kind`."""
    assert issubclass(kind, Printed), f"{kind.__name__} is not Printed"
    _REPORTS[kind] = report
