"""A catalogue: models, the examination that they go through, and the page that tells what came out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.command import DOCS, RESULTS, ROOT
from benchmarks.coverage.check import Examination
from benchmarks.coverage.model import Model
from benchmarks.coverage.row import Row


@dataclass(frozen=True)
class Catalogue:
    """Models that are examined in the same way.

    Attributes:
        name: of its files.
        models: all of them, those of packages that are not installed too.
        shown: the inputs of a model as the table has them.
        heading: of the summary; columns: its headings; summary: its lines.
        page: from the rows and the number of models without one.
        whole: files are written only when every model has a row.
        preloaded: modules that are imported once for all processes, where installed: that takes longer than to
            examine a small model.
    """

    name: str
    models: Callable[[], Iterable[Model]]
    examination: type[Examination]
    row: type[Row]
    shown: Callable[[Model], str]
    heading: str
    columns: Sequence[str]
    summary: Callable[[Sequence[Any]], Sequence[tuple[str, ...]]]
    page: Callable[[Sequence[Any], int], str]
    whole: bool
    preloaded: tuple[str, ...]

    @property
    def table(self) -> Path:
        return RESULTS / f"{self.name}.csv"

    @property
    def document(self) -> Path:
        return DOCS / f"{self.name}.md"

    @property
    def cache(self) -> Path:
        """A line for each row as soon as it is there."""
        return ROOT / "build" / f"{self.name}.jsonl"
