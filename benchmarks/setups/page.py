"""The table of set-ups in docs/integrations.md."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from benchmarks.setups.setup import Row
from benchmarks.table import markdown

BEGIN, END = "<!-- setups: written by `python -m benchmarks setups` -->", "<!-- end of setups -->"
LONGEST = 220


def with_table(page: str, rows: Sequence[Row]) -> str:
    """The page with the table of these rows between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, behind = rest.partition(END)
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{behind}"


def table(rows: Sequence[Row]) -> str:
    """How many ended in which way, and a markdown table for each group."""
    counts = Counter(row.outcome for row in rows)
    counted = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    lines = [f"{len(rows)} set-ups with torch {rows[0].torch}: {counted}."]
    for group, members in groupby(rows, key=lambda row: row.group):
        cells = [(_safe(row.setup), row.outcome, _short(row.detail)) for row in members]
        lines += ["", f"### {group.capitalize()}", "", *markdown(("set-up", "outcome", "what was seen or said"), cells)]
    return "\n".join(lines)


def _short(detail: str) -> str:
    return _safe(detail if len(detail) <= LONGEST else f"{detail[: LONGEST - 1].rstrip()}…")


def _safe(text: str) -> str:
    """Text in a cell: bars would end it, angle brackets would be tags."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")
