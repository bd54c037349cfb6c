"""Rows of a dataclass are written as CSV, and read again as they were."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from benchmarks.table import read_csv, write_csv


@dataclass(frozen=True)
class Row:
    """A field of every kind that a CSV is read into."""

    name: str
    count: int
    share: float
    holds: bool
    seen: int | None
    reason: str
    form: Literal["", "whole"]
    pins: tuple[str, ...]


def test_what_was_written_is_read_as_it_was(tmp_path: Path) -> None:
    rows = [
        Row("a, b", 3, 0.25, True, None, "", "", ()),
        Row("c", -1, float("inf"), False, 0, "so", "whole", ("x", "y")),
    ]
    write_csv(rows, tmp_path / "rows.csv")
    assert read_csv(Row, tmp_path / "rows.csv") == rows


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("name,count\na,1\n")
    with pytest.raises(KeyError, match="share"):
        read_csv(Row, tmp_path / "rows.csv")
