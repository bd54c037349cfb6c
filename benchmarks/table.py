"""Rows of one dataclass as a CSV file, as a table for the terminal and as markdown; and a progress bar."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

RowType = TypeVar("RowType")


def write_csv(rows: Sequence[Any], path: Path) -> None:
    """One line a row (at least one), one column a field; floats with six digits, tuples joined by semicolons."""
    path.parent.mkdir(exist_ok=True)
    names = [field.name for field in fields(rows[0])]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([[_cell(getattr(row, name)) for name in names] for row in rows])


def append_csv(row: Any, path: Path) -> None:
    """Adds a row to the file, behind a head if it is the first: what is there stays if the work is broken off."""
    if not path.is_file():
        write_csv([row], path)
        return
    with path.open("a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerow([_cell(getattr(row, field.name)) for field in fields(row)])


def _cell(value: Any) -> Any:
    if isinstance(value, tuple):
        return "; ".join(value)
    return f"{value:.6g}" if isinstance(value, float) else value


def read_csv(kind: type[RowType], path: Path) -> list[RowType]:
    """The rows that `write_csv` wrote.

    Args:
        kind: a dataclass whose fields are int, float, str, bool, one of them or None, a Literal of texts, or a tuple of
            texts; a text of a tuple that has a semicolon and a blank comes back as two.

    Raises:
        KeyError: a column is missing.
    """
    types = get_type_hints(kind)
    with path.open(newline="") as file:
        return [kind(**{name: _value(line[name], types[name]) for name in types}) for line in csv.DictReader(file)]


def kept_csv(kind: type[RowType], path: Path) -> list[RowType]:
    """The rows that a file has so far; none where there is no file."""
    return read_csv(kind, path) if path.is_file() else []


def _value(cell: str, kind: Any) -> Any:
    if get_origin(kind) is tuple:
        return tuple(cell.split("; ")) if cell else ()
    if get_origin(kind) is Literal:
        return cell
    options = get_args(kind) or (kind,)
    if cell == "" and NoneType in options:
        return None
    (plain,) = (option for option in options if option is not NoneType)
    return cell == "True" if plain is bool else plain(cell)


def terminal(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> Table:
    """A table whose first `left` columns are text and whose others are numbers."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def progress_bar(console: Console) -> Progress:
    """A bar with the name of the present work, how many rows are done, the time so far and the time to come."""
    columns = (
        TextColumn("{task.description:<48}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)
