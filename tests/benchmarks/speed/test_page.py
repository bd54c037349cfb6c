"""The page of speeds is made of rows alone: goals first, then the parts, and what is missing is named."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.speed.page import PAGE, text
from benchmarks.speed.part import Goal, Part, Settings
from benchmarks.speed.run import PARTS, page_text


@dataclass(frozen=True)
class Row:
    """A figure."""

    seconds: float


def part(name: str, limit: float) -> Part:
    def measured(_: Settings) -> Sequence[Row]:
        raise AssertionError("a page measures nothing")

    return Part(
        *(name, f"Part {name}", Row, measured),
        section=lambda rows: [f"Took {rows[0].seconds} s."],
        goals=lambda rows: [Goal(name, rows[0].seconds, limit, " s")],
    )


def test_goals_stand_first_and_one_that_is_not_met_says_so() -> None:
    page = text(
        [part("a", 1.0), part("b", 2.0)], {"a": [Row(1.5)], "b": [Row(1.5)]}, "## Not measured\n\nb on a GPU.\n"
    )
    titles = [line for line in page.splitlines() if line.startswith("#")]
    assert titles == ["# What nrfx costs", "## Goals", "## Part a", "## Part b", "## Not measured"]
    assert "\n1 of 2 are met.\n" in page
    assert "\n| a | 1.5 s | 1 s | **not met** |\n| b | 1.5 s | 2 s | met |\n" in page


def test_a_part_without_rows_is_named_and_has_no_section() -> None:
    page = text([part("a", 1.0), part("b", 2.0)], {"a": [Row(0.5)]}, "")
    assert "No rows yet: Part b." in page and "## Part b" not in page


def test_a_figure_that_is_not_a_number_does_not_meet_its_goal() -> None:
    assert not Goal("a", float("nan"), 1.0, "x").met and Goal("a", 1.0, 1.0, "x").met


def test_the_page_that_is_committed_is_that_of_the_results_that_are_committed() -> None:
    assert page_text() == PAGE.read_text()


def test_parts_have_names_of_their_own() -> None:
    assert len({each.name for each in PARTS}) == len({each.title for each in PARTS}) == len(PARTS)
