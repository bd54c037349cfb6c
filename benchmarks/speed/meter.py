"""Times a reading of the Rejuvenator's meter, against `nrfx.utilization` and a training step.

Before each call all gammas get new values, 40 % of them 0. `python -m benchmarks meter` prints the table and writes
benchmarks/results/meter.csv and a section of docs/speed.md; exit status 1: a reading is not what nrfx.utilization says.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

import nrfx
from benchmarks.command import RESULTS, add_models, parser_of, verdict, write
from benchmarks.networks import norms, torchvision_network
from benchmarks.speed.clock import interleaved, spread
from benchmarks.speed.page import PAGE, written
from benchmarks.table import markdown, terminal
from benchmarks.timing import Environment, seconds
from nrfx.analysis.meter import Meter

MODELS = ("resnet50", "densenet121", "densenet201", "vit_b_16", "efficientnet_b0")
TRAINED, BATCH, SIDE = "resnet50", 32, 224
SHARE_DEAD = 0.4
REPEATS, STEPS = 21, 5
TABLE = RESULTS / "meter.csv"


@dataclass(frozen=True)
class Reading:
    """CPU times of one network, in milliseconds: medians over repeats.

    Attributes:
        reading, utilization: a measurement by the meter, and by nrfx.utilization; with their spreads.
        once: the first reading, which computes what later ones take for granted.
        step: a training step of SGD; None for networks of which none was made.
        agrees: whether each reading was what nrfx.utilization says.
    """

    model: str
    gammas: int
    reading: float
    reading_spread: float
    utilization: float
    utilization_spread: float
    once: float
    step: float | None
    step_spread: float | None
    agrees: bool
    repeats: int
    torch: str
    date: str
    cpu: str


def row(name: str, repeats: int, environment: Environment) -> Reading:
    """The times of a torchvision model, without a training step."""
    model = torchvision_network(name, SIDE).build()
    traced = nrfx.trace(model, torch.zeros(1, 3, SIDE, SIDE))
    change = partial(_draw, model, torch.Generator().manual_seed(0))
    meter = Meter(traced)
    (once,) = _milliseconds(meter.read, change)
    works = {
        "reading": partial(_milliseconds, meter.read, change),
        "utilization": partial(_milliseconds, partial(nrfx.utilization, traced), change),
    }
    times = {work: [elapsed for (elapsed,) in rounds] for work, rounds in interleaved(works, repeats).items()}
    read, said = times["reading"], times["utilization"]
    gammas = sum(norm.num_features for _, norm in norms(model))
    return Reading(
        *(name, gammas, median(read), spread(read), median(said), spread(said), once, None, None),
        *(_agrees(meter, change), repeats),
        **vars(environment),
    )


def _agrees(meter: Meter, change: Callable[[], None]) -> bool:
    for _ in range(3):
        change()
        read, said = meter.read(), nrfx.utilization(meter.traced)
        if (read.params, read.flops) != (said.params, said.flops):
            return False
    return True


def step_times(steps: int) -> list[float]:
    """Milliseconds of training steps of the network TRAINED on random images: forward, backward, SGD."""
    model = torchvision_network(TRAINED, SIDE).build().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images, classes = torch.randn(BATCH, 3, SIDE, SIDE), torch.randint(1000, (BATCH,))
    step = partial(_step, model, optimizer, images, classes)
    step()
    return [_milliseconds(step)[0] for _ in range(steps)]


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, classes: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(images), classes).backward()
    optimizer.step()


@torch.no_grad()
def _draw(model: nn.Module, generator: torch.Generator) -> None:
    """Gammas uniform(0, 1), of which a share is 0, and betas normal(0, 0.1)."""
    for _, norm in norms(model):
        draw = torch.rand(2, norm.num_features, generator=generator)
        norm.weight.copy_(draw[0] * (draw[1] > SHARE_DEAD))
        norm.bias.normal_(0, 0.1, generator=generator)


def _milliseconds(work: Callable[[], object], change: Callable[[], None] = lambda: None) -> tuple[float]:
    """CPU time of one call, behind a change that does not count."""
    change()
    return (1000 * seconds(work),)


HEADINGS = ("network", "gammas", "a reading, ms", "spread", "`nrfx.utilization`, ms", "spread", "ratio", "once, ms")


def line(row: Reading) -> tuple[str, ...]:
    """The row under HEADINGS."""
    return (
        *(row.model, f"{row.gammas:,}"),
        *(f"{row.reading:.2f}", f"{row.reading_spread:.0%}"),
        *(f"{row.utilization:.0f}", f"{row.utilization_spread:.0%}"),
        *(f"{row.utilization / row.reading:.0f}", f"{row.once:.0f}"),
    )


TEXT = """\
`nrfx.Rejuvenator` measures with a meter. It computes *once* all that gammas cannot change; a *reading* then takes the
same numbers from the gammas as `nrfx.utilization`, which also makes the report by layers. Before each call all gammas
and betas get new values, 40 % of the gammas 0. Where a dead channel comes to a gate or a padded depthwise convolution
(EfficientNet), its constant decides, and a reading takes a walk over the graph.
"""
SHARE = """\
A training step of {row.model} (batch {batch}, SGD) takes {seconds:.1f} s on the same thread, spread
{row.step_spread:.0%}: measuring in every step adds {read:.3%} to it, and with `nrfx.utilization` {said:.2%}.
"""


def section(rows: Sequence[Reading]) -> list[str]:
    """The lines of the section of docs/speed.md."""
    first = rows[0]
    shares = [_share(row, row.step) for row in rows if row.step is not None]
    made = f"{first.repeats} calls each, torch {first.torch}, {first.cpu}, {first.date}"
    return [TEXT, *markdown(HEADINGS, map(line, rows)), "", *shares, f"`python -m benchmarks meter`: {made}."]


def _share(row: Reading, step: float) -> str:
    read, said = row.reading / step, row.utilization / step
    return SHARE.format(row=row, batch=BATCH, seconds=step / 1000, read=read, said=said)


def main(arguments: Sequence[str] | None = None) -> int:
    """Times the readings, prints the table, writes the files of a run over all networks."""
    options = _parser().parse_args(arguments)
    console, environment = Console(), Environment.here()
    rows = [row(name, options.repeats, environment) for name in track(options.models, "meter", console=console)]
    whole = list(options.models) == list(MODELS)
    if whole or options.steps:
        steps = step_times(options.steps or STEPS)
        rows = [
            replace(each, step=median(steps), step_spread=spread(steps)) if each.model == TRAINED else each
            for each in rows
        ]
    console.print(terminal(f"Meter: {environment}", HEADINGS, map(line, rows)))
    if whole:
        write({TABLE: rows, PAGE: written("The meter", section(rows))}, console)
    return verdict([each.agrees for each in rows], "meters read what nrfx.utilization says", console)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("meter", __doc__, "--models resnet50 --repeats 5")
    add_models(parser, MODELS, others=True)
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"calls of which the median counts ({REPEATS})")
    parser.add_argument(
        "--steps", type=int, default=0, help=f"training steps, also of a run over some models ({STEPS})"
    )
    return parser
