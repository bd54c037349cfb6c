"""How long it takes to count params and multiply-adds: nrfx against the tools that do it, on four networks.

The floor is torch.fx.symbolic_trace, the least that any tool on torch.fx needs. Where a tool runs on the meta device,
it counts there, for that is how it is fastest on large networks; elsewhere it counts on the CPU, and the table says
why. All calls are made in turns, in another order each round; a ratio compares two times of one round.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from rich.progress import track
from torch import fx, nn

import nrfx
from benchmarks.networks import torchvision_network
from benchmarks.speed.clock import Spread, in_turns, ratio
from benchmarks.speed.part import Goal, Part, Settings, made
from benchmarks.speed.peers import NRFX, PEERS, Counts, Inputs, UnusableError, counted, versions
from benchmarks.table import markdown

MODELS = ("resnet50", "densenet121", "vit_b_16", "efficientnet_b0")
REPEATS, SIDE = 5, 224
FLOOR, TRACE, BOTH = "torch.fx.symbolic_trace", "nrfx.trace", "nrfx.trace + utilization"
REPORT = "nrfx.trace + utilization, by layer"
META, CPU, GRAPH = "meta", "cpu", "graph"
MOST = 2.5


@dataclass(frozen=True)
class Time:
    """CPU milliseconds of one tool on one network, and the ratios to symbolic_trace: medians and quartiles.

    Attributes:
        where: the device of the network that the tool runs; "graph" where the tool does not run it.
        to_floor: to torch.fx.symbolic_trace.
        params, flops: what the tool counted; None where it counts nothing.
        refused: why the tool does not run on meta (where is "cpu") or nowhere (where is ""); "" where it runs.
    """

    model: str
    tool: str
    where: str
    milliseconds: float
    milliseconds_first: float
    milliseconds_third: float
    to_floor: float
    to_floor_first: float
    to_floor_third: float
    params: int | None
    flops: int | None
    refused: str
    peers: str
    repeats: int
    torch: str
    date: str
    cpu: str


@dataclass(frozen=True)
class Way:
    """One line of the table before it is timed."""

    where: str
    refused: str
    counts: Counts | None
    call: Callable[[], object]


def network(name: str) -> nn.Module:
    """In eval mode, as counting tools take it. A second one has the same weights."""
    torch.manual_seed(0)
    return torchvision_network(name, SIDE).build().eval()


def peer_way(tool: str, name: str, inputs: Inputs) -> Way:
    """How a tool counts a network: on meta, else on the CPU, else not at all. Each has a network of its own."""
    reasons: list[str] = []
    for device in (META, CPU):
        module, given = network(name).to(device), tuple(x.to(device) for x in inputs)
        call = partial(counted, PEERS[tool], module, given)
        try:
            return Way(device, "; ".join(reasons), call(), call)
        except UnusableError as error:
            reasons.append(f"{device}: {error}")
    return Way("", "; ".join(reasons), None, lambda: None)


def times(name: str, repeats: int, settings: Settings) -> list[Time]:
    """The rows of one network."""
    inputs = (torch.zeros(1, 3, SIDE, SIDE),)
    model = network(name)

    def trace() -> nrfx.TracedModule:
        return nrfx.trace(model, inputs)

    usage = nrfx.utilization(trace())
    counts = Counts(usage.params.total, usage.flops.total)
    ways = {
        FLOOR: Way(GRAPH, "", None, lambda: fx.symbolic_trace(model)),
        TRACE: Way(GRAPH, "", None, trace),
        BOTH: Way(GRAPH, "", counts, lambda: nrfx.utilization(trace())),
        REPORT: Way(GRAPH, "", counts, lambda: nrfx.utilization(trace()).rows),
        **{tool: peer_way(tool, name, inputs) for tool in PEERS if tool != NRFX},
    }
    measured = in_turns({tool: way.call for tool, way in ways.items() if way.where}, repeats)
    return [row(name, tool, way, measured, repeats, settings) for tool, way in ways.items()]


def row(name: str, tool: str, way: Way, measured: dict[str, list[float]], repeats: int, settings: Settings) -> Time:
    """The row of one tool, from the times of all."""
    own = Spread.of(measured.get(tool, []))
    to_floor = ratio(measured[tool], measured[FLOOR]) if tool in measured else Spread.of([])
    return Time(
        model=name,
        tool=tool,
        where=way.where,
        milliseconds=own.median,
        milliseconds_first=own.first,
        milliseconds_third=own.third,
        to_floor=to_floor.median,
        to_floor_first=to_floor.first,
        to_floor_third=to_floor.third,
        params=way.counts.params if way.counts else None,
        flops=way.counts.flops if way.counts else None,
        refused=way.refused,
        peers=versions(),
        repeats=repeats,
        **vars(settings.environment),
    )


def measured(settings: Settings) -> list[Time]:
    """The rows of all networks."""
    models, repeats = (MODELS[:1], 2) if settings.quick else (MODELS, REPEATS)
    return [
        each for name in track(models, "counting", console=settings.console) for each in times(name, repeats, settings)
    ]


def fastest(rows: Sequence[Time], model: str) -> Time:
    """The fastest tool beside nrfx that counts this network on meta."""
    tools = set(PEERS) - {NRFX}
    return min((row for row in rows if row.model == model and row.tool in tools and row.where == META), key=_time)


def _time(row: Time) -> float:
    return row.to_floor


def goals(rows: Sequence[Time]) -> list[Goal]:
    """trace + utilization takes at most the time of the fastest peer on meta, and at most MOST symbolic traces."""
    listed = []
    for own in (row for row in rows if row.tool == BOTH):
        peer = fastest(rows, own.model)
        what = f"{own.model}: trace + utilization"
        listed.append(Goal(f"{what} / the fastest peer on meta, {peer.tool}", own.to_floor / peer.to_floor, 1, "x"))
        listed.append(Goal(f"{what} / symbolic_trace", own.to_floor, MOST, "x"))
    return listed


TEXT = """\
CPU milliseconds of one call, with the quartiles, and the ratio to `torch.fx.symbolic_trace` of the same round. What
nrfx and symbolic_trace take is a network on the CPU, which they do not run. The other tools run the network: on the
meta device where they can. *flops* are what each tool counts as multiply-adds; FlopCounterMode counts each as two and
is halved. nrfx gives the totals, as the other tools are asked for here; *by layer* also makes its report, a row for
each layer with its live part and pins. The tools do not count alike: some add batch norms, activations or biases. What
they count right and wrong is [below](#what-the-counters-count).
"""
HEADINGS = ("network", "tool", "runs on", "CPU ms", "/ symbolic_trace", "params", "flops")


def line(row: Time) -> tuple[str, ...]:
    """The row under HEADINGS."""
    own = Spread(row.milliseconds, row.milliseconds_first, row.milliseconds_third)
    to_floor = Spread(row.to_floor, row.to_floor_first, row.to_floor_third)
    numbers = (str(own), str(to_floor)) if row.where else ("-", "-")
    where = {GRAPH: "nothing", "": "fails"}.get(row.where, row.where)
    return (row.model, row.tool, where, *numbers, *(_count(each) for each in (row.params, row.flops)))


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def section(rows: Sequence[Time]) -> list[str]:
    """The lines of the section of docs/speed.md."""
    reasons = {f"- {row.tool}: {row.refused}" for row in rows if row.refused}
    why = ["", "Not on meta, or not at all:", "", *sorted(reasons)] if reasons else []
    closing = f"{rows[0].repeats} rounds; {rows[0].peers}; {made(rows)}"
    return [TEXT, *markdown(HEADINGS, map(line, rows)), *why, "", closing]


PART = Part("counting", "Counting, against other tools", Time, measured, section, goals)
