"""A process of its own for the work on one model, on one thread, with a limit of memory and of time."""

import contextlib
import gc
import multiprocessing
import resource
import signal
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.coverage.check import Examination
from benchmarks.coverage.model import Model

GIBIBYTE = 1 << 30
START, PATIENCE = 60, 10

CONTEXT = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Limits:
    """The limits of one process: bytes, and seconds of CPU time (START + PATIENCE * seconds of wall clock)."""

    memory: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.memory / GIBIBYTE:g} GiB and {self.seconds:g} s of CPU time"


def columns_of(
    examination: type[Examination], model: Model, limits: Limits, at: Callable[[str], object]
) -> Mapping[str, Any]:
    """The columns that the examination of the model sends from a process of its own.

    The columns have "seconds", and "failures" with the step at which the process died or was killed, if it did.

    Args:
        at: is told each step when it begins.
    """
    values: dict[str, Any] = {"failures": []}
    started, step = time.monotonic(), "start"
    here, there = multiprocessing.Pipe(duplex=False)
    process = CONTEXT.Process(target=_examine, args=(examination, model, there, limits))
    process.start()
    there.close()
    with contextlib.suppress(EOFError):
        while here.poll(max(0.0, started + START + PATIENCE * limits.seconds - time.monotonic())):
            columns = here.recv()
            step = columns.pop("step", step)
            at(step)
            values |= columns
        process.kill()
    process.join()
    if process.exitcode:
        values["failures"] = [*values["failures"], f"{step}: {_end(process.exitcode, limits)}"]
    return {"seconds": time.monotonic() - started} | values


def _examine(examination: type[Examination], model: Model, connection: Connection, limits: Limits) -> None:
    """What the process does: an allocation beyond its memory fails, and after its time the system kills it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    gc.freeze()  # collecting garbage need not look at what was imported
    end = int(time.process_time() + limits.seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (end, end))
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory, limits.memory))
    examination(model, connection.send).run()
    connection.close()


def _end(code: int, limits: Limits) -> str:
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"the process was killed, its limits are {limits}"
    return f"the process died with exit code {code}"
