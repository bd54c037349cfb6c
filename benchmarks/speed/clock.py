"""Times of several ways to do the same work, called in turns on the CPU or on a GPU; and the memory that each takes."""

import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import Environment, seconds

DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYOUTS: Mapping[str, torch.memory_format] = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


class Clock:
    """The CPU time of this process, or the time of the GPU."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def now(self) -> float:
        """The present time in seconds; waits until the GPU has done its work."""
        if not self.cuda:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def peak_mib(self, work: Callable[[], Any]) -> float:
        """The most GPU memory that one call allocates beyond what was allocated before it; NaN on the CPU."""
        if not self.cuda:
            return float("nan")
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - before) / 2**20


def interleaved(
    works: Mapping[str, Callable[[], tuple[float, ...]]], repeats: int, *, warm: bool = True
) -> dict[str, list[tuple[float, ...]]]:
    """The seconds that each work returns in each of `repeats` rounds; with `warm` after one call of each.

    Every round has another order: the work before a measurement leaves its data in the caches and in the allocator.
    """
    for work in works.values() if warm else ():
        work()
    seconds: dict[str, list[tuple[float, ...]]] = {name: [] for name in works}
    order, shuffle = list(works), random.Random(0).shuffle
    for _ in range(repeats):
        shuffle(order)
        for name in order:
            seconds[name].append(works[name]())
    return seconds


def spread(values: Sequence[float]) -> float:
    """The distance of the quartiles, as a part of the median; NaN for a single value."""
    if len(values) < 2:
        return float("nan")
    first, _, third = quantiles(values, n=4, method="inclusive")
    return (third - first) / median(values)


@dataclass(frozen=True)
class Spread:
    """The median of some numbers, and their first and third quartile."""

    median: float
    first: float
    third: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """NaN for none; a single value is all three."""
        if len(values) < 2:
            return cls(*[values[0] if values else float("nan")] * 3)
        first, middle, third = quantiles(values, n=4, method="inclusive")
        return cls(middle, first, third)

    def __str__(self) -> str:
        return f"{_digits(self.median)} ({_digits(self.first)} to {_digits(self.third)})"


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def in_turns(works: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """CPU milliseconds of each work in each of `repeats` rounds, in which all are called in turns.

    What disturbs a round disturbs all works of it, so that a ratio of two times of one round is steadier than either.
    """
    timed = {name: partial(_milliseconds, work) for name, work in works.items()}
    return {name: [each for (each,) in rounds] for name, rounds in interleaved(timed, repeats).items()}


def _milliseconds(work: Callable[[], Any]) -> tuple[float]:
    return (1000 * seconds(work),)


def ratio(times: Sequence[float], yardstick: Sequence[float]) -> Spread:
    """The ratios of times to those of the yardstick in the same round."""
    return Spread.of([each / other for each, other in zip(times, yardstick, strict=True)])


def kept_mib(forward: Callable[[], Tensor], parameters: Sequence[Tensor]) -> float:
    """MiB of the storages, beside those of the parameters, that autograd keeps for the backward."""
    sizes: dict[int, int] = {parameter.untyped_storage().data_ptr(): 0 for parameter in parameters}
    alive: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes.setdefault(storage.data_ptr(), storage.nbytes())
        alive.append(tensor)  # a freed storage would give its address to another one
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward()
    return sum(sizes.values()) / 2**20


def where(device: torch.device) -> tuple[str, str, str]:
    """The device, the version of torch and the date: the last columns of a row."""
    here = Environment.here()
    cpu = f"{here.cpu or platform.machine()}, one thread"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu, here.torch, here.date
