"""Times one convolution in every way: dense, four convolutions, and the implementations of the cross convolution."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from benchmarks.speed.clock import DTYPES, LAYOUTS, Clock, interleaved, kept_mib, spread, where
from nrfx.nn import CrossConv2d, implementation
from nrfx.nn.implementations import choice

IMPLEMENTATIONS = ("reference", "attend", "direct")
SHOWN = ("four convolutions", *IMPLEMENTATIONS, "chosen")
SURVIVORS = 0.6
Way = tuple[Callable[[Tensor], Tensor], Tensor]


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


def shapes(network: str) -> Counter[Shape]:
    """How often a torchvision network has each convolution that can have two generations of inputs, at 224 x 224."""
    times: Counter[Shape] = Counter()

    def note(conv: nn.Conv2d, given: tuple[Tensor, ...], _: Tensor) -> None:
        if conv.in_channels > 3:
            sizes = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
            times[Shape(conv.in_channels, conv.out_channels, *sizes, given[0].shape[-1])] += 1

    with torch.device("meta"):
        model = torchvision.models.get_model(network)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    model.eval()(torch.empty(1, 3, 224, 224, device="meta"))
    return times


def four_convolutions(layer: CrossConv2d, x: Tensor) -> Tensor:
    """The output of the layer by one convolution for each block of its weight, and plain operations for the attention.

    Block rs has the rows of generation r and the columns of generation s.
    """
    (s, _), (rows, _) = layer.in_generations, layer.out_generations

    def block(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, None, layer.stride, layer.padding)

    (ss, sr), (rs, rr) = [
        (block(x[:, :s], weight[:, :s]), block(x[:, s:], weight[:, s:]))
        for weight in (layer.weight[:rows], layer.weight[rows:])
    ]
    return torch.cat([ss + 2 * torch.sigmoid(ss) * sr, rr + 2 * torch.sigmoid(rr) * rs], 1)


def ways(shape: Shape, x: Tensor, layout: torch.memory_format) -> tuple[dict[str, Way], str]:
    """Each way as (function of x, weight) by its name, and the name of the implementation that nrfx chooses."""
    dense = nn.Conv2d(shape.in_, shape.out, shape.kernel, shape.stride, shape.padding, bias=False)
    dense.to(x.device, x.dtype).to(memory_format=layout)
    s, rows = round(SURVIVORS * shape.in_), round(SURVIVORS * shape.out)
    layer = CrossConv2d.from_dense(dense, (s, shape.in_ - s), (rows, shape.out - rows)).to(memory_format=layout)

    def by(name: str) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            with implementation(name):
                return layer(x)  # type: ignore[no-any-return]

        return forward

    functions: dict[str, Way] = {
        "dense": (dense, dense.weight),
        "four convolutions": (partial(four_convolutions, layer), layer.weight),
        **{name: (by(name), layer.weight) for name in IMPLEMENTATIONS if _does(name, layer, x)},
    }
    return functions, choice(x, layer.weight, layer.form)


def _does(name: str, layer: CrossConv2d, x: Tensor) -> bool:
    """Whether an implementation takes this layer, and does not leave it to another one."""
    with implementation(name):
        return choice(x, layer.weight, layer.form) == name


def timings(
    network: str, shape: Shape, count: int, layout: str, dtype: str, repeats: int, device: torch.device, batch: int
) -> Iterator[Timing]:
    """The rows of one convolution: forward, and forward with backward, of every way."""
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

    seconds = interleaved({name: partial(run, name) for name in functions}, repeats)
    kept = {name: kept_mib(partial(forward, x), [weight]) for name, (forward, weight) in functions.items()}
    peak = {name: clock.peak_mib(partial(run, name)) for name in functions}
    for index, work in enumerate(("forward", "forward+backward")):
        middle = {name: median(times[index] for times in seconds[name]) for name in functions}
        for name, value in middle.items():
            yield Timing(
                *(network, str(shape), count, layout, dtype, work, name, name == chosen, 1000 * value),
                spread([times[index] for times in seconds[name]]),
                *(value / middle["dense"], value / middle["four convolutions"], kept[name], peak[name], batch, repeats),
                *where(device),
            )


def means(rows: Sequence[Timing]) -> list[tuple[str, ...]]:
    """A line for each network, layout, dtype and work: the time of all its convolutions, and the ratios to dense.

    Each convolution counts as often as the network has it. "-" where a way cannot do one of them.
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
    cases: dict[tuple[str, ...], dict[str, Timing]] = {}
    for row in rows:
        ways = cases.setdefault((row.network, row.shape, row.layout, row.dtype, row.work), {})
        ways[row.way] = row
        if row.chosen:
            ways["chosen"] = row
    return cases


def _total(cases: Sequence[Mapping[str, Timing]], way: str) -> float | None:
    if not all(way in ways for ways in cases):
        return None
    return sum(ways[way].count * ways[way].milliseconds for ways in cases)


def _ratio(value: float | None, dense: float | None) -> str:
    return "-" if value is None or dense is None else f"{value / dense:.2f}"
