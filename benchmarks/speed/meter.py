"""Measuring again after only gammas changed: a reading of the Rejuvenator's meter, `nrfx.utilization`, a training step.

Before each call all gammas get new values, 40 % of them 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

import nrfx
from benchmarks.networks import norms, torchvision_network
from benchmarks.speed.clock import Spread, interleaved
from benchmarks.speed.part import Goal, Part, Settings, made
from benchmarks.table import markdown
from benchmarks.timing import seconds
from nrfx.analysis.meter import Meter

MODELS = ("resnet50", "densenet121", "densenet201", "vit_b_16", "efficientnet_b0")
TRAINED, BATCH, SIDE = "resnet50", 32, 224
SHARE_DEAD = 0.4
REPEATS, STEPS = 15, 2
LIMITS = {"resnet50": 1.0, "densenet201": 3.0}
MOST_OF_STEP = 0.1


@dataclass(frozen=True)
class Reading:
    """CPU times of one network, in milliseconds: medians, with the quartiles of the reading.

    Attributes:
        reading, utilization: a measurement by the meter, and by nrfx.utilization of the same traced module.
        once: the first reading, which computes what later ones take for granted.
        step: a training step of SGD; None for networks of which none was made.
        agrees: whether each reading was what nrfx.utilization says.
    """

    model: str
    gammas: int
    reading: float
    reading_first: float
    reading_third: float
    utilization: float
    utilization_first: float
    utilization_third: float
    once: float
    step: float | None
    agrees: bool
    repeats: int
    torch: str
    date: str
    cpu: str


def row(name: str, repeats: int, settings: Settings) -> Reading:
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
    times = {work: Spread.of([each for (each,) in rounds]) for work, rounds in interleaved(works, repeats).items()}
    read, said = times["reading"], times["utilization"]
    gammas = sum(norm.num_features for _, norm in norms(model))
    return Reading(
        *(name, gammas, read.median, read.first, read.third, said.median, said.first, said.third),
        *(once, None, _agrees(meter, change), repeats),
        **vars(settings.environment),
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


def measured(settings: Settings) -> list[Reading]:
    """The rows of all networks, one of them with a training step."""
    models, repeats = (MODELS[:1], 3) if settings.quick else (MODELS, REPEATS)
    rows = [row(name, repeats, settings) for name in track(models, "meter", console=settings.console)]
    if settings.quick:
        return rows
    step = median(step_times(STEPS))
    return [replace(each, step=step) if each.model == TRAINED else each for each in rows]


def goals(rows: Sequence[Reading]) -> list[Goal]:
    """Milliseconds of a reading, and its share of a training step."""
    of = {row.model: row for row in rows}
    listed = [
        Goal(f"{name}: a measurement", of[name].reading, most, " ms") for name, most in LIMITS.items() if name in of
    ]
    shares = [(row.model, 100 * row.reading / row.step) for row in rows if row.step]
    step = f"a measurement / a training step of batch {BATCH}"
    return listed + [Goal(f"{name}: {step}", share, MOST_OF_STEP, " %") for name, share in shares]


def holds(rows: Sequence[Reading]) -> bool:
    """Whether all meters read what nrfx.utilization says."""
    return all(row.agrees for row in rows)


TEXT = """\
`nrfx.Rejuvenator` measures with a meter. It computes *once* all that gammas cannot change; a *reading* then takes the
same numbers from the gammas as `nrfx.utilization` of the traced module, which also makes the report by layers. Before
each call all gammas and betas get new values, 40 % of the gammas 0. Where a dead channel comes to a gate or a padded
depthwise convolution (EfficientNet), its constant decides, and a reading takes a walk over the graph.
"""
SHARE = """\
A training step of {row.model} (batch {batch}, SGD) takes {seconds:.1f} s on the same thread: measuring in every step
adds {read:.3%} to it, and with `nrfx.utilization` {said:.2%}.
"""
HEADINGS = ("network", "gammas", "a reading, ms", "`nrfx.utilization`, ms", "ratio", "once, ms")


def line(row: Reading) -> tuple[str, ...]:
    """The row under HEADINGS."""
    read = Spread(row.reading, row.reading_first, row.reading_third)
    said = Spread(row.utilization, row.utilization_first, row.utilization_third)
    ratio = f"{row.utilization / row.reading:.0f}"
    return (row.model, f"{row.gammas:,}", str(read), str(said), ratio, f"{row.once:.0f}")


def section(rows: Sequence[Reading]) -> list[str]:
    """The lines of the section of docs/speed.md."""
    shares = [_share(row, row.step) for row in rows if row.step is not None]
    return [TEXT, *markdown(HEADINGS, map(line, rows)), "", *shares, f"{rows[0].repeats} rounds; {made(rows)}"]


def _share(row: Reading, step: float) -> str:
    read, said = row.reading / step, row.utilization / step
    return SHARE.format(row=row, batch=BATCH, seconds=step / 1000, read=read, said=said)


PART = Part("meter", "Measuring again while a network trains", Reading, measured, section, goals, holds)
