"""CPU time of each pass on networks with 40 % of their gammas at 0, against symbolic_trace and one forward.

Each pass starts from what it takes when called alone: `channels`, `liveness`, `utilization`, `compact` and
`rejuvenate` from a traced module, so `utilization` contains a `channels` and a `liveness`, and a rewrite contains all
of them, the analysis of its result and a copy of every weight as well.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, fx, nn

import nrfx
from benchmarks.networks import dying, torchvision_network
from benchmarks.outputs import forward
from benchmarks.speed.clock import Spread, in_turns, ratio
from benchmarks.speed.part import Goal, Part, Settings, made
from benchmarks.table import markdown
from nrfx.analysis.liveness import liveness_of
from nrfx.analysis.spaces import channels_of

MODELS = ("resnet50", "densenet121", "densenet201", "efficientnet_b0")
SIDE, REPEATS = 224, 3
FLOOR, FORWARD, GOAL = "torch.fx.symbolic_trace", "a forward of one image", "rejuvenate, attention, 1.0x"
LIMITS = {"resnet50": (0.3, "resnet50", 14.0), "densenet201": (1.0, "densenet121", 37.0)}
"""Seconds of a rejuvenation on the machine that they were set for, and what symbolic_trace of a network takes there, in
milliseconds: it tells how fast a machine is."""


@dataclass(frozen=True)
class Timing:
    """CPU milliseconds of one pass on one network: median, quartiles, ratios to symbolic_trace and a forward."""

    model: str
    work: str
    milliseconds: float
    milliseconds_first: float
    milliseconds_third: float
    to_floor: float
    to_forward: float
    repeats: int
    torch: str
    date: str
    cpu: str


def calls(model: nn.Module, image: Tensor) -> Mapping[str, Callable[[], Any]]:
    """The calls that are timed, by name. Each pass starts from the input that it takes when it is called alone."""
    traced = nrfx.trace(model, image)
    channels = channels_of(traced)
    budget = nrfx.Budget.relative(traced, params=1.0)
    return {
        FLOOR: lambda: fx.symbolic_trace(model),
        FORWARD: lambda: forward(model, image),
        "trace": lambda: nrfx.trace(model, image),
        "channels": lambda: channels_of(traced),
        "liveness": lambda: liveness_of(traced, channels),
        "utilization": lambda: nrfx.utilization(traced),
        "compact": lambda: nrfx.compact(traced),
        "rejuvenate, dense, 1.0x": lambda: nrfx.rejuvenate(traced, budget, scheme="dense"),
        GOAL: lambda: nrfx.rejuvenate(traced, budget, scheme="attention"),
    }


def timings(name: str, repeats: int, settings: Settings) -> list[Timing]:
    """The rows of one torchvision model in float32."""
    network = torchvision_network(name, SIDE)
    model = dying(torchvision_network(name, 64), beta=0.1, dtype=torch.float32, calibration=4)
    times = in_turns(calls(model, network.images(1, seed=10, dtype=torch.float32)), repeats)
    return [timing(name, work, times, settings) for work in times]


def timing(name: str, work: str, times: Mapping[str, Sequence[float]], settings: Settings) -> Timing:
    """The row of one pass, from the times of all."""
    own = Spread.of(times[work])
    return Timing(
        model=name,
        work=work,
        milliseconds=own.median,
        milliseconds_first=own.first,
        milliseconds_third=own.third,
        to_floor=ratio(times[work], times[FLOOR]).median,
        to_forward=ratio(times[work], times[FORWARD]).median,
        repeats=len(times[work]),
        **vars(settings.environment),
    )


def measured(settings: Settings) -> list[Timing]:
    """The rows of all networks."""
    models, repeats = (MODELS[:1], 2) if settings.quick else (MODELS, REPEATS)
    work = partial(timings, repeats=repeats, settings=settings)
    return [row for name in track(models, "passes", console=settings.console) for row in work(name)]


def goals(rows: Sequence[Timing]) -> list[Goal]:
    """Seconds of a rejuvenation, as they would be on the machine that the limits were set for."""
    of = {(row.model, row.work): row for row in rows}
    found = []
    for name, (most, yardstick, there) in LIMITS.items():
        ours, floor = of.get((name, GOAL)), of.get((yardstick, FLOOR))
        if ours is not None and floor is not None:
            ratio = ours.to_floor if name == yardstick else ours.milliseconds / floor.milliseconds
            where = f"where symbolic_trace of {yardstick} takes {there:g} ms"
            found.append(Goal(f"{name}: {GOAL}, {where}", ratio * there / 1000, most, " s"))
    return found


TEXT = """\
Networks with 40 % of their gammas at 0. Each pass starts from what it takes when called alone: all but symbolic_trace,
a forward and trace from a traced module. `utilization` contains `channels` and `liveness`; `compact` and `rejuvenate`
contain all of them, plan, build and check the new network, and copy its weights. The goals in seconds were set on a
machine on which symbolic_trace of ResNet-50 takes 14 ms and that of DenseNet-121 37 ms. Seconds measured here are
scaled by that; they are as exact as the ratios are.
"""
HEADINGS = ("network", "pass", "CPU ms", "/ symbolic_trace", "/ forward")


def line(row: Timing) -> tuple[str, ...]:
    """The row under HEADINGS."""
    own = Spread(row.milliseconds, row.milliseconds_first, row.milliseconds_third)
    return (row.model, row.work, str(own), f"{row.to_floor:.2f}", f"{row.to_forward:.2f}")


def section(rows: Sequence[Timing]) -> list[str]:
    """The lines of the section of docs/speed.md."""
    return [TEXT, *markdown(HEADINGS, map(line, rows)), "", f"{rows[0].repeats} rounds; {made(rows)}"]


PART = Part("passes", "Each pass", Timing, measured, section, goals)
