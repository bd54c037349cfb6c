"""Costs and ratios in words."""

import pytest

from nrfx.analysis.utilization import Share
from nrfx.report.amounts import UNITS, human, pair, percent


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1000, "1.00 K"), (99_950, "100 K"), (10**9 - 1, "1.00 G")]
)
def test_numbers_have_three_digits_and_a_unit(number: int, text: str) -> None:
    assert human(number) == text


@pytest.mark.parametrize("number", [*range(990, 1010), 9_994, 9_996, 99_949, 99_951, 999_499, 999_501, 123_456_789])
def test_what_is_written_is_the_number_to_half_a_percent_in_four_characters_at_most(number: int) -> None:
    written, unit = f"{human(number)} ".split(" ")[:2]
    assert len(written) <= 4
    assert float(written) * UNITS[unit] == pytest.approx(number, rel=0.005)


@pytest.mark.parametrize(("live", "total"), [(1, 10**6), (10**6 - 1, 10**6), (0, 7), (7, 7), (33, 100)])
def test_a_ratio_is_written_as_0_or_100_percent_only_where_it_is_exactly_that(live: int, total: int) -> None:
    written = percent(live / total)
    number = float(written.removesuffix(" %"))
    assert (number in (0, 100)) == (live in (0, total))
    assert number == pytest.approx(100 * live / total, abs=0.1)


def test_a_pair_has_one_unit_and_equal_numbers_are_written_once() -> None:
    assert pair(Share(20_000, 2_000_000)) == "0.02/2.00 M"
    assert pair(Share(5_000, 5_000)) == "5.00 K"
