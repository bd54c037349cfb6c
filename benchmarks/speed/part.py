"""A part of the benchmark of speed: how its rows are measured, what goals they have, and its section of the page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.command import RESULTS
from benchmarks.timing import Environment


@dataclass(frozen=True)
class Settings:
    """What all parts are told. quick: few models and repeats, to see that everything runs."""

    quick: bool
    environment: Environment
    console: Console


@dataclass(frozen=True)
class Goal:
    """A figure, and the most that it should be, in the same unit.

    >>> Goal("trace of ResNet-50 / symbolic_trace", 2.25, 2.5, "x").line()
    ('trace of ResNet-50 / symbolic_trace', '2.25x', '2.5x', 'met')
    """

    what: str
    figure: float
    limit: float
    unit: str

    @property
    def met(self) -> bool:
        """Whether the figure is at most the limit; NaN is not."""
        return self.figure <= self.limit

    def line(self) -> tuple[str, str, str, str]:
        """Its line of the table of goals."""
        return self.what, f"{_number(self.figure)}{self.unit}", f"{self.limit:g}{self.unit}", self.verdict

    @property
    def verdict(self) -> str:
        """The word for met or not, which stands out where it is not."""
        return "met" if self.met else "**not met**"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


@dataclass(frozen=True)
class Part:
    """One table of docs/speed.md.

    Attributes:
        name: as --parts takes it, and of the CSV.
        row: the dataclass whose fields are the columns of the CSV.
        measured: the rows.
        section: the lines of the section under the title, made of the rows alone.
        goals: what the rows say of the goals of the project.
        holds: whether what can be right or wrong in the rows, times apart, is right.
    """

    name: str
    title: str
    row: type
    measured: Callable[[Settings], Sequence[Any]]
    section: Callable[[Sequence[Any]], Sequence[str]]
    goals: Callable[[Sequence[Any]], Sequence[Goal]] = lambda _: ()
    holds: Callable[[Sequence[Any]], bool] = lambda _: True

    @property
    def table(self) -> Path:
        return RESULTS / f"{self.name}.csv"


def made(rows: Sequence[Any]) -> str:
    """Where and when the rows were measured, a sentence."""
    row = rows[0]
    return f"torch {row.torch}, {row.cpu}, one thread, {row.date}."
