"""Intervals: Student's t against its table, and what is said where scipy is not there."""

import sys

import pytest

from nrfx.errors import UsageError
from nrfx.experiment.intervals import interval


def test_the_interval_is_student_s() -> None:
    # t of 2 degrees of freedom is 4.303 at 97.5 % and 14.089 at 99.75 %; the deviation of 1, 2, 3 is 1
    assert interval([1.0, 2.0, 3.0]).reach == pytest.approx(4.303 / 3**0.5, rel=1e-3)
    assert interval([1.0, 2.0, 3.0], comparisons=10).reach == pytest.approx(14.089 / 3**0.5, rel=1e-3)


def test_0_is_outside_where_all_differences_are_one_number_and_inside_where_they_are_0() -> None:
    assert interval([-0.5, -0.5]).apart and not interval([0.0, 0.0]).apart and not interval([-1.0, 1.5, 0.0]).apart


def test_without_scipy_there_is_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UsageError, match=r"needs scipy.*pip install 'nrfx\[demo\]'"):
        interval([1.0, 2.0])
