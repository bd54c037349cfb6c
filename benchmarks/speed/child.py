"""A fresh process for one piece of work, and how much memory it takes there beyond what lay in memory before.

tracemalloc does not see the memory of tensors, and a process in which something else ran has memory to reuse. So the
work runs in a process of its own, and what counts is the peak of its resident set, which Linux resets on demand. On
other systems this cannot be measured.
"""

import contextlib
import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.command import ROOT
from benchmarks.timing import seconds

MIB = 1 << 20


def resident() -> int:
    """Bytes that lie in memory now."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def peak() -> int:
    """The most bytes that lay in memory since the start, or since `forget_peak`.

    Not ru_maxrss, which starts from what lay in memory in the process that started this one.
    """
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    """The peak becomes what lies in memory now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def give_back() -> None:
    """Memory that was freed goes back to the system, where the C library can do so, and does not hide later use."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def measured(work: Callable[[], Any]) -> dict[str, float]:
    """MiB of the peak during the work beyond what lay in memory before it, and CPU milliseconds of the work.

    The result of the work is kept until the peak is read.
    """
    kept: list[Any] = []
    gc.collect()
    give_back()
    forget_peak()
    before = resident()
    elapsed = seconds(lambda: kept.append(work()))
    return {"peak_mib": (peak() - before) / MIB, "milliseconds": 1000 * elapsed}


def answer(module: str, *arguments: str) -> Mapping[str, Any]:
    """The JSON object that `python -m module arguments` prints, run on one thread.

    Raises:
        CalledProcessError: the process failed; what it said is on stderr.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module, *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    said: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said
