"""Compares params and flops as nrfx, torch.utils.flop_counter and fvcore count them, in all and per module.

All counts are multiply-adds of one example (FlopCounterMode counts each as two and is halved here). The total of fvcore
is larger, for it also counts batch norms and pooling; `fvcore_layers` is its count of convolutions, linear layers and
matmuls alone. `python -m benchmarks flops` prints the tables and writes benchmarks/results/flops.csv. Exit status 1:
nrfx disagrees with FlopCounterMode, or with counting the parameters.
"""

import argparse
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

import nrfx
from benchmarks import count
from benchmarks.command import RESULTS, add_models, parser_of, write
from benchmarks.networks import Network, torchvision_network
from benchmarks.outputs import forward
from benchmarks.table import terminal
from benchmarks.timing import REPEATS, Environment, median_seconds

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # fvcore calls the deprecated torch.jit.script
        from fvcore.nn import FlopCountAnalysis
except ImportError:
    FlopCountAnalysis = None

SIDES: Mapping[str, int] = {
    "resnet18": 224,
    "resnet50": 224,
    "vgg16_bn": 224,
    "densenet121": 224,
    "mobilenet_v3_small": 224,
    "googlenet": 224,
    "inception_v3": 299,
    "efficientnet_b0": 224,
    "resnext50_32x4d": 224,
}
TABLE = RESULTS / "flops.csv"
LAYERS = {"conv", "linear", "addmm", "matmul", "bmm", "einsum"}
ABSENT = "not installed"


@dataclass(frozen=True)
class Account:
    """The counts of one network, and the time of each count as a multiple of a forward.

    modules_equal: "N of M", N of M modules with parameters for which nrfx and FlopCounterMode agree exactly.
    fvcore_beside: the ops in the total of fvcore that are no layers. Its columns say "not installed" without fvcore.
    nrfx_uncounted, fvcore_uncounted: the ops that they list as not counted; FlopCounterMode lists none.
    """

    model: str
    params: int
    params_by_counting: int
    nrfx: int
    flop_counter: int
    modules_equal: str
    fvcore_layers: int | str
    fvcore_total: int | str
    fvcore_beside: tuple[str, ...]
    nrfx_uncounted: tuple[str, ...]
    fvcore_uncounted: tuple[str, ...]
    nrfx_to_forward: float
    flop_counter_to_forward: float
    fvcore_to_forward: float | str
    torch: str
    date: str
    cpu: str

    @property
    def exact(self) -> bool:
        """Whether nrfx agrees with counting, in all and per module."""
        equal, of_all = self.modules_equal.split(" of ")
        return self.params == self.params_by_counting and self.nrfx == self.flop_counter and equal == of_all


def account(name: str, network: Network, repeats: int, environment: Environment) -> Account:
    """The row of one network. The time of nrfx contains its trace."""
    torch.manual_seed(0)
    model = network.build().eval()
    image = network.images(1, seed=10, dtype=torch.float32)
    usage = nrfx.utilization(nrfx.trace(model, image))
    by_module = count.flops_by_module(model, image)
    other = _fvcore(model, image)
    forward_seconds = median_seconds(lambda: forward(model, image), repeats)
    seconds = [
        median_seconds(lambda: nrfx.utilization(nrfx.trace(model, image)), repeats),
        median_seconds(lambda: count.flops(model, image), repeats),
    ]
    other_seconds = median_seconds(lambda: _fvcore(model, image), repeats) if other else None
    equal = sum(row.flops == by_module.get(row.name, 0) for row in usage.rows)
    return Account(
        *(name, usage.params.total, count.params(model), usage.flops.total, by_module[""]),
        modules_equal=f"{equal} of {len(usage.rows)}",
        fvcore_layers=other.layers if other else ABSENT,
        fvcore_total=other.total if other else ABSENT,
        fvcore_beside=other.beside if other else (),
        nrfx_uncounted=usage.uncounted,
        fvcore_uncounted=other.uncounted if other else (),
        nrfx_to_forward=seconds[0] / forward_seconds,
        flop_counter_to_forward=seconds[1] / forward_seconds,
        fvcore_to_forward=other_seconds / forward_seconds if other_seconds else ABSENT,
        **vars(environment),
    )


@dataclass(frozen=True)
class Fvcore:
    """The counts of fvcore: of layers and in all, the ops in the total that are no layers, and the ops not counted."""

    layers: int
    total: int
    beside: tuple[str, ...]
    uncounted: tuple[str, ...]


def _fvcore(model: nn.Module, image: Tensor) -> Fvcore | None:
    """None where fvcore is not installed."""
    if FlopCountAnalysis is None:
        return None
    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
    analysis: Any = FlopCountAnalysis(model, image).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    by_operator: Mapping[str, float] = analysis.by_operator()
    beside = {op: int(number) for op, number in by_operator.items() if op not in LAYERS}
    return Fvcore(
        layers=int(sum(number for op, number in by_operator.items() if op in LAYERS)),
        total=int(analysis.total()),
        beside=tuple(f"{op} {number:,}" for op, number in beside.items()),
        uncounted=tuple(f"{op} x{times}" for op, times in analysis.unsupported_ops().items()),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Counts each network, prints the tables, writes the CSV of a run over all; 1 if nrfx miscounts any, else 0."""
    options = _parser().parse_args(arguments)
    console, environment = Console(), Environment.here()
    rows = [
        account(name, torchvision_network(name, SIDES.get(name, 224)), options.repeats, environment)
        for name in track(options.models, "flops", console=console)
    ]
    console.print(terminal(f"Multiply-adds: {environment}", COUNTS, [_counts(row) for row in rows]))
    console.print(terminal("\nTime, as a multiple of one forward", TIMES, [_times(row) for row in rows]))
    if any(row.fvcore_total == ABSENT for row in rows):
        console.print("fvcore is not installed: pip install -e '.[bench]' fills its columns.", markup=False)
    if list(options.models) == list(SIDES):
        write({TABLE: rows}, console)
    wrong = [row.model for row in rows if not row.exact]
    if wrong:
        console.print(f"[red]nrfx disagrees with FlopCounterMode or with counting on {', '.join(wrong)}.[/red]")
    return 1 if wrong else 0


COUNTS = ("network", "params", "nrfx", "flop_counter / 2", "modules equal", "fvcore layers", "fvcore total")
TIMES = ("network", "nrfx", "flop_counter", "fvcore")


def _counts(row: Account) -> tuple[str, ...]:
    return (
        *(row.model, f"{row.params:,}", f"{row.nrfx:,}", f"{row.flop_counter:,}", row.modules_equal),
        *(_number(row.fvcore_layers), _number(row.fvcore_total)),
    )


def _times(row: Account) -> tuple[str, ...]:
    return row.model, *(_number(getattr(row, f"{name}_to_forward")) for name in TIMES[1:])


def _number(value: int | float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("flops", __doc__, "--models resnet18 --repeats 3")
    add_models(parser, list(SIDES), others=True)
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"calls of which the median counts ({REPEATS})")
    return parser
