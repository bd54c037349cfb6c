"""The study at the paper's own width, on a GPU: its VGG-19 on all of Fashion-MNIST, in bfloat16.

`python -m benchmarks wide --data-root DIR` trains BL, NR and NR-CA-BR from one seed after the other, a line a run in
benchmarks/results/fashion_wide.csv; it starts no run that would not end within --seconds, and goes on from the lines
that are there. Images of 28 x 28 in three equal colours; training is in bfloat16, scores are in float32; settings as
the study chose them, on small networks and a CPU. `--device cpu --quick --to FOLDER` shows that everything runs.
Exit status 1: a run costs more than its budget.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.command import RESULTS, parser_of
from benchmarks.study.fashion.choices import CHOSEN
from benchmarks.study.fashion.networks import WHOLE_IMAGE, WIDE
from benchmarks.study.fashion.plan import UNCHOSEN, Line, Settings, Task
from benchmarks.study.fashion.runs import kept, run
from benchmarks.study.fashion.tables import HEADINGS, by_row, rows
from benchmarks.table import append_csv, terminal
from benchmarks.timing import Environment
from nrfx.experiment.data import Dataset
from nrfx.experiment.fashion import fashion

FILE = "fashion_wide.csv"
ROWS = ("BL", "NR", "NR-CA-BR")
SECONDS = 450
PLAIN = Settings(steps=3000, batch_size=128)
QUICK, FEW = replace(PLAIN, steps=8, batch_size=8, interval=1, trigger=1.0, delta_lambda=4.0), 32
"""To see that everything runs, with an event at once: settings, and images of each part."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains as long as there is time, prints the table; 1 if a network costs more than at first, else 0."""
    parser = parser_of("wide", __doc__, "--data-root /usr/share/datasets/fashion-mnist")
    parser.add_argument("--data-root", type=Path, required=True, metavar="DIR", help="folder of Fashion-MNIST's files")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the script (cuda)")
    parser.add_argument("--quick", action="store_true", help="a few steps on a few images")
    parser.add_argument("--seeds", type=int, default=0, metavar="N", help="0 to N - 1 (as many as there is time for)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for all runs ({SECONDS})")
    parser.add_argument("--to", type=Path, default=RESULTS, metavar="FOLDER", help="where the file goes")
    options = parser.parse_args(arguments)
    if options.to == RESULTS and (options.quick or options.device == "cpu"):
        parser.error("--to is missing: what is tried is no result, so name another folder for it")
    options.to.mkdir(parents=True, exist_ok=True)
    end, console = time.monotonic() + options.seconds, Console(width=160)
    device = torch.device(options.device)
    console.print(name_of(device), markup=False)
    data, path = images(options.data_root, device, FEW if options.quick else None), options.to / FILE
    known, longest = kept(path), 0.0
    for seed in range(options.seeds) if options.seeds else count():
        tasks = [task(row, seed, QUICK if options.quick else PLAIN) for row in ROWS]
        for each in (each for each in tasks if each.key not in known):
            if time.monotonic() + longest < end:
                line = known[each.key] = replace(run(each, data), cpu=name_of(device))
                append_csv(line, path)
                longest = max(longest, line.seconds)
                told = f"{line.row}, seed {seed}: test error {line.test:.2f} %, event at {line.event}"
                console.print(f"{told}, {line.seconds:.0f} s", markup=False)
        if time.monotonic() + longest >= end:
            break
    found = by_row(known.values())
    console.print(terminal("VGG-19 on Fashion-MNIST, params <= 1x", HEADINGS, rows(found)))
    return 1 if any(is_over(line, found["BL"].values()) for line in known.values()) else 0


def task(row: str, seed: int, plain: Settings = PLAIN) -> Task:
    """A run: with what was chosen, where it searches."""
    chosen = plain if row in UNCHOSEN else replace(plain, **CHOSEN)
    return Task(WIDE, row, "params", seed, chosen)


def images(root: Path, device: torch.device, most: int | None = None) -> Dataset:
    """55,000 images to train on, 5,000 for validation, 10,000 for the test, or the first few; on the device."""
    data = fashion(root, seed=0, size=WHOLE_IMAGE[1], channels=WHOLE_IMAGE[0])
    parts: dict[str, Any] = {}
    for name in ("train", "validation", "test"):
        part: Any = getattr(data, name)
        parts[name] = (part if most is None else part.part(torch.arange(most))).to(device)
    return replace(data, **parts)


def name_of(device: torch.device) -> str:
    """What the device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else Environment.here().cpu


def is_over(line: Line, plain: Iterable[Line]) -> bool:
    """Whether a network has more params than that of plain training."""
    return any(line.params > each.params for each in plain)
