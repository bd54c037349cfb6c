"""All figures of a GPU in one run: kernels, waits of the host, the monitor, training steps, convolutions.

`python -m benchmarks gpu` takes less than ten minutes on a large GPU and no network. It writes each CSV as soon as
there are rows, into benchmarks/results or the folder of --to, and starts nothing new once --seconds have passed, so
that a run which is cut short leaves what it has measured. float32 is with TF32, but in the comparison with float64.
`--device cpu --quick` shows that everything runs. Exit
status 1: a check does not hold.
"""

import argparse
import gc
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.command import RESULTS, parser_of
from benchmarks.speed.clock import DTYPES, where
from benchmarks.speed.cross_convolutions import SHOWN, Shape, Timing, means, shapes, timings
from benchmarks.speed.cross_steps import Rejuvenated, Step, steps
from benchmarks.speed.gpu_checks import Check, cost_of_monitor, differences, waits
from benchmarks.table import terminal, write_csv

LAYOUT, SECONDS, REPEATS = "NHWC", 510, 7
STEPS = {"resnet50": 256, "vgg19_bn": 64}
CONVOLUTIONS = {"resnet50": 64, "vgg16": 32}
HEADINGS = ("network", "layout", "dtype", "work", "dense ms", *SHOWN)


class Sheet:
    """Rows of one kind, written after each case: what is there when a run is cut short is in the file."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, list[Any]()

    def add(self, rows: Iterable[Any]) -> list[Any]:
        """Writes the file again, with the new rows; returns them."""
        found = list(rows)
        self.rows += found
        if found:
            write_csv(self.rows, self.path)
        return found


class Run:
    """One run: its options, the files, and the time that is left."""

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        self.device, self.quick, self.console = torch.device(options.device), options.quick, console
        self.end = time.monotonic() + options.seconds
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # alike for all ways
        self.repeats = 2 if options.quick else REPEATS
        self.skipped: list[str] = []
        kind, folder = self.device.type, Path(options.to)
        self.checks = Sheet(folder / f"gpu_checks_{kind}.csv")
        self.steps = {dtype: Sheet(folder / f"gpu_steps_{kind}_{dtype}.csv") for dtype in DTYPES}
        self.convolutions = {dtype: Sheet(folder / f"gpu_convolutions_{kind}_{dtype}.csv") for dtype in DTYPES}

    def on_time(self, what: str) -> bool:
        """Whether there is time for this; if not, it is listed as skipped."""
        gc.collect()  # closures keep the maps of a case until then
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if time.monotonic() < self.end:
            return True
        self.skipped.append(what)
        return False

    def check(self) -> None:
        """Kernels against float64."""
        self.tell_checks(differences(self.device, self.quick))

    def train(self, name: str, batch: int) -> None:
        """Training steps of a network and of its rejuvenations; on ResNet-50 also waits, and what the monitor costs."""
        if not self.on_time(f"training steps of {name}"):
            return
        networks = Rejuvenated(name, self.device)
        if name == "resnet50":
            self.tell_checks(waits(networks, LAYOUT, "bfloat16", min(batch, 8)))
            self.tell_checks(cost_of_monitor(networks, LAYOUT, "bfloat16", batch, self.repeats))
        for dtype in ("bfloat16", "float32"):
            if self.on_time(f"training steps of {name}, {dtype}"):
                self.tell_steps(self.steps[dtype].add(steps(networks, LAYOUT, dtype, self.repeats, batch)))

    def convolve(self) -> None:
        """Every convolution, those first that a network has most often."""
        for dtype, name in product(("bfloat16", "float32"), CONVOLUTIONS):
            found = shapes(name).most_common(1 if self.quick else None)
            batch = 1 if self.quick else CONVOLUTIONS[name]
            for shape, count in found:
                if self.on_time(f"{name} {shape}, {dtype}"):
                    self.convolutions[dtype].add(self.timings(name, shape, count, dtype, batch))
            self.tell_convolutions(name, dtype, found)

    def timings(self, name: str, shape: Shape, count: int, dtype: str, batch: int) -> Iterator[Timing]:
        return timings(name, shape, count, LAYOUT, dtype, self.repeats, self.device, batch)

    def tell_checks(self, rows: Iterator[Check]) -> None:
        for row in self.checks.add(rows):
            word = {True: "holds", False: "DOES NOT HOLD", None: "-"}[row.holds]
            self.console.print(f"{row.what}; {row.case}: {row.figure:.4g} (limit {row.limit:.3g}) {word}", markup=False)

    def tell_steps(self, rows: Sequence[Step]) -> None:
        for row in rows:
            ratios = f"{row.to_dense:.3f} of dense, {row.to_same_widths:.3f} of the same widths"
            size = f"{row.milliseconds:.1f} ms, spread {row.spread:.1%}, {row.peak_mib:.0f} MiB"
            self.console.print(f"{row.network}, {row.dtype}, {row.way}: {size}; {ratios}", markup=False)

    def tell_convolutions(self, name: str, dtype: str, found: Sequence[tuple[Shape, int]]) -> None:
        rows = [row for row in self.convolutions[dtype].rows if row.network == name]
        title = f"{len({row.shape for row in rows})} of {len(found)} convolutions of {name}, {dtype}"
        if rows:
            self.console.print(terminal(title, HEADINGS, means(rows), left=4))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures everything, prints as it goes, and writes the CSVs."""
    options = _parser().parse_args(arguments)
    console = Console(width=160)
    run = Run(options, console)
    console.print(", ".join(where(run.device)), markup=False)
    run.check()
    for name, batch in STEPS.items():
        run.train(name, 2 if run.quick else batch)
    run.convolve()
    for what, count in Counter(run.skipped).items():
        console.print(f"Out of time: {what} ({count})", markup=False)
    wrong = [row for row in run.checks.rows if row.holds is False]
    console.print(f"{len(wrong)} of {len(run.checks.rows)} checks do not hold.")
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("gpu", __doc__, "--to results_of_gpu")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the script (cuda)")
    parser.add_argument("--quick", action="store_true", help="few shapes, small batches, two repeats")
    parser.add_argument("--to", default=str(RESULTS), metavar="FOLDER", help="where the CSVs go (benchmarks/results)")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"nothing new is started after these ({SECONDS})"
    )
    return parser
