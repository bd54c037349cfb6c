"""The section of docs/speed.md on GPUs: the tables of `python -m benchmarks gpu`, or what is missing without them."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.command import RESULTS
from benchmarks.speed.cross_convolutions import SHOWN, Timing, means
from benchmarks.speed.cross_steps import Step
from benchmarks.speed.gpu_checks import Check
from benchmarks.table import markdown, read_csv

TITLE = "On a GPU"
MISSING = """\
Not measured yet: no run of `python -m benchmarks gpu` on a GPU has been recorded. Missing are

- the cross convolutions of ResNet-50 and VGG-16, against the dense ones and four convolutions, in bfloat16 and float32;
- training steps of ResNet-50 and VGG-19, dense, NR-CA and NR-CR, with their memory;
- what penalty and measurement add to a training step;
- that forward, backward, penalty and the optimizer's step never make the host wait for the GPU;
- how far the Triton kernels are from float64: the tests run them interpreted, on the CPU.

On the CPU, cross convolutions and training steps are in `benchmarks/results/cross_*_cpu_*.csv`
(`python -m benchmarks cross`).
"""
CHECKS = ("what", "case", "figure", "limit", "")
STEPS = ("network", "dtype", "way", "params", "ms", "spread", "/ dense", "/ same widths", "peak MiB")
CONVOLUTIONS = ("network", "layout", "dtype", "work", "dense ms", *SHOWN)


def section(folder: Path = RESULTS) -> str:
    """The section, from the CSVs in a folder."""
    tables = [
        *_table("gpu_checks_cuda*.csv", Check, folder, CHECKS, lambda rows: [check_line(row) for row in rows]),
        *_table("gpu_steps_cuda_*.csv", Step, folder, STEPS, lambda rows: [step_line(row) for row in rows]),
        *_table("gpu_convolutions_cuda_*.csv", Timing, folder, CONVOLUTIONS, means),
    ]
    return f"## {TITLE}\n\n" + ("\n\n".join(tables) if tables else MISSING.rstrip())


def _table(pattern: str, kind: type[Any], folder: Path, headings: Sequence[str], lines: Any) -> list[str]:
    """The markdown of all rows in the files of a pattern, with where they were measured; nothing for no file."""
    rows = list(chain.from_iterable(read_csv(kind, path) for path in sorted(folder.glob(pattern))))
    if not rows:
        return []
    made = f"{rows[0].device}, torch {rows[0].torch}, {rows[0].date}."
    return ["\n".join(markdown(headings, lines(rows))), made]


def check_line(row: Check) -> tuple[str, ...]:
    """The row under CHECKS."""
    limit = "" if row.holds is None else f"{row.limit:.3g}"
    word = {True: "holds", False: "**does not hold**", None: ""}[row.holds]
    return (row.what, row.case, f"{row.figure:.3g}", limit, word)


def step_line(row: Step) -> tuple[str, ...]:
    """The row under STEPS."""
    return (
        *(row.network, row.dtype, row.way, f"{row.params:,}", f"{row.milliseconds:.1f}", f"{row.spread:.0%}"),
        *(f"{row.to_dense:.2f}", f"{row.to_same_widths:.2f}", f"{row.peak_mib:.0f}"),
    )
