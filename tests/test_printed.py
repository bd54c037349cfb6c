"""Results print the report that is registered for their class."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from nrfx.errors import UsageError
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


def test_a_value_without_a_page_shows_nothing_in_a_notebook_and_one_with_a_page_writes_it(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Shown(Printed):
        number: int

    prints(Shown, str)
    assert Shown(3)._repr_html_() is None
    with pytest.raises(UsageError, match="no page on a result of class Shown: print it"):
        Shown(3).to_html(tmp_path / "none.html")
    prints(Shown, str, lambda value, title: f"<p>{title}: {value.number}", lambda value: f"<b>{value.number}</b>")
    Shown(3).to_html(tmp_path / "page.html", title="a number")
    assert (tmp_path / "page.html").read_text() == "<p>a number: 3" and Shown(3)._repr_html_() == "<b>3</b>"
