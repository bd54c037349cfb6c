"""Results print the report that is registered for their class."""

from dataclasses import dataclass

import pytest

from nrfx.printed import Printed, prints
from nrfx.report import render, utilization_report
from tests.report.networks import measured


def test_printing_a_value_prints_its_report() -> None:
    u = measured("vgg_bn")
    assert str(u) == render(utilization_report(u))


def test_a_value_without_a_report_prints_its_repr() -> None:
    @dataclass(frozen=True)
    class Plain(Printed):
        number: int

    assert str(Plain(3)) == repr(Plain(3))
    prints(Plain, lambda value: f"the number {value.number}")
    assert str(Plain(3)) == "the number 3"


def test_only_what_is_printed_takes_a_report() -> None:
    with pytest.raises(AssertionError, match="int is not Printed"):
        prints(int, str)
