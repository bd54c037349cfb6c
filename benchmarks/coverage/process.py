"""A process of its own for the work on one model, with a limit of memory and of time."""

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

GIBIBYTE = 1 << 30
START, PATIENCE = 60, 10

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["benchmarks.coverage.check", "timm"])  # imported once for all processes


@dataclass(frozen=True)
class Limits:
    """The limits of one process: bytes, and seconds of CPU time (START + PATIENCE * seconds of wall clock)."""

    memory: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.memory / GIBIBYTE:g} GiB and {self.seconds:g} s of CPU time"


def columns_of(
    work: Callable[..., None], subject: Any, limits: Limits, at: Callable[[str], object]
) -> Mapping[str, Any]:
    """The columns that `work(subject, connection, limits)` sends from a process of its own.

    The columns have "seconds", and "failures" with the step at which the process died or was killed, if it did.

    Args:
        at: is told each step when it begins.
    """
    values: dict[str, Any] = {"failures": []}
    started, step = time.monotonic(), "start"
    here, there = multiprocessing.Pipe(duplex=False)
    process = CONTEXT.Process(target=work, args=(subject, there, limits))
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


def _end(code: int, limits: Limits) -> str:
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"the process was killed; its limits are {limits}"
    return f"the process died with exit code {code}"
