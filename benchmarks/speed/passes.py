"""Times the passes, relative to torch.fx.symbolic_trace and to one forward of the same network.

`python -m benchmarks passes` prints two tables and writes benchmarks/results/passes.csv and growth.csv; the second file
says how the time of the analysis grows from a residual network of 50 blocks to one of 800.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, fx, nn
from torchvision.models.resnet import BasicBlock

import nrfx
from benchmarks.command import RESULTS, add_models, parser_of, write
from benchmarks.networks import Network, dying, torchvision_network
from benchmarks.outputs import forward
from benchmarks.table import terminal
from benchmarks.timing import REPEATS, Environment, median_seconds
from nrfx.analysis.liveness import liveness_of
from nrfx.analysis.spaces import channels_of

MODELS = ("resnet18", "resnet50", "vgg16_bn", "densenet121", "mobilenet_v3_small")
SIDE = 224
TABLE = RESULTS / "passes.csv"
BLOCKS = (50, 200, 800)
GROWTH = RESULTS / "growth.csv"


@dataclass(frozen=True)
class Timing:
    """CPU time of one pass on one network: the median over repeats, and its ratios to symbolic_trace and a forward."""

    model: str
    work: str
    milliseconds: float
    to_symbolic_trace: float
    to_forward: float
    repeats: int
    torch: str
    date: str
    cpu: str


def timings(name: str, repeats: int, environment: Environment) -> list[Timing]:
    """The passes, symbolic_trace and a forward on a torchvision model: float32, 40 % of the gammas at 0, batch 1."""
    network = torchvision_network(name, SIDE)
    model = dying(network, beta=0.1, dtype=torch.float32, calibration=4)
    seconds = {
        work: median_seconds(call, repeats)
        for work, call in _calls(model, network.images(1, seed=10, dtype=torch.float32)).items()
    }
    return [
        Timing(
            *(name, work, 1000 * elapsed, elapsed / seconds["symbolic_trace"], elapsed / seconds["forward"]),
            repeats,
            **vars(environment),
        )
        for work, elapsed in seconds.items()
    ]


@dataclass(frozen=True)
class Growth:
    """CPU time of the analysis of a residual network, per node of its graph; `to_first`: relative to the smallest."""

    blocks: int
    nodes: int
    utilization_milliseconds: float
    microseconds_per_node: float
    to_first: float
    repeats: int
    torch: str
    date: str
    cpu: str


def growth(repeats: int, environment: Environment) -> list[Growth]:
    """One row for each number of basic blocks: 16 channels, 8 x 8, float32, 40 % of the gammas at 0."""
    rows: list[Growth] = []
    for blocks in BLOCKS:
        model = dying(Network(partial(_residual, blocks), 8), dtype=torch.float32)
        traced = nrfx.trace(model, torch.zeros(1, 3, 8, 8))
        elapsed = median_seconds(partial(nrfx.utilization, traced), repeats)
        nodes = len(traced.graph.nodes)
        each = 1e6 * elapsed / nodes
        first = rows[0].microseconds_per_node if rows else each
        rows.append(Growth(blocks, nodes, 1000 * elapsed, each, each / first, repeats, **vars(environment)))
    return rows


def _residual(blocks: int) -> nn.Module:
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    body = [BasicBlock(16, 16) for _ in range(blocks)]
    return nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def _calls(model: nn.Module, image: Tensor) -> Mapping[str, Callable[[], Any]]:
    """The calls that are timed, by name. Each pass starts from the input that it takes when it is called alone."""
    traced = nrfx.trace(model, image)
    channels = channels_of(traced)
    budget = nrfx.Budget.relative(traced, params=1.0)
    return {
        "symbolic_trace": lambda: fx.symbolic_trace(model),
        "forward": lambda: forward(model, image),
        "trace": lambda: nrfx.trace(model, image),
        "channels": lambda: channels_of(traced),
        "liveness": lambda: liveness_of(traced, channels),
        "utilization": lambda: nrfx.utilization(traced),
        "rejuvenate dense": lambda: nrfx.rejuvenate(traced, budget, scheme="dense"),
        "rejuvenate attention": lambda: nrfx.rejuvenate(traced, budget, scheme="attention"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Times the passes on each network, prints the tables, writes the CSVs of a run over all networks; returns 0."""
    options = _parser().parse_args(arguments)
    console, environment = Console(), Environment.here()
    rows = [
        timing
        for name in track(options.models, "passes", console=console)
        for timing in timings(name, options.repeats, environment)
    ]
    headings = ("network", "pass", "CPU ms", "/ symbolic_trace", "/ forward")
    console.print(terminal(f"Pass speed: {environment}", headings, [_line(row) for row in rows], left=2))
    if list(options.models) == list(MODELS):
        grown = growth(options.repeats, environment)
        headings = ("blocks", "nodes", "utilization CPU ms", "us a node", "/ 50 blocks")
        console.print(terminal(f"Growth: {environment}", headings, [_grown(row) for row in grown], left=0))
        write({TABLE: rows, GROWTH: grown}, console)
    return 0


def _line(row: Timing) -> tuple[str, ...]:
    return (
        *(row.model, row.work),
        f"{row.milliseconds:.1f}",
        f"{row.to_symbolic_trace:.2f}",
        f"{row.to_forward:.2f}",
    )


def _grown(row: Growth) -> tuple[str, ...]:
    numbers = f"{row.utilization_milliseconds:.1f}", f"{row.microseconds_per_node:.0f}", f"{row.to_first:.2f}"
    return (str(row.blocks), str(row.nodes), *numbers)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("passes", __doc__, "--models resnet18 --repeats 3")
    add_models(parser, MODELS, others=True)
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"calls of which the median counts ({REPEATS})")
    return parser
