"""Times cross convolutions, relative to the dense convolution that they replace and to four convolutions.

`python -m benchmarks cross` measures all convolutions of ResNet-50 and VGG-16 that can have two generations of channels
(60 % survivors), then one training step of whole networks, and writes benchmarks/results/cross_*.csv. With
`--device cuda` it does the same on a GPU, where `gpu` takes less time. It has no check: the exit status is 0.
"""

import argparse
import gc
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.command import RESULTS, parser_of, write
from benchmarks.speed.clock import DTYPES, LAYOUTS, where
from benchmarks.speed.cross_convolutions import SHOWN, Timing, by_case, means, shapes, timings
from benchmarks.speed.cross_steps import Rejuvenated, Step, steps
from benchmarks.table import terminal

NETWORKS: Mapping[str, int] = {"resnet50": 32, "vgg16": 4}  # images of 224 x 224 in a batch
PARTS = ("convolutions", "networks")
REPEATS = 7
CONVOLUTIONS = ("network", "convolution", "layout", "dtype", "work", "dense ms", *SHOWN)
MEANS = ("network", "layout", "dtype", "work", "dense ms", *SHOWN)
STEPS = ("network", "way", "layout", "dtype", "params", "flops", "ms", "/ dense", "/ same widths", "peak MiB")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints the tables, writes the CSVs of a run over all networks; returns 0."""
    options = _parser().parse_args(arguments)
    console, device = Console(width=160), torch.device(options.device)
    if "convolutions" in options.parts:
        _convolutions(options, console, device)
    if "networks" in options.parts:
        _networks(options, console, device)
    return 0


def _convolutions(options: argparse.Namespace, console: Console, device: torch.device) -> None:
    cases = [
        (name, shape, count, layout, dtype)
        for name in options.networks
        for layout in options.layouts
        for dtype in options.dtypes
        for shape, count in shapes(name).items()
        if options.only in str(shape)
    ]
    rows: list[Timing] = []
    for case in track(cases, "cross", console=console):
        rows += timings(*case, options.repeats, device, options.batch or NETWORKS[case[0]])
        gc.collect()  # closures keep the maps of a case until then
    lines = [
        (*case, f"{ways['dense'].milliseconds:.1f}", *[f"{ways[w].to_dense:.2f}" if w in ways else "-" for w in SHOWN])
        for case, ways in by_case(rows).items()
        if case[-1] == "forward+backward"
    ]
    console.print(terminal(f"Ratios to dense: {where(device)}", CONVOLUTIONS, lines, left=5))
    console.print(terminal("Weighted by how often a network has each convolution", MEANS, means(rows), left=4))
    _write(rows, "convolutions", options, console)


def _networks(options: argparse.Namespace, console: Console, device: torch.device) -> None:
    cases = [(layout, dtype) for layout in options.layouts for dtype in options.dtypes]
    repeats = max(3, options.repeats // 2)
    networks = Rejuvenated("resnet50", device)
    rows = [
        row
        for case in track(cases, "steps", console=console)
        for row in steps(networks, *case, repeats, options.step_batch)
    ]
    console.print(terminal(f"One training step: {where(device)}", STEPS, map(_step, rows), left=4))
    _write(rows, "steps", options, console)


def _step(row: Step) -> tuple[str, ...]:
    return (
        *(row.network, row.way, row.layout, row.dtype, f"{row.params:,}", f"{row.flops:,}"),
        *(f"{row.milliseconds:.0f}", f"{row.to_dense:.2f}", f"{row.to_same_widths:.2f}", f"{row.peak_mib:.0f}"),
    )


def _write(rows: Sequence[Any], name: str, options: argparse.Namespace, console: Console) -> None:
    """The CSVs of a run over all networks: one for each device and dtype."""
    if options.only or tuple(options.networks) != tuple(NETWORKS) or options.batch:
        return
    for dtype in options.dtypes:
        path = RESULTS / f"cross_{name}_{options.device.partition(':')[0]}_{dtype}.csv"
        write({path: [row for row in rows if row.dtype == dtype]}, console)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("cross", __doc__, "--only '64->64 3x3' --parts convolutions --repeats 15")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda (cpu)")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="(both)")
    parser.add_argument("--networks", nargs="+", default=tuple(NETWORKS), choices=tuple(NETWORKS), help="(both)")
    parser.add_argument("--only", default="", metavar="TEXT", help="convolutions whose name contains this")
    parser.add_argument("--layouts", nargs="+", default=tuple(LAYOUTS), choices=tuple(LAYOUTS), help="(both)")
    parser.add_argument("--dtypes", nargs="+", default=tuple(DTYPES), choices=tuple(DTYPES), help="(both)")
    parser.add_argument("--batch", type=int, help="images in a batch (32, of VGG-16 4)")
    parser.add_argument("--step-batch", type=int, default=8, help="images of a training step (8; give a GPU 256)")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"calls of which the median counts ({REPEATS})")
    return parser
