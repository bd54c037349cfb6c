"""What must hold on a GPU: kernels agree with float64, a training step waits for nothing, the monitor is cheap."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from math import inf, isinf, isnan
from statistics import median

import torch
from torch import Tensor, nn

import nrfx
from benchmarks.speed.clock import DTYPES, LAYOUTS, Clock, interleaved, where
from benchmarks.speed.cross_convolutions import IMPLEMENTATIONS, SURVIVORS, Shape
from benchmarks.speed.cross_steps import Rejuvenated, backward
from nrfx.analysis.meter import Meter
from nrfx.nn import CrossConv2d, CrossLinear, implementation
from nrfx.nn.implementations import choice

SHAPES = (
    Shape(64, 64, 3, 1, 1, 56),
    Shape(256, 64, 1, 1, 0, 56),
    Shape(256, 512, 1, 2, 0, 56),
    Shape(128, 128, 3, 2, 1, 56),
    Shape(512, 512, 3, 1, 1, 7),
)
TOLERANCES: Mapping[str, float] = {"float32": 2e-5, "bfloat16": 3e-2}
"""Largest difference from float64, relative to the largest number; four times the reference's own passes too."""

MOST_OF_STEP = 0.001  # of a batch of 32 or more


@dataclass(frozen=True)
class Check:
    """One figure with its limit; `holds` is None where the device has nothing to check.

    The unit is in the words of `what`: a difference relative to the largest number, waits, milliseconds or a share.
    """

    what: str
    case: str
    figure: float
    limit: float
    holds: bool | None
    device: str
    torch: str
    triton: str
    date: str


def check(what: str, case: str, figure: float, limit: float, device: torch.device) -> Check:
    """The row of a figure; NaN is what could not be measured, an infinite limit is none."""
    holds = None if isnan(figure) or isinf(limit) else figure <= limit
    name, version, date = where(device)
    return Check(what, case, figure, limit, holds, name, version, _triton(), date)


def _triton() -> str:
    try:
        import triton  # noqa: PLC0415 (not on every system)
    except ImportError:
        return "not installed"
    return str(triton.__version__)


def differences(device: torch.device, quick: bool) -> Iterator[Check]:
    """The outputs and gradients of each implementation, against plain operations in float64 on the same numbers."""
    torch.manual_seed(0)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield from _of_layers(device, quick)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _of_layers(device: torch.device, quick: bool) -> Iterator[Check]:
    for shape in SHAPES[:2] if quick else SHAPES:
        sizes = shape.kernel, shape.stride, shape.padding
        layer = CrossConv2d(_generations(shape.in_), _generations(shape.out), *sizes, bias=True)
        x = torch.randn(2 if quick else 8, shape.in_, shape.side, shape.side)
        yield from _of_layer(str(shape), layer, x.contiguous(memory_format=LAYOUTS["NHWC"]), device)
    yield from _of_layer("linear 256->512", CrossLinear((160, 96), (320, 192)), torch.randn(300, 256), device)


def _generations(width: int) -> tuple[int, int]:
    survivors = round(SURVIVORS * width)
    return survivors, width - survivors


def _of_layer(name: str, layer: nn.Module, x: Tensor, device: torch.device) -> Iterator[Check]:
    layer, x = layer.to(device), x.to(device)
    for dtype, tolerance in TOLERANCES.items():
        own, given = deepcopy(layer).to(DTYPES[dtype]), x.to(DTYPES[dtype])
        grad = torch.randn_like(own(given))
        truth = _results(deepcopy(own).double(), given.double(), grad.double(), "reference")
        plain = _worst(_results(own, given, grad, "reference"), truth)
        for way in IMPLEMENTATIONS:
            if _does(way, own, given):
                found = _worst(_results(own, given, grad, way), truth)
                limit = max(tolerance, 4 * plain)
                yield check("difference from float64", f"{name}, {dtype}, {way}", found, limit, device)


def _does(way: str, layer: nn.Module, x: Tensor) -> bool:
    with implementation(way):
        return choice(x, layer.weight, layer.form) == way  # type: ignore[arg-type]


def _results(layer: nn.Module, x: Tensor, grad: Tensor, way: str) -> list[Tensor]:
    x = x.detach().requires_grad_()
    with implementation(way):
        out = layer(x)
    return [out.detach(), *torch.autograd.grad(out, [x, *layer.parameters()], grad)]


def _worst(found: list[Tensor], truth: list[Tensor]) -> float:
    return max(float((a.double() - b).abs().max() / b.abs().max()) for a, b in zip(found, truth, strict=True))


def waits(networks: Rejuvenated, layout: str, dtype: str, batch: int) -> Iterator[Check]:
    """How often each stage of a training step makes the host wait for the GPU; only a measurement may, once."""
    images = networks.images(batch, layout)
    for way, optimizer in networks.optimizers.items():
        module = networks.networks[way]
        for stage, (work, most) in _stages(networks, way, images, dtype, optimizer).items():
            case = f"{networks.name}, {way}, {dtype}, {stage}"
            yield check("waits of the host for the GPU", case, _waits(work, networks.device), most, networks.device)
        module.zero_grad()


def _stages(
    networks: Rejuvenated, way: str, images: Tensor, dtype: str, optimizer: torch.optim.Optimizer
) -> Mapping[str, tuple[Callable[[], object], int]]:
    """Each stage with the most waits that it may have, after a step that warms up."""
    module = networks.networks[way]
    nr = monitor(networks, optimizer) if way == "dense" else None
    for _ in range(2):
        backward(module, images, dtype)
        optimizer.step()
    stages: dict[str, tuple[Callable[[], object], int]] = {
        "forward and backward": (partial(backward, module, images, dtype), 0),
        "the optimizer's step": (optimizer.step, 0),
    }
    if nr is not None:
        nr.step()
        stages |= {"penalize": (nr.penalize, 0), "a measurement": (nr.step, 1)}
    return stages


def _waits(work: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        work()
        return float("nan")
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return float(sum("synchroniz" in str(each.message) for each in heard))


def monitor(networks: Rejuvenated, optimizer: torch.optim.Optimizer) -> nrfx.Rejuvenator:
    """A Rejuvenator that measures in every step and never rejuvenates."""
    budget = nrfx.Budget.relative(networks.model, flops=1.0)
    return nrfx.Rejuvenator(networks.model, optimizer, budget, trigger=0.01, interval=1)


def cost_of_monitor(networks: Rejuvenated, layout: str, dtype: str, batch: int, repeats: int) -> Iterator[Check]:
    """A training step with and without penalty and measurement, in turns; and one reading of the meter alone."""
    optimizer, images, clock = networks.optimizers["dense"], networks.images(batch, layout), Clock(networks.device)
    nr, meter = monitor(networks, optimizer), Meter(networks.model)

    def step(monitored: bool) -> tuple[float]:
        start = clock.now()
        optimizer.zero_grad()
        backward(networks.model, images, dtype)
        if monitored:
            nr.penalize()
        optimizer.step()
        if monitored:
            nr.step()
        return (clock.now() - start,)

    def reading() -> tuple[float]:
        start = clock.now()
        meter.read()
        return (clock.now() - start,)

    works: Mapping[str, Callable[[], tuple[float, ...]]] = {
        "plain": partial(step, False),
        "monitored": partial(step, True),
        "reading": reading,
    }
    times = {name: 1000 * median(each for (each,) in found) for name, found in interleaved(works, repeats).items()}
    case, most = f"{networks.name}, {dtype}, batch {batch}", MOST_OF_STEP if batch >= 32 else inf
    added, share = times["monitored"] - times["plain"], times["reading"] / times["plain"]
    yield check("training step, ms", case, times["plain"], inf, networks.device)
    yield check("more with penalty and measurement in every step, ms", case, added, inf, networks.device)
    yield check("a measurement, ms", case, times["reading"], inf, networks.device)
    yield check("a measurement / a training step", case, share, most, networks.device)
