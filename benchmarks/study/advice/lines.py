"""Files that grow by a line whenever a run ends, so that a study can be broken off and go on."""

import csv
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.table import read_csv

Line = TypeVar("Line")


def kept(kind: type[Line], path: Path) -> list[Line]:
    """The lines of a file; none where there is no file."""
    return read_csv(kind, path) if path.is_file() else []


def add(row: Any, path: Path) -> None:
    """Adds a line, a value of a dataclass, to the file; behind a head if it is the first."""
    names, new = [each.name for each in fields(row)], not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(names)
        cells = (getattr(row, name) for name in names)
        writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in cells])
