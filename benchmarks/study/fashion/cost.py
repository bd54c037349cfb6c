"""What a search and an event cost in time, against plain training of the same network in turns with it."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch

from benchmarks.study.fashion import choices
from benchmarks.study.fashion.loop import Training, images
from benchmarks.study.fashion.plan import Curve, Task
from benchmarks.study.fashion.searches import Search, traced
from benchmarks.timing import Environment
from nrfx.experiment.data import Dataset

BLOCK, BLOCKS = 20, 6
"""Steps of either in a turn, and turns, of which the first warms up."""


@dataclass(frozen=True)
class Cost:
    """CPU times of a family, one thread.

    Attributes:
        step: milliseconds of a plain step, the median.
        search: a step of a search, with its measurements, as a multiple of a plain one: the median over the turns.
        event: the step with the event, as a multiple of a plain one.
    """

    family: str
    step: float
    search: float
    event: float
    torch: str
    date: str
    cpu: str


def cost(family: str, data: Dataset) -> Cost:
    """The times of row NR within its params, from seed 0."""
    torch.set_num_threads(1)
    task = Task(family, "NR", "params", 0, choices.chosen(family, "params"), test=False)
    searching = Search(task, data, Curve(), "NR", 1)
    plain = Training(traced(task), data, task.settings, 0, Curve(), task.settings.steps, fall_from=None)
    turns = [(_seconds(plain, BLOCK), _seconds(searching.training, BLOCK)) for _ in range(BLOCKS)][1:]
    step = median(own for own, _ in turns) / BLOCK
    event = 0.0
    while not searching.seen and searching.training.step < searching.until:
        event = _seconds(searching.training, 1)
    search = median(other / own for own, other in turns)
    return Cost(family, 1000 * step, search, event / step, **asdict(Environment.here()))


def _seconds(training: Training, steps: int) -> float:
    """CPU seconds of some more steps."""
    started = time.process_time()
    training.steps(training.step + steps)
    return time.process_time() - started


HEADINGS = ("network", "a plain step, ms", "a step of a search", "an event")


def line(row: Cost) -> tuple[str, ...]:
    """The row under HEADINGS."""
    return row.family, f"{row.step:.1f}", f"{row.search:.2f} plain steps", f"{row.event:.0f} plain steps"


def costs(families: Sequence[str], root: Path) -> list[Cost]:
    """The rows of these families."""
    data = images(root)
    return [cost(family, data) for family in families]
