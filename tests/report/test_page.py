"""The page: its width, its colours, and sections that list a few entries."""

import io

import pytest
from rich.console import Console, Group

from nrfx.report import render, utilization_report
from nrfx.report.page import alike, columns, room, section, some
from tests.report.networks import measured


def test_colours_come_on_a_terminal_only() -> None:
    u = measured("vgg_bn")
    assert "\x1b" not in render(utilization_report(u))
    terminal = io.StringIO()
    Console(file=terminal, force_terminal=True, width=80, color_system="standard", legacy_windows=False).print(
        utilization_report(u)
    )
    assert "\x1b[" in terminal.getvalue()


def test_bars_can_be_written_in_ascii() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    console = Console(file=stream, width=80, legacy_windows=False)
    console.print(utilization_report(measured("vgg_bn")))
    stream.flush()
    assert b"###" in stream.buffer.getvalue()


@pytest.mark.parametrize(("count", "last"), [(0, ""), (1, "  1  entry 0"), (6, "  1  entry 5"), (9, "     and 3 more")])
def test_a_section_lists_six_entries_and_counts_the_rest(count: int, last: str) -> None:
    text = render(Group(*section("Title", [(f"entry {index}", "1") for index in range(count)])), 60)
    printed = text.splitlines()
    assert printed[:2] == (["", "Title"] if count else printed[:2])
    assert len(printed) == (2 + min(count, 7) if count else len(printed)) and (printed or [""])[-1] == last


def test_a_page_is_at_least_60_columns_wide_and_else_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "132")
    assert (columns(20), columns(90), columns()) == (60, 90, 132)
    assert [room(width) for width in (75, 76, 119, 120)] == ["cramped", "usual", "usual", "spacious"]


def test_reasons_that_differ_in_their_node_alone_are_one_entry() -> None:
    held = [("mul is a gate", 1_200), ("on a stream", 2_000), ("mul_1 is a gate", 900), ("mul_2 is a gate", 1)]
    assert list(alike(held)) == [("mul is a gate (and 2 nodes like it)", "2,101"), ("on a stream", "2,000")]
    assert some(["a", "b", "c"]) == "a, b, c" and some(["a", "b", "c", "d"]) == "a, b, c and 1 more"
