"""The page that a report is printed on: its width, and sections that list a few entries and count the rest."""

import io
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

NARROWEST = 60
CRAMPED = 76
SPACIOUS = 120
LISTED = 6


def render(renderable: RenderableType, width: int | None = None) -> str:
    """The report as plain text, without colours and trailing blanks.

    Args:
        width: columns, at least 60; None for those of the terminal (COLUMNS, or 80).
    """
    console = Console(file=io.StringIO(), width=columns(width), color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def columns(width: int | None = None) -> int:
    """The width to print in, at least 60: the given one, or that of the terminal."""
    return max(shutil.get_terminal_size((80, 24)).columns if width is None else width, NARROWEST)


def room(width: int) -> str:
    """A width in a word: "cramped", "usual" or "spacious"."""
    return "cramped" if width < CRAMPED else "usual" if width < SPACIOUS else "spacious"


@dataclass(frozen=True)
class Fitted:
    """A renderable that is made for the width that it gets."""

    make: Callable[[int], RenderableType]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.make(options.max_width)


def section(title: str, entries: Iterable[tuple[str, str]]) -> Iterator[RenderableType]:
    """A title and its first entries (text, and a number before it); nothing where there is no entry."""
    listed = list(entries)
    if not listed:
        return
    yield ""
    yield Text(title, style="bold")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for text, number in listed[:LISTED]:
        table.add_row(f"  {number}" if number else "", Text(text))
    if len(listed) > LISTED:
        table.add_row("", Text(f"and {len(listed) - LISTED} more", style="dim"))
    yield table


def alike(held: Iterable[tuple[str, int]]) -> Iterator[tuple[str, str]]:
    """(reason, number of channels), most first; reasons that differ only in the node that they begin with are one.

    >>> list(alike([("mul is a gate", 3), ("mul_1 is a gate", 5), ("on a stream", 1)]))
    [('mul is a gate (and 1 node like it)', '8'), ('on a stream', '1')]
    """
    together: dict[str, list[tuple[str, int]]] = {}
    for reason, count in held:
        together.setdefault(reason.partition(" ")[2], []).append((reason, count))
    counted = [(sum(count for _, count in group), group) for group in together.values()]
    for count, group in sorted(counted, key=lambda entry: -entry[0]):
        others = f" (and {len(group) - 1} node{'s' * (len(group) > 2)} like it)" if len(group) > 1 else ""
        yield f"{group[0][0]}{others}", f"{count:,}"


def some(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
