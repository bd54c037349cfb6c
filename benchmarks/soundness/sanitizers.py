"""The compiled kernels under gcc's AddressSanitizer and UndefinedBehaviorSanitizer, over random right and wrong calls.

`python -m benchmarks sanitizers` compiles them once for each instruction set that the processor knows, with each read
and write watched, and makes random calls (calls.py) in processes of their own. Fresh memory holds NaN there, so that
what is read before it is written shows in the numbers. First it reads behind an array on purpose: a sanitizer that does
not notice proves nothing. Exit status 1: something was noticed, or returned wrong numbers.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.command import ROOT
from benchmarks.table import terminal
from nrfx.nn.library import build

# Instruction sets by what names them in /proc/cpuinfo: vectors of 16, 8 and 4 floats.
SETS: Mapping[str, tuple[str, str]] = {
    "avx512": ("avx512f", "-march=x86-64-v4"),
    "avx2": ("avx2", "-march=x86-64-v3"),
    "sse2": ("sse2", "-march=x86-64"),
}
FLAGS = ("-O2", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
WATCH = {
    # Python itself leaks, at its end. 255 in each byte is NaN.
    "ASAN_OPTIONS": "detect_leaks=0:malloc_fill_byte=255:max_malloc_fill_size=1073741824",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


@dataclass(frozen=True)
class Watched:
    """The calls with the kernels of one instruction set: how many of which kind, or what was noticed."""

    instructions: str
    counted: Mapping[str, int]
    noticed: str


def instruction_sets() -> dict[str, tuple[str, ...]]:
    """The compiler's flags for each instruction set that this processor has."""
    known = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    sets: dict[str, tuple[str, ...]] = {name: (flag,) for name, (word, flag) in SETS.items() if word in known}
    return sets if platform.machine() == "x86_64" and sets else {platform.machine(): ()}


def runtime(compiler: str) -> str:
    """What must be loaded before all other libraries: that of the address sanitizer, and what it asks for C++ errors.

    Raises:
        SystemExit: this compiler has none.
    """
    names = ("libasan.so", "libstdc++.so.6")
    asked = [subprocess.run([compiler, f"-print-file-name={name}"], stdout=-1, text=True, check=True) for name in names]
    paths = [each.stdout.strip() for each in asked]
    if not all(map(os.path.isabs, paths)):
        raise SystemExit(f"{compiler} has no address sanitizer ({names}): this needs gcc with its libraries.")
    return ":".join(paths)


def called(sanitizer: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Makes calls in a process of their own, under the sanitizer."""
    command = [sys.executable, "-m", "benchmarks.soundness.calls", *arguments]
    environment = {**os.environ, **WATCH, "LD_PRELOAD": sanitizer}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


def watched(name: str, flags: Sequence[str], calls: int, seed: int) -> Watched:
    """Compiles the kernels for one instruction set, and makes the calls."""
    compiler = shutil.which("gcc")
    if compiler is None:
        raise SystemExit("This needs gcc.")
    sanitizer = runtime(compiler)
    with tempfile.TemporaryDirectory(prefix="nrfx-") as scratch:
        path = Path(scratch) / "cross.so"
        build(compiler, path, (*FLAGS, *flags))
        spoiled = called(sanitizer, "--library", str(path), "--spoil")
        if "heap-buffer-overflow" not in spoiled.stderr:
            return Watched(name, {}, f"a read behind an array was not noticed\n{summary(spoiled.stderr)}")
        done = called(sanitizer, "--library", str(path), "--calls", str(calls), "--seed", str(seed))
    if done.returncode:
        return Watched(name, {}, summary(done.stderr))
    return Watched(name, json.loads(done.stdout.splitlines()[-1]), "")


def summary(errors: str) -> str:
    """The last call that was described, and the first lines of what was noticed."""
    lines = errors.splitlines()
    calls = [line for line in lines if line.startswith("Cross")]
    marks = ("AddressSanitizer", "runtime error", "Error:")
    first = next((at for at, line in enumerate(lines) if any(mark in line for mark in marks)), max(0, len(lines) - 20))
    return "\n".join((*calls[-1:], *lines[first : first + 20]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Watches the kernels of each instruction set; 1 where something was noticed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks sanitizers", description=__doc__)
    parser.add_argument("--calls", type=int, default=300, help="right calls, each with a wrong one behind it (300)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    sets = instruction_sets()
    parser.add_argument("--sets", nargs="+", default=tuple(sets), choices=tuple(sets), help="of instructions (all)")
    options = parser.parse_args(arguments)
    console = Console(width=160)
    rows = [watched(name, sets[name], options.calls, options.seed) for name in options.sets]
    kinds = ("right", "direct", "attend", "reference", "wrong")
    lines = [
        (row.instructions, *[str(row.counted.get(kind, 0)) for kind in kinds], "yes" if row.noticed else "no")
        for row in rows
    ]
    console.print(terminal("Random calls under the sanitizers", ("instructions", *kinds, "noticed"), lines, left=1))
    for row in rows:
        if row.noticed:
            console.print(f"{row.instructions}: {row.noticed}", markup=False, highlight=False)
    return int(any(row.noticed for row in rows))
