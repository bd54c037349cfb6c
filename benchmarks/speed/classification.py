"""Every classification model of torchvision: how long nrfx needs for it, and whether it counts as FlopCounterMode does.

FlopCounterMode counts a multiply-add as two and is halved; it runs on the meta device, where no fused kernel hides the
work of attention. Both must agree exactly, in all and for every module with parameters that is called: what a function
does with the weights of a layer, as in Swin, FlopCounterMode gives to the module around it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
import torchvision
from rich.progress import track
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

import nrfx
from benchmarks import count
from benchmarks.networks import torchvision_network
from benchmarks.speed.clock import Spread, interleaved, ratio
from benchmarks.speed.part import Goal, Part, Settings, made
from benchmarks.table import markdown
from benchmarks.timing import seconds
from nrfx.analysis.rows import Row as UtilizationRow

REPEATS, MOST = 5, 2.5
FLOOR, BOTH = "torch.fx.symbolic_trace", "nrfx.trace + utilization"


@dataclass(frozen=True)
class Row:
    """One model: CPU milliseconds (medians), ratios to symbolic_trace with the quartiles of the second, and counts.

    nodes_floor, nodes: of the graph of symbolic_trace, and of that of nrfx.
    modules_equal: "N of M", N of M innermost modules with parameters for which nrfx and FlopCounterMode agree exactly.
    uncounted: the ops that nrfx says it has not counted.
    """

    model: str
    symbolic_trace: float
    trace: float
    trace_utilization: float
    trace_to_floor: float
    to_floor: float
    to_floor_first: float
    to_floor_third: float
    nodes_floor: int
    nodes: int
    params: int
    params_by_counting: int
    flops: int
    flop_counter: int
    modules_equal: str
    uncounted: str
    repeats: int
    torch: str
    date: str
    cpu: str

    @property
    def exact(self) -> bool:
        """Whether nrfx agrees with counting, in all and by module."""
        equal, of_all = self.modules_equal.split(" of ")
        return self.params == self.params_by_counting and self.flops == self.flop_counter and equal == of_all


DRAWING = (
    *(Tensor.normal_, Tensor.uniform_, Tensor.erfinv_),
    *(nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.trunc_normal_),
)


class _Undrawn(TorchFunctionMode):
    """Weights are 0.01 where random numbers would be drawn, which takes minutes for all models; a 0 is looked into."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        named = kwargs or {}
        if func not in DRAWING:
            return func(*args, **named)
        with torch.no_grad():  # a number out of bounds would be drawn again, for ever
            return (args[0] if args else named["tensor"]).fill_(0.01)


def network(name: str) -> nn.Module:
    """In eval mode, its gammas as they are initialised; of its other weights nothing reads more than a number."""
    with _Undrawn():
        return torchvision_network(name).build().eval()


def names() -> list[str]:
    """All classification models of torchvision, sorted."""
    return sorted(torchvision.models.list_models(module=torchvision.models))


def row(name: str, repeats: int, settings: Settings) -> Row:
    """Times and counts of one model."""
    model, side = network(name), 299 if name == "inception_v3" else 224
    image = torch.zeros(1, 3, side, side)
    made: dict[str, Any] = {}
    works: Mapping[str, Callable[[], tuple[float, ...]]] = {
        FLOOR: partial(_floor, model, made),
        BOTH: partial(_both, model, image, made),
    }
    times = interleaved(works, repeats, warm=False)
    floor = [each for (each,) in times[FLOOR]]
    trace, both = ([each[index] for each in times[BOTH]] for index in (0, 1))
    to_floor, usage = ratio(both, floor), made["usage"]
    rows = usage.rows  # made when asked for: of a network that still has its gammas
    by_module = count.flops_by_module(model.to("meta"), image.to("meta"))
    return Row(
        model=name,
        symbolic_trace=median(floor),
        trace=median(trace),
        trace_utilization=median(both),
        trace_to_floor=ratio(trace, floor).median,
        to_floor=to_floor.median,
        to_floor_first=to_floor.first,
        to_floor_third=to_floor.third,
        nodes_floor=made["floor nodes"],
        nodes=made["nodes"],
        params=usage.params.total,
        params_by_counting=count.params(model),
        flops=usage.flops.total,
        flop_counter=by_module[""],
        modules_equal=equal(rows, by_module),
        uncounted="; ".join(usage.uncounted),
        repeats=repeats,
        **vars(settings.environment),
    )


def _floor(model: nn.Module, made: dict[str, Any]) -> tuple[float]:
    """Milliseconds of symbolic_trace; what it gives goes to `made`."""
    graphs: list[fx.GraphModule] = []
    elapsed = seconds(lambda: graphs.append(fx.symbolic_trace(model)))
    made["floor nodes"] = len(graphs[0].graph.nodes)
    return (1000 * elapsed,)


def _both(model: nn.Module, image: Tensor, made: dict[str, Any]) -> tuple[float, float]:
    """Milliseconds of a trace, and of a trace with utilization; what they give goes to `made`."""
    traced: list[nrfx.TracedModule] = []
    usage: list[nrfx.Utilization] = []
    trace = seconds(lambda: traced.append(nrfx.trace(model, image)))
    both = trace + seconds(lambda: usage.append(nrfx.utilization(traced[0])))
    made |= {"nodes": len(traced[0].graph.nodes), "usage": usage[0]}
    return 1000 * trace, 1000 * both


def equal(rows: Sequence[UtilizationRow], by_module: Mapping[str, int]) -> str:
    """ "N of M", as in `Row.modules_equal`; a module without flops is not in `by_module`, nor is one not called."""
    paths = {each.name for each in rows}
    around = {"", *(name[:end] for name in paths for end, sign in enumerate(name) if sign == ".")}
    innermost = [each for each in rows if each.name not in around]
    compared = [each for each in innermost if each.name in by_module or not each.flops]
    return f"{sum(each.flops == by_module.get(each.name, 0) for each in compared)} of {len(compared)}"


def measured(settings: Settings) -> list[Row]:
    """The rows of all models."""
    chosen, repeats = (["resnet18", "swin_t"], 2) if settings.quick else (names(), REPEATS)
    row("resnet18", 1, settings)  # what a first call loads takes time once
    return [row(name, repeats, settings) for name in track(chosen, "classification", console=settings.console)]


def goals(rows: Sequence[Row]) -> list[Goal]:
    """At most MOST symbolic traces for each model; exact counts."""
    worst = max(rows, key=lambda row: row.to_floor)
    over, wrong = sum(row.to_floor > MOST for row in rows), sum(not row.exact for row in rows)
    many = f"of {len(rows)} classification models"
    return [
        Goal(f"{worst.model}, the slowest {many}: trace + utilization / symbolic_trace", worst.to_floor, MOST, "x"),
        Goal(f"{many}: those above {MOST}x", over, 0, ""),
        Goal(f"{many}: those whose counts differ from FlopCounterMode / 2", wrong, 0, ""),
    ]


def holds(rows: Sequence[Row]) -> bool:
    """Whether all counts are exact."""
    return all(row.exact for row in rows)


TEXT = """\
CPU milliseconds of one call and the ratio to `torch.fx.symbolic_trace`, with its quartiles, the slowest first. *equal*:
modules with parameters for which nrfx counts exactly as FlopCounterMode on meta, halved; all totals of params and flops
are compared too. *nodes*: of the graph of nrfx, as a multiple of symbolic_trace's. What torchvision marks with
`torch.fx.wrap` (the attention of Swin) symbolic_trace takes as one call, and nrfx looks into.
"""
HEADINGS = ("model", "symbolic_trace, ms", "trace", "both", "trace, ratio", "both, ratio", "nodes", "flops", "equal")


def line(row: Row) -> tuple[str, ...]:
    """The row under HEADINGS."""
    both = Spread(row.to_floor, row.to_floor_first, row.to_floor_third)
    times = (f"{each:.1f}" for each in (row.symbolic_trace, row.trace, row.trace_utilization))
    nodes = f"{row.nodes / row.nodes_floor:.2f}"
    flops = f"{row.flops:,}" if row.flops == row.flop_counter else f"**{row.flops:,}, not {row.flop_counter:,}**"
    return (row.model, *times, f"{row.trace_to_floor:.2f}", str(both), nodes, flops, row.modules_equal)


def section(rows: Sequence[Row]) -> list[str]:
    """The lines of the section of docs/speed.md."""
    ratios = Spread.of([row.to_floor for row in rows])
    quartiles = f"quartiles {ratios.first:.2f} to {ratios.third:.2f}"
    middle = f"The median of the {len(rows)} ratios is {ratios.median:.2f} ({quartiles})."
    exact = f"Counts are exact for {sum(row.exact for row in rows)} of {len(rows)}."
    slowest = sorted(rows, key=lambda row: -row.to_floor)
    nodes = Spread.of([row.to_floor * row.nodes_floor / row.nodes for row in rows])
    by_node = f"By nodes, of which the two graphs have different numbers, it is {nodes.median:.2f}."
    return [
        TEXT,
        *markdown(HEADINGS, map(line, slowest)),
        "",
        f"{middle} {by_node} {exact} {rows[0].repeats} rounds; {made(rows)}",
    ]


PART = Part("classification", "All classification models of torchvision", Row, measured, section, goals, holds)
