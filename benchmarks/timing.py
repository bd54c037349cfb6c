"""CPU time, and the machine on which it was measured. Compare ratios within one run, not times of several runs."""

import datetime
import gc
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

REPEATS = 7


def median_seconds(work: Callable[[], Any], repeats: int = REPEATS) -> float:
    """CPU seconds of one call: the median of `repeats`, after one that warms up; garbage is collected in between."""
    work()
    return median(seconds(work) for _ in range(repeats))


def seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of one call, without those of the collection of garbage."""
    gc.collect()
    gc.disable()
    started = time.process_time()
    work()
    elapsed = time.process_time() - started
    gc.enable()
    return elapsed


@dataclass(frozen=True)
class Environment:
    """The version of torch, the date and the processor of a measurement: the last columns of most CSVs."""

    torch: str
    date: str
    cpu: str

    @classmethod
    def here(cls) -> "Environment":
        """This process, today."""
        return cls(str(torch.__version__), datetime.date.today().isoformat(), _cpu())

    def __str__(self) -> str:
        return f"torch {self.torch}, {self.cpu}, one thread, {self.date}"


def _cpu() -> str:
    """The model name of the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
