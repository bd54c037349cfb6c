"""All tables of speed, and the page docs/speed.md with the goals and a plot; parts can be chosen.

`python -m benchmarks speed` measures every part, one after the other, writes the CSV of each as soon as it is there,
and then the page, from the CSVs of all parts. `--parts` measures some again, `--page` none. Exit status 1: something
other than a time is wrong, such as a count of nrfx.
"""

import argparse
import gc
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.command import parser_of, write
from benchmarks.speed import (
    classification,
    correctness,
    counting,
    gpu_page,
    growth,
    memory,
    meter,
    passes,
    pruning,
    startup,
)
from benchmarks.speed.page import PAGE, PLOT, text
from benchmarks.speed.part import Part, Settings
from benchmarks.speed.plot import drawn
from benchmarks.table import read_csv
from benchmarks.timing import Environment

PARTS: Sequence[Part] = (
    counting.PART,
    classification.PART,
    correctness.PART,
    meter.PART,
    pruning.PART,
    passes.PART,
    growth.PART,
    memory.PART,
    startup.PART,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the parts, prints their tables and goals, writes their files unless it is quick, then the page."""
    options = _parser().parse_args(arguments)
    console = Console(width=150)
    settings = Settings(options.quick, Environment.here(), console)
    gc.freeze()  # the collections between measurements need not look at what was imported
    by_name = {part.name: part for part in PARTS}
    chosen = [] if options.page else [by_name[name] for name in options.parts]
    held = [measure(part, settings) for part in chosen]
    if not options.quick:
        publish(console)
    return 0 if all(held) else 1


def measure(part: Part, settings: Settings) -> bool:
    """Measures a part, prints its table and goals, and writes its CSV; returns whether its rows hold."""
    rows = part.measured(settings)
    settings.console.print(Markdown("\n".join([f"# {part.title}", "", *part.section(rows)])))
    for goal in part.goals(rows):
        settings.console.print(": ".join((*goal.line()[:1], ", ".join(goal.line()[1:]))), markup=False)
    if not settings.quick:
        write({part.table: rows}, settings.console)
    held = part.holds(rows)
    if not held:
        settings.console.print(f"[red]{part.title}: something is wrong, see the table.[/red]")
    return held


def publish(console: Console) -> None:
    """Writes the page and its figure from the CSVs."""
    rows = rows_of_all()
    if {"counting", "classification"} <= rows.keys():
        drawn(rows["counting"], rows["classification"], PLOT)
    write({PAGE: page_text()}, console)


def page_text() -> str:
    """The page, from the CSVs."""
    return text(PARTS, rows_of_all(), gpu_page.section())


def rows_of_all() -> dict[str, Sequence[Any]]:
    """The rows of each part that has a CSV."""
    return {part.name: read_csv(part.row, part.table) for part in PARTS if part.table.exists()}


def _parser() -> argparse.ArgumentParser:
    names = tuple(part.name for part in PARTS)
    parser = parser_of("speed", __doc__, "--parts counting traps")
    parser.add_argument(
        "--parts", nargs="+", default=names, choices=names, metavar="PART", help=f"{', '.join(names)} (all)"
    )
    parser.add_argument("--quick", action="store_true", help="few networks and repeats; prints, and writes no file")
    parser.add_argument("--page", action="store_true", help="only writes the page again, from the CSVs")
    return parser
