"""How the time and the memory of each pass grow with the network: residual networks of 50, 200 and 800 blocks.

A network that grows sixteenfold should take sixteen times as long, or less: then the time of a node stays the same.
`python -m benchmarks.speed.growth BLOCKS PASS` is the process of one measurement; it prints a JSON object.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from rich.progress import track
from torch import nn
from torchvision.models.resnet import BasicBlock

import nrfx
from benchmarks.networks import Network, dying
from benchmarks.speed.child import answer
from benchmarks.speed.child import measured as in_child
from benchmarks.speed.part import Goal, Part, Settings, made
from benchmarks.table import markdown

BLOCKS = (50, 200, 800)
CHANNELS, SIDE = 16, 8
MOST = 1.25
Pass = Callable[[nn.Module, nrfx.TracedModule], Any]
PASSES: Mapping[str, Pass] = {
    "trace": lambda model, _: nrfx.trace(model, torch.zeros(1, 3, SIDE, SIDE)),
    "utilization": lambda _, traced: nrfx.utilization(traced),
    "compact": lambda _, traced: nrfx.compact(traced),
    "rejuvenate, attention, 1.0x": lambda _, traced: nrfx.rejuvenate(
        traced, nrfx.Budget.relative(traced, params=1.0), scheme="attention"
    ),
}


@dataclass(frozen=True)
class Growth:
    """CPU milliseconds of a pass and MiB of its peak, alone in a fresh process, called once.

    to_first: the time of a node, against that of the network of 50 blocks.
    """

    work: str
    blocks: int
    nodes: int
    milliseconds: float
    to_first: float
    peak_mib: float
    torch: str
    date: str
    cpu: str


def residual(blocks: int) -> nn.Module:
    """A residual network of basic blocks of 16 channels, for images of 8 x 8."""
    stem = [nn.Conv2d(3, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS), nn.ReLU()]
    body = [BasicBlock(CHANNELS, CHANNELS) for _ in range(blocks)]
    return nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 10))


def child(blocks: str, work: str) -> dict[str, float]:
    """The figures of one pass, with small networks as warm-up: what a first call loads does not grow."""
    torch.set_num_threads(1)
    small, model = (
        dying(Network(partial(residual, count), SIDE), dtype=torch.float32, calibration=2) for count in (2, int(blocks))
    )
    call = PASSES[work]
    call(small, nrfx.trace(small, torch.zeros(1, 3, SIDE, SIDE)))
    traced = nrfx.trace(model, torch.zeros(1, 3, SIDE, SIDE))
    return {"nodes": len(traced.graph.nodes), **in_child(lambda: call(model, traced))}


def measured(settings: Settings) -> list[Growth]:
    """The rows of all passes and networks."""
    works, blocks = (["utilization"], BLOCKS[:2]) if settings.quick else (list(PASSES), BLOCKS)
    rows: list[Growth] = []
    for work, count in track(list(product(works, blocks)), "growth", console=settings.console):
        figures = answer(__name__, str(count), work)
        first = next((row for row in rows if row.work == work), None)
        ratio = figures["milliseconds"] / figures["nodes"] / (first.milliseconds / first.nodes) if first else 1.0
        nodes, time, peak = int(figures["nodes"]), figures["milliseconds"], figures["peak_mib"]
        rows.append(Growth(work, count, nodes, time, ratio, peak, **vars(settings.environment)))
    return rows


def goals(rows: Sequence[Growth]) -> list[Goal]:
    """The time of a node grows by at most a quarter, which leaves room for caches that no longer hold all."""
    largest = max(row.blocks for row in rows)
    what = f"time of a node, {largest} blocks / {min(row.blocks for row in rows)}"
    return [Goal(f"{row.work}: {what}", row.to_first, MOST, "x") for row in rows if row.blocks == largest]


TEXT = """\
Residual networks of basic blocks (16 channels), 40 % of their gammas at 0; each pass alone in a fresh process, after
one of two blocks that warms up. *a node*: CPU time divided by the number of nodes of the graph, and against the
network of 50 blocks. The peak is that of the resident set, beyond what lay in memory before.
"""
HEADINGS = ("pass", "blocks", "nodes", "CPU ms", "us a node", "/ 50 blocks", "peak, MiB")


def line(row: Growth) -> tuple[str, ...]:
    """The row under HEADINGS."""
    each = 1000 * row.milliseconds / row.nodes
    numbers = f"{row.milliseconds:.0f}", f"{each:.0f}", f"{row.to_first:.2f}", f"{row.peak_mib:.0f}"
    return (row.work, str(row.blocks), f"{row.nodes:,}", *numbers)


def section(rows: Sequence[Growth]) -> list[str]:
    """The lines of the section of docs/speed.md."""
    return [TEXT, *markdown(HEADINGS, map(line, rows)), "", f"One call each; {made(rows)}"]


PART = Part("growth", "Growth with the network", Growth, measured, section, goals)


def main(arguments: Sequence[str]) -> Any:
    """Prints the figures of the pass that the arguments name."""
    print(json.dumps(child(*arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])
