"""Times cross convolutions, relative to the dense convolution that they replace and to four convolutions.

`python -m benchmarks cross` measures all convolutions of ResNet-50 and VGG-16 that can have two generations of channels
(60 % survivors), then one training step of whole networks, and writes benchmarks/results/cross_*.csv. With
`--device cuda` it does the same on a GPU, unattended.
"""

import argparse
import gc
import platform
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

import nrfx
from benchmarks.networks import dying, torchvision_network
from benchmarks.table import RESULTS, ROOT, terminal, write_csv
from benchmarks.timing import Environment
from nrfx.nn import CrossConv2d, implementation
from nrfx.nn.implementations import choice

NETWORKS: Mapping[str, int] = {"resnet50": 32, "vgg16": 4}  # images of 224 x 224 in a batch
IMPLEMENTATIONS = ("reference", "attend", "direct")
SHOWN = ("four convolutions", *IMPLEMENTATIONS, "chosen")
DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYOUTS: Mapping[str, torch.memory_format] = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
SURVIVORS = 0.6
REPEATS = 7


@dataclass(frozen=True)
class Shape:
    """A convolution without groups: its channels, kernel, stride, padding, and the side of its square input."""

    in_: int
    out: int
    kernel: int
    stride: int
    padding: int
    side: int

    def __str__(self) -> str:
        return f"{self.in_}->{self.out} {self.kernel}x{self.kernel}/{self.stride} at {self.side}"


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one way to compute one convolution: the median over interleaved repeats, and their spread.

    spread: the distance of the quartiles, as a part of the median. chosen: whether nrfx takes this way by itself.
    kept_mib: what the forward keeps for the backward beside parameters. peak_mib: the most that was allocated, on GPUs.
    """

    network: str
    shape: str
    count: int
    layout: str
    dtype: str
    work: str
    way: str
    chosen: bool
    milliseconds: float
    spread: float
    to_dense: float
    to_four: float
    kept_mib: float
    peak_mib: float
    batch: int
    repeats: int
    device: str
    torch: str
    date: str


@dataclass(frozen=True)
class Step:
    """One training step (forward, backward, SGD) of a whole network; columns as in Timing."""

    network: str
    way: str
    layout: str
    dtype: str
    params: int
    flops: int
    milliseconds: float
    spread: float
    to_dense: float
    to_same_widths: float
    peak_mib: float
    batch: int
    repeats: int
    device: str
    torch: str
    date: str


def shapes(network: str) -> Counter[Shape]:
    """How often a torchvision network has each convolution that can have two generations of inputs, at 224 x 224."""
    found: Counter[Shape] = Counter()

    def note(conv: nn.Conv2d, given: tuple[Tensor, ...], _: Tensor) -> None:
        if conv.in_channels > 3:
            sizes = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
            found[Shape(conv.in_channels, conv.out_channels, *sizes, given[0].shape[-1])] += 1

    with torch.device("meta"):
        model = torchvision.models.get_model(network)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)  # type: ignore[arg-type]
    model.eval()(torch.empty(1, 3, 224, 224, device="meta"))
    return found


def four_convolutions(layer: CrossConv2d, x: Tensor) -> Tensor:
    """The formulation of one convolution for each block, by slices, with the attention in plain operations."""
    (s, _), (rows, _) = layer.in_generations, layer.out_generations
    weight, window = layer.weight, (None, layer.stride, layer.padding)
    blocks = [
        [F.conv2d(part, columns, *window) for part, columns in ((x[:, :s], block[:, :s]), (x[:, s:], block[:, s:]))]
        for block in (weight[:rows], weight[rows:])
    ]
    (ss, sr), (rs, rr) = blocks
    return torch.cat([ss + 2 * torch.sigmoid(ss) * sr, rr + 2 * torch.sigmoid(rr) * rs], 1)


# Clocks


class Clock:
    """Seconds between two calls: of this process's CPU time, or of the GPU."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def now(self) -> float:
        """The present time; waits for the GPU."""
        if not self.cuda:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def peak_mib(self, work: Callable[[], Any]) -> float:
        """The most memory that one call allocates beyond what was there; NaN on the CPU."""
        if not self.cuda:
            return float("nan")
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - before) / 2**20


def interleaved(
    works: Mapping[str, Callable[[], tuple[float, ...]]], repeats: int
) -> dict[str, list[tuple[float, ...]]]:
    """What each work returns, `repeats` times, after one call that warms up; in another order each time, for what the
    one before leaves in the caches and in the allocator is part of a measurement."""
    for work in works.values():
        work()
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in works}
    order, shuffle = list(works), random.Random(0).shuffle
    for _ in range(repeats):
        shuffle(order)
        for name in order:
            found[name].append(works[name]())
    return found


def spread(values: Sequence[float]) -> float:
    """The distance of the quartiles, as a part of the median."""
    if len(values) < 2:
        return float("nan")
    first, _, third = quantiles(values, n=4, method="inclusive")
    return (third - first) / median(values)


def kept_mib(forward: Callable[[], Tensor], parameters: Sequence[Tensor]) -> float:
    """MiB of the storages, beside parameters, that autograd keeps for the backward."""
    seen: dict[int, int] = {parameter.untyped_storage().data_ptr(): 0 for parameter in parameters}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen.setdefault(storage.data_ptr(), storage.nbytes())
        alive.append(tensor)
        return tensor

    alive: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward()
    return sum(seen.values()) / 2**20


# One convolution


def ways(shape: Shape, x: Tensor, layout: torch.memory_format) -> tuple[dict[str, Any], str]:
    """(function of x, weight) by name: dense, four convolutions, the implementations; and which of these is chosen."""
    dense = nn.Conv2d(shape.in_, shape.out, shape.kernel, shape.stride, shape.padding, bias=False)
    dense.to(x.device, x.dtype, memory_format=layout)
    s, rows = round(SURVIVORS * shape.in_), round(SURVIVORS * shape.out)
    layer = CrossConv2d.from_dense(dense, (s, shape.in_ - s), (rows, shape.out - rows)).to(memory_format=layout)

    def by(name: str) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            with implementation(name):
                return layer(x)  # type: ignore[no-any-return]

        return forward

    found: dict[str, Any] = {"dense": (dense, dense.weight)}
    found["four convolutions"] = (lambda x: four_convolutions(layer, x), layer.weight)
    found |= {name: (by(name), layer.weight) for name in IMPLEMENTATIONS if _does(name, layer, x)}
    return found, choice(x, layer.weight, layer.form)


def _does(name: str, layer: CrossConv2d, x: Tensor) -> bool:
    """Whether an implementation can do the call itself."""
    with implementation(name):
        return choice(x, layer.weight, layer.form) == name


def timings(
    network: str, shape: Shape, count: int, layout: str, dtype: str, repeats: int, device: torch.device, batch: int
) -> Iterator[Timing]:
    """Forward, and forward with backward, of all ways in turns."""
    clock = Clock(device)
    torch.manual_seed(0)
    x = torch.randn(batch, shape.in_, shape.side, shape.side, device=device, dtype=DTYPES[dtype])
    x = x.contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    functions, chosen = ways(shape, x, LAYOUTS[layout])
    grad = torch.randn_like(functions["dense"][0](x))

    def run(name: str) -> tuple[float, float]:
        forward, weight = functions[name]
        x.grad = weight.grad = None
        start = clock.now()
        out = forward(x)
        middle = clock.now()
        out.backward(grad)
        return middle - start, clock.now() - start

    seconds = interleaved({name: lambda name=name: run(name) for name in functions}, repeats)
    kept = {name: kept_mib(lambda f=f: f(x), [weight]) for name, (f, weight) in functions.items()}
    peak = {name: clock.peak_mib(lambda name=name: run(name)) for name in functions}
    for index, work in enumerate(("forward", "forward+backward")):
        middle = {name: median(times[index] for times in seconds[name]) for name in functions}
        for name, value in middle.items():
            yield Timing(
                *(network, str(shape), count, layout, dtype, work, name, name == chosen, 1000 * value),
                spread([times[index] for times in seconds[name]]),
                *(value / middle["dense"], value / middle["four convolutions"], kept[name], peak[name], batch, repeats),
                *_where(device),
            )


def _where(device: torch.device) -> tuple[str, str, str]:
    here = Environment.here()
    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{here.cpu or platform.machine()}, one thread"
    )
    return name, here.torch, here.date


def means(rows: Sequence[Timing]) -> list[tuple[str, ...]]:
    """The ratios to dense of the time of all convolutions of a network, each as often as it is there.

    "-" where a way cannot do one of them.
    """
    groups = dict.fromkeys((row.network, row.layout, row.dtype, row.work) for row in rows)
    lines = []
    for group in groups:
        cases = [ways for case, ways in by_case(rows).items() if (case[0], *case[2:]) == group]
        total = {way: _total(cases, way) for way in ("dense", *SHOWN)}
        lines.append((*group, f"{total['dense']:.0f}", *[_ratio(total[way], total["dense"]) for way in SHOWN]))
    return lines


def by_case(rows: Sequence[Timing]) -> dict[tuple[str, ...], dict[str, Timing]]:
    """The timings of each case by way; that of the chosen way a second time, as "chosen"."""
    found: dict[tuple[str, ...], dict[str, Timing]] = {}
    for row in rows:
        ways = found.setdefault((row.network, row.shape, row.layout, row.dtype, row.work), {})
        ways[row.way] = row
        if row.chosen:
            ways["chosen"] = row
    return found


def _total(cases: Sequence[Mapping[str, Timing]], way: str) -> float | None:
    if not all(way in ways for ways in cases):
        return None
    return sum(ways[way].count * ways[way].milliseconds for ways in cases)


def _ratio(value: float | None, dense: float | None) -> str:
    return "-" if value is None or dense is None else f"{value / dense:.2f}"


# Whole networks


def steps(layout: str, dtype: str, repeats: int, device: torch.device, batch: int) -> Iterator[Step]:
    """A training step of ResNet-50, and of what it becomes at its own flops when 40 % of its channels are dead."""
    network = torchvision_network("resnet50", 224)
    model = nrfx.trace(dying(network, dtype=torch.float32, calibration=2), network.images(1, 0, torch.float32))
    budget = nrfx.Budget.relative(model, flops=1.0)
    names = {"dense": "same widths, dense", "attention": "NR-CA", "removed": "NR-CR"}
    networks = {"dense": model, **{names[s]: nrfx.rejuvenate(model, budget, scheme=s).module for s in names}}
    clock = Clock(device)
    images = network.images(batch, 1, torch.float32).to(device, memory_format=LAYOUTS[layout])
    labels = torch.arange(batch, device=device)
    size = {name: nrfx.utilization(module) for name, module in networks.items()}
    for module in networks.values():
        module.to(device, memory_format=LAYOUTS[layout]).train()
    optimizers = {name: torch.optim.SGD(module.parameters(), 1e-3, 0.9) for name, module in networks.items()}

    def run(name: str) -> tuple[float]:
        start = clock.now()
        optimizers[name].zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = F.cross_entropy(networks[name](images).float(), labels)
        loss.backward()
        optimizers[name].step()
        return (clock.now() - start,)

    seconds = interleaved({name: lambda name=name: run(name) for name in networks}, repeats)
    middle = {name: median(times[0] for times in seconds[name]) for name in networks}
    for name, value in middle.items():
        yield Step(
            *("resnet50", name, layout, dtype, size[name].params.total, size[name].flops.total, 1000 * value),
            spread([times[0] for times in seconds[name]]),
            *(value / middle["dense"], value / middle["same widths, dense"]),
            *(clock.peak_mib(lambda name=name: run(name)), batch, repeats, *_where(device)),
        )


# The command


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints the tables, writes the CSVs of a full run."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
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
    headings = ("network", "convolution", "layout", "dtype", "work", "dense ms", *SHOWN)
    console.print(terminal(f"Ratios to dense: {_where(device)}", headings, lines, left=5))
    headings = ("network", "layout", "dtype", "work", "dense ms", *SHOWN)
    console.print(terminal("Weighted by how often a network has each convolution", headings, means(rows), left=4))
    _write(rows, "convolutions", options, console)


def _networks(options: argparse.Namespace, console: Console, device: torch.device) -> None:
    rows = [
        row
        for layout in options.layouts
        for dtype in options.dtypes
        for row in track(
            list(steps(layout, dtype, max(3, options.repeats // 2), device, options.step_batch)),
            "steps",
            console=console,
        )
    ]
    lines = [
        (
            *(row.network, row.way, row.layout, row.dtype, f"{row.params:,}", f"{row.flops:,}"),
            *(f"{row.milliseconds:.0f}", f"{row.to_dense:.2f}", f"{row.to_same_widths:.2f}", f"{row.peak_mib:.0f}"),
        )
        for row in rows
    ]
    headings = ("network", "way", "layout", "dtype", "params", "flops", "ms", "/ dense", "/ same widths", "peak MiB")
    console.print(terminal(f"One training step: {_where(device)}", headings, lines, left=4))
    _write(rows, "steps", options, console)


def _write(rows: Sequence[Any], name: str, options: argparse.Namespace, console: Console) -> None:
    """The CSVs of a run over all networks: one for each device and dtype."""
    if options.only or tuple(options.networks) != tuple(NETWORKS) or options.batch:
        return
    for dtype in options.dtypes:
        path = RESULTS / f"cross_{name}_{options.device.partition(':')[0]}_{dtype}.csv"
        write_csv([row for row in rows if row.dtype == dtype], path)
        console.print(f"Written: {path.relative_to(ROOT)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks cross",
        description="Time cross convolutions against dense ones, on one thread or one GPU; a full run writes the CSVs.",
        epilog="example: python -m benchmarks cross --only '64->64 3x3' --parts convolutions --repeats 15",
    )
    parser.add_argument("--device", default="cpu", help="cpu, or cuda (cpu)")
    parser.add_argument(
        "--parts", nargs="+", default=("convolutions", "networks"), choices=("convolutions", "networks")
    )
    parser.add_argument("--networks", nargs="+", default=tuple(NETWORKS), choices=tuple(NETWORKS))
    parser.add_argument("--only", default="", metavar="TEXT", help="convolutions whose name contains this")
    parser.add_argument("--layouts", nargs="+", default=tuple(LAYOUTS), choices=tuple(LAYOUTS))
    parser.add_argument("--dtypes", nargs="+", default=tuple(DTYPES), choices=tuple(DTYPES))
    parser.add_argument("--batch", type=int, help="images in a batch (32, of VGG-16 4)")
    parser.add_argument("--step-batch", type=int, default=8, help="images of a training step (8; give a GPU 256)")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"calls of which the median counts ({REPEATS})")
    return parser
