"""Kills `nrfx train` again and again: it ends with the weights of a run that was never killed.

`python -m benchmarks kills` kills 50 times (`--kills N`, five in a run), each time at a moment drawn from the time that
a whole run takes, and writes benchmarks/results/kills.csv. `--ranks 2` trains under torchrun with so many
processes, and kills them all. Exit status 1: a weight at the end is another one than without kills, no channel was
rejuvenated, or a run could not go on.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file

from benchmarks.command import RESULTS, parser_of, verdict, write
from benchmarks.table import terminal
from benchmarks.timing import Environment
from nrfx.experiment.record import read_log

TABLE = RESULTS / "kills.csv"
RECIPE = """
row = "NR-CA-BR"
model = "benchmarks.soundness.kills:net"
budget = "params=1.0x"

[data]
name = "digits"

[train]
epochs = 12
batch_size = 32
lr = 0.05
interval = 10
delta_lambda = 1e-2
trigger = 0.8
search = 0.7
"""
OVER = "the run in it is over"
HEADINGS = ("run", "ranks", "kills", "before the first checkpoint", "events", "weights", "seconds")


def net(num_classes: int = 10) -> torch.nn.Module:
    """A small network of which half dies within the search."""
    layers = [torch.nn.Conv2d(1, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.Flatten()]
    torch.nn.init.constant_(layers[1].weight, 0.5)  # type: ignore[arg-type]
    return torch.nn.Sequential(*layers, torch.nn.Linear(16 * 36, num_classes))


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        kills: how often it was killed.
        early: how many of these came before its first checkpoint.
        events: rejuvenations in its log.
        equal: whether every tensor of its last file is that of the run that was never killed, bit for bit.
    """

    run: int
    ranks: int
    kills: int
    early: int
    events: int
    equal: bool
    seconds: float
    torch: str
    date: str
    cpu: str

    @property
    def passed(self) -> bool:
        """Whether the run ended as the one that was never killed, after an event."""
        return self.equal and self.events > 0


class Training:
    """`nrfx train` in a folder, as a process of its own."""

    def __init__(self, recipe: Path, out: Path, ranks: int) -> None:
        self.recipe, self.out, self.ranks = recipe, out, ranks

    def started(self) -> "subprocess.Popen[str]":
        """The process that begins the run, or goes on with it."""
        begun = (self.out / "config.json").exists()
        options = ["--resume", str(self.out)] if begun else ["--recipe", str(self.recipe), "--out", str(self.out)]
        launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={self.ranks}"] if self.ranks > 1 else []
        return subprocess.Popen(
            [sys.executable, *launcher, "-m", "nrfx", "train", *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def killed_after(self, seconds: float) -> bool:
        """Starts it and kills it after so many seconds; False where it had ended before."""
        process = self.started()
        try:
            _, error = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return True
        _check(process, error)
        return False

    def to_the_end(self) -> None:
        """Starts it and waits for its end."""
        process = self.started()
        _, error = process.communicate()
        _check(process, error)

    @property
    def events(self) -> int:
        """The rejuvenations in its log."""
        return len(read_log(self.out).events)


def _check(process: "subprocess.Popen[str]", error: str) -> None:
    if process.returncode and OVER not in error:  # it had ended just before the last kill
        raise RuntimeError(f"A run could not go on (exit status {process.returncode}):\n{error}")


def broken_off(number: int, training: Training, kills: int, longest: float, expected: Path) -> Row:
    """A run that is killed so many times and then left alone, compared with the one that was not."""
    draws, begun = random.Random(number), time.monotonic()
    done = early = 0
    while done < kills:
        first = not (training.out / "state.json").exists()
        # to load torch takes half of the time
        if not training.killed_after(draws.uniform(longest / 2 if draws.random() < 0.8 else 0.05, longest)):
            break
        done, early = done + 1, early + first
    if done == kills:
        training.to_the_end()
    one, other = (load_file(folder / "model.safetensors") for folder in (expected, training.out))
    equal = one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    here = Environment.here()
    took = round(time.monotonic() - begun, 1)
    return Row(number, training.ranks, done, early, training.events, equal, took, here.torch, here.date, here.cpu)


def main(arguments: Sequence[str]) -> int:
    """Runs the benchmark with these options."""
    parser = parser_of("kills", __doc__, "--kills 50")
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="in all (50); fewer than 10 write no file")
    parser.add_argument("--each", type=int, default=5, metavar="N", help="kills of one run (5)")
    parser.add_argument("--ranks", type=int, default=1, metavar="N", help="processes of a run, by torchrun (1)")
    options = parser.parse_args(arguments)
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.toml"
        recipe.write_text(RECIPE)
        whole = Training(recipe, Path(folder) / "whole", options.ranks)
        begun = time.monotonic()
        whole.to_the_end()
        longest = time.monotonic() - begun
        rows: list[Row] = []
        while (left := options.kills - sum(row.kills for row in rows)) > 0:
            training = Training(recipe, Path(folder) / f"run{len(rows)}", options.ranks)
            rows.append(broken_off(len(rows) + 1, training, min(options.each, left), longest, whole.out))
            console.print(f"run {len(rows)}: killed {rows[-1].kills} times, {_cells(rows[-1])[5]}")
    console.print(terminal("Runs that were killed", HEADINGS, [_cells(row) for row in rows]))
    if options.kills >= 10:
        write({TABLE if options.ranks == 1 else RESULTS / f"kills_{options.ranks}.csv": rows}, console)
    return verdict([row.passed for row in rows], "runs end as the one that was never killed", console)


def _cells(row: Row) -> tuple[str, ...]:
    told = "equal" if row.equal else "different"
    return (*map(str, (row.run, row.ranks, row.kills, row.early, row.events)), told, f"{row.seconds:.0f}")
