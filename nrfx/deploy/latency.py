"""How long a forward takes, measured: the median of many runs, and between which times the middle half of them lies."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles

import torch

from nrfx.errors import AnalysisError, UsageError
from nrfx.rewrite.compare import evaluating
from nrfx.rewrite.drawn import drawn
from nrfx.tracing import TracedModule
from nrfx.tracing.graph.module import as_parameters
from nrfx.tracing.graph.walk import Contents

WARM_UP, LEAST, MOST = 3, 5, 1000
"""Runs before the first that counts; runs that count, at least and at most."""


@dataclass(frozen=True)
class Latency:
    """The time of one forward in eval mode, without gradients.

    Attributes:
        median: seconds of a forward.
        low, high: seconds between which the middle half of all runs lies.
        runs: how many were measured.
        inputs: shape of each input, batch included.
        device: where the network ran.
        threads: threads of torch on the CPU.

    >>> import nrfx
    >>> took = latency(nrfx.trace(torch.nn.Linear(3, 2), torch.zeros(4, 3)))
    >>> took.examples, took.inputs, took.low <= took.median <= took.high
    (4, ((4, 3),), True)
    """

    median: float
    low: float
    high: float
    runs: int
    inputs: tuple[tuple[int, ...], ...]
    device: str
    threads: int

    @property
    def examples(self) -> int:
        """The batch of the inputs."""
        return max(self.inputs, key=len, default=(1,))[0] if any(self.inputs) else 1


def latency(traced: TracedModule, seconds: float = 2.0) -> Latency:
    """The time of a forward on drawn inputs of the traced shapes, on the device where the network is.

    Args:
        seconds: how long to go on measuring; at least five runs, at most a thousand.

    Raises:
        AnalysisError: the network does not run on drawn inputs.

    >>> import nrfx
    >>> found = latency(nrfx.trace(torch.nn.Linear(4, 2), torch.zeros(3, 4)), seconds=0.01)
    >>> found.low <= found.median <= found.high, found.examples
    (True, 3)
    """
    device = next((tensor.device for tensor in (*traced.parameters(), *traced.buffers())), torch.device("cpu"))
    inputs = drawn(as_parameters(Contents.of(traced), traced.inputs), device)
    args, kwargs = traced.facts.call(inputs)

    def run() -> None:
        traced(*args, **kwargs)
        _wait(device)

    with evaluating(traced), torch.no_grad():
        try:
            for _ in range(WARM_UP):
                run()
        except (RuntimeError, TypeError, ValueError, LookupError) as error:
            first = (str(error).splitlines() or [""])[0]
            raise AnalysisError(
                f"No time can be measured: the network does not run on drawn inputs ({type(error).__name__}: {first})."
            ) from error
        times = _times(run, seconds)
    low, _, high = quantiles(times, n=4)
    shapes = tuple(tuple(x.shape) for x in inputs)
    return Latency(median(times), low, high, len(times), shapes, str(device), torch.get_num_threads())


def on_device(traced: TracedModule, device: str) -> TracedModule:
    """The network on a device.

    Raises:
        UsageError: there is no such device here.
    """
    try:
        return traced.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"There is no device {device!r} here ({str(error).splitlines()[0]}).") from error


def _times(run: Callable[[], None], seconds: float) -> list[float]:
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < LEAST or (len(times) < MOST and time.perf_counter() - started < seconds):
        before = time.perf_counter()
        run()
        times.append(time.perf_counter() - before)
    return times


def _wait(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
