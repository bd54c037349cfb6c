"""How long nrfx takes to start, against what any Python and any program with torch takes, in the same run.

Each case is a process of its own; its time is CPU time, user and system, of the whole process. The cases are run in
turns, after one turn that warms up. Bytecode is cached, as it is after an installation.

`python -m benchmarks startup` prints the table and writes benchmarks/results/startup.csv; exit status 1: a case takes
more than its limit.
"""

import argparse
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from rich.console import Console
from rich.progress import track

from benchmarks.command import RESULTS, ROOT, parser_of, write
from benchmarks.speed.clock import spread
from benchmarks.table import terminal
from benchmarks.timing import Environment

REPEATS = 5
TABLE = RESULTS / "startup.csv"
MORE, RATIO = 0.3, 1.15
"""What is answered without torch may take MORE seconds more than Python alone; an import RATIO of that of torch."""


class Case(NamedTuple):
    """A command line of Python, what it is compared with, and its limit: seconds more, or a ratio.

    status: the exit status that it must have.
    """

    arguments: tuple[str, ...]
    yardstick: str
    more: float | None = None
    ratio: float | None = None
    status: int = 0


PYTHON, TORCH, TORCHVISION = "python -c pass", "import torch", "import torch, torchvision"
CASES: Mapping[str, Case] = {
    PYTHON: Case(("-c", "pass"), PYTHON),
    "nrfx --help": Case(("-m", "nrfx", "--help"), PYTHON, more=MORE),
    "nrfx train --help": Case(("-m", "nrfx", "train", "--help"), PYTHON, more=MORE),
    "nrfx --version": Case(("-m", "nrfx", "--version"), PYTHON, more=MORE),
    "nrfx inspect --no-such-option": Case(
        ("-m", "nrfx", "inspect", "resnet18", "--no-such-option"), PYTHON, more=MORE, status=2
    ),
    "import nrfx": Case(("-c", "import nrfx"), PYTHON, more=MORE),
    TORCH: Case(("-c", TORCH), TORCH),
    "import nrfx, all of it": Case(
        ("-c", "import nrfx; nrfx.trace, nrfx.rejuvenate, nrfx.Rejuvenator"), TORCH, ratio=RATIO
    ),
    TORCHVISION: Case(("-c", TORCHVISION), TORCHVISION),
    "nrfx inspect resnet18": Case(("-m", "nrfx", "inspect", "resnet18"), TORCHVISION),
}


@dataclass(frozen=True)
class Start:
    """CPU time of one case: the median over repeats, and against the yardstick's.

    spread: the distance of the quartiles, as a part of the median. limit: in the words of the table; "" for none.
    """

    case: str
    seconds: float
    spread: float
    yardstick: str
    seconds_more: float
    to_yardstick: float
    limit: str
    holds: bool
    repeats: int
    torch: str
    date: str
    cpu: str


def cpu_seconds(case: Case) -> float:
    """User and system time of a process that runs the case on one thread."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        [sys.executable, *case.arguments],
        cwd=ROOT,
        env=own | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.returncode == case.status, f"{case.arguments} ended with {ended.returncode}: {ended.stderr}"
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def start(name: str, times: Mapping[str, Sequence[float]], environment: Environment) -> Start:
    """The row of a case, from the times of all."""
    case, of = CASES[name], times[name]
    middle, measured = median(of), median(times[CASES[name].yardstick])
    more, ratio = middle - measured, middle / measured
    limit = f"{case.more} s more" if case.more else f"{case.ratio} of it" if case.ratio else ""
    holds = more <= (case.more or float("inf")) and ratio <= (case.ratio or float("inf"))
    return Start(
        *(name, middle, spread(of), case.yardstick, more, ratio, limit, holds),
        *(len(of), environment.torch, environment.date, environment.cpu),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all cases in turns, prints the table, writes the CSV."""
    options = _parser().parse_args(arguments)
    console, environment = Console(), Environment.here()
    turns = [
        {name: cpu_seconds(case) for name, case in CASES.items()}
        for _ in track(range(options.repeats + 1), "startup", console=console)
    ]
    times = {name: [turn[name] for turn in turns[1:]] for name in CASES}
    rows = [start(name, times, environment) for name in CASES]
    headings = ("case", "against", "limit", "CPU s", "spread", "s more", "ratio")
    console.print(terminal(f"Start-up: {environment}", headings, [_line(row) for row in rows], left=3))
    for row in rows:
        if not row.holds:
            console.print(f"{row.case} takes more than its limit: {row.limit}.")
    write({TABLE: rows}, console)
    return 0 if all(row.holds for row in rows) else 1


def _line(row: Start) -> tuple[str, ...]:
    numbers = f"{row.seconds:.3f}", f"{row.spread:.0%}", f"{row.seconds_more:.3f}", f"{row.to_yardstick:.2f}"
    return (row.case, row.yardstick, row.limit, *numbers)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("startup", __doc__, "--repeats 9")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"turns of which the median counts ({REPEATS})")
    return parser
