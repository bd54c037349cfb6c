"""A table with a line for each layer, indented as the tree of modules; bars take what its texts leave of the width."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.box import Box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from nrfx.report.layer_tree import Group, Line, Placed
from nrfx.report.page import SPACIOUS

LONGEST_BAR = 28
SHORTEST_BAR = 5
RULED = Box("    \n    \n ── \n    \n    \n ── \n    \n    \n")
"""A table with a rule below the header and one above the footer."""


@dataclass(frozen=True)
class Bar:
    """Fills its column; each part (fraction, character, ASCII character, style) takes its share, in order."""

    parts: tuple[tuple[float, str, str, str], ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One segment a part."""
        start, reached = 0, 0.0
        for fraction, character, plain, style in self.parts:
            reached += fraction
            end = max(_edge(reached, options.max_width), start)
            yield Segment((plain if options.ascii_only else character) * (end - start), Style.parse(style))
            start = end

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """From one column to all that there is room for."""
        return Measurement(1, options.max_width)


def _edge(reached: float, size: int) -> int:
    """The end of a part in whole columns: 0 only for nothing, the whole size only for everything."""
    if reached <= 0:
        return 0
    return size if reached >= 1 - 1e-9 else min(max(round(reached * size), 1), size - 1)


@dataclass(frozen=True)
class Column:
    """A column of a tree table. `cell` returns texts or bars; bars share the width that the texts leave."""

    title: str
    cell: Callable[[Group | Line], str | Bar]
    total: str | Bar = ""


def tree_table(
    width: int, entries: Sequence[Placed], wanted: Sequence[Column], quiet: Callable[[Group | Line], bool]
) -> Table:
    """A table of `width` columns with a line per entry; `quiet` entries are dimmed, groups bold."""
    cells = [[column.cell(entry.item) for column in wanted] for entry in entries]
    # to rich a bar is anything from 1 to the whole width: what the texts leave for bars is computed here
    names = ["  " * entry.depth + entry.label for entry in entries]
    sizes = [
        max(len(text) for text in (column.title, column.total, *texts) if isinstance(text, str))
        for column, texts in zip(wanted, zip(*cells, strict=True), strict=True)
    ]
    bars = [isinstance(column.total, Bar) for column in wanted]
    gap = 2 if width >= SPACIOUS else 1
    spare = width - gap * len(wanted) - sum(size for size, bar in zip(sizes, bars, strict=True) if not bar)
    widest = min(max(len("total"), *map(len, names)), spare - SHORTEST_BAR * sum(bars))
    longest = min((spare - widest) // max(sum(bars), 1), LONGEST_BAR)
    table = Table(box=RULED, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0), show_footer=True)
    table.add_column("layer", "total", width=widest, no_wrap=True)
    for column, size, bar in zip(wanted, sizes, bars, strict=True):
        justify: Literal["left", "right"] = "left" if bar else "right"
        table.add_column(column.title, column.total, width=longest if bar else size, justify=justify, no_wrap=True)
    for entry, name, texts in zip(entries, names, cells, strict=True):
        style = "bold" if isinstance(entry.item, Group) else "dim" if quiet(entry.item) else ""
        table.add_row(shortened(name, widest), *(Text(x) if isinstance(x, str) else x for x in texts), style=style)
    return table


def shortened(name: str, width: int) -> Text:
    """The name, without its middle where it is too long: both ends say which layer it is."""
    if len(name) <= width:
        return Text(name)
    tail = (width - len(name) + len(name.lstrip())) * 2 // 3
    return Text(f"{name[: width - tail - 1]}…{name[-tail:]}")


def of_line(value: Callable[[Line], str]) -> Callable[[Group | Line], str]:
    """A cell that groups leave empty."""
    return lambda item: value(item) if isinstance(item, Line) else ""
