"""Times of several ways to do the same work, called in turns on the CPU or on a GPU; and the memory that each takes."""

import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import Environment

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
    works: Mapping[str, Callable[[], tuple[float, ...]]], repeats: int
) -> dict[str, list[tuple[float, ...]]]:
    """The seconds that each work returns in each of `repeats` rounds, after one call of each that warms up.

    Every round has another order: the work before a measurement leaves its data in the caches and in the allocator.
    """
    for work in works.values():
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
