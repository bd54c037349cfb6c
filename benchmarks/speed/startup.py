"""How long nrfx takes to start, against what any Python and any program with torch takes, in the same run.

Each case is a process of its own; its time is CPU time, user and system, of the whole process. The cases are run in
turns, after one turn that warms up. Bytecode is cached, as it is after an installation.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from rich.progress import track

from benchmarks.command import ROOT
from benchmarks.speed.clock import Spread, ratio
from benchmarks.speed.part import Goal, Part, Settings, made
from benchmarks.table import markdown

REPEATS = 3
MORE, RATIO, INSPECT = 0.3, 1.15, 1.3
"""What is answered without torch may take MORE seconds more than Python alone; an import RATIO of that of torch, and
`nrfx inspect` INSPECT of that of torch and torchvision."""


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
    "nrfx inspect resnet50": Case(("-m", "nrfx", "inspect", "resnet50"), TORCHVISION, ratio=INSPECT),
}


@dataclass(frozen=True)
class Start:
    """CPU seconds of one case, and against the yardstick of the same round: medians and quartiles.

    more, ratio: the limits; None for none.
    """

    case: str
    seconds: float
    seconds_first: float
    seconds_third: float
    yardstick: str
    seconds_more: float
    to_yardstick: float
    to_yardstick_first: float
    to_yardstick_third: float
    more: float | None
    ratio: float | None
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


def start(name: str, times: Mapping[str, Sequence[float]], settings: Settings) -> Start:
    """The row of a case, from the times of all."""
    case, own = CASES[name], Spread.of(times[name])
    to_yardstick = ratio(times[name], times[case.yardstick])
    return Start(
        case=name,
        seconds=own.median,
        seconds_first=own.first,
        seconds_third=own.third,
        yardstick=case.yardstick,
        seconds_more=own.median - median(times[case.yardstick]),
        to_yardstick=to_yardstick.median,
        to_yardstick_first=to_yardstick.first,
        to_yardstick_third=to_yardstick.third,
        more=case.more,
        ratio=case.ratio,
        repeats=len(times[name]),
        **vars(settings.environment),
    )


def measured(settings: Settings) -> list[Start]:
    """The rows of all cases, which run in turns."""
    rounds = range((1 if settings.quick else REPEATS) + 1)
    turns = [
        {name: cpu_seconds(case) for name, case in CASES.items()}
        for _ in track(rounds, "startup", console=settings.console)
    ]
    times = {name: [turn[name] for turn in turns[1:]] for name in CASES}
    return [start(name, times, settings) for name in CASES]


def goals(rows: Sequence[Start]) -> list[Goal]:
    """The limits of the cases that have one."""
    more = [
        Goal(f"{row.case}: more than {row.yardstick}", row.seconds_more, row.more, " s") for row in rows if row.more
    ]
    ratios = [Goal(f"{row.case} / {row.yardstick}", row.to_yardstick, row.ratio, "x") for row in rows if row.ratio]
    return [*more, *ratios]


TEXT = """\
CPU seconds, user and system, of whole processes on one thread, in turns. Bytecode is cached. *all of it* loads every
public name.
"""
HEADINGS = ("process", "CPU s", "against", "s more", "ratio")


def line(row: Start) -> tuple[str, ...]:
    """The row under HEADINGS."""
    own = Spread(row.seconds, row.seconds_first, row.seconds_third)
    if row.case == row.yardstick:
        return (f"`{row.case}`", str(own), "", "", "")
    to_yardstick = Spread(row.to_yardstick, row.to_yardstick_first, row.to_yardstick_third)
    return (f"`{row.case}`", str(own), f"`{row.yardstick}`", f"{row.seconds_more:.2f}", str(to_yardstick))


def section(rows: Sequence[Start]) -> list[str]:
    """The lines of the section of docs/speed.md."""
    return [TEXT, *markdown(HEADINGS, map(line, rows)), "", f"{rows[0].repeats} rounds; {made(rows)}"]


PART = Part("startup", "Starting", Start, measured, section, goals)
