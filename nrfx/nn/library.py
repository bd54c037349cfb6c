"""The compiled kernels for the CPU: C, compiled on first use by the machine's own compiler and kept in a cache.

They need no headers of torch and take about two seconds to compile, once for each machine and version of the source.
Where there is no compiler, or it fails or hangs, plain torch operations do the work, and one warning says why;
NRFX_NATIVE=0 does without kernels from the start. NRFX_CACHE names the folder of the cache (cache.py). Where that
cannot be used, each process compiles for itself, and one warning says why.

Many threads and processes may ask at once: threads wait for the one that compiles, processes each rename a whole file.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from nrfx.nn import cache as kept

SOURCES = Path(__file__).parent / "kernels"
FLAGS = (
    *("-O3", "-shared", "-fPIC", "-fvisibility=hidden"),
    # Loops over the sigmoid become vector code by these; neither changes a result.
    *("-fno-math-errno", "-fno-trapping-math"),
)
_OPTIONAL = (("-march=native", "-fopenmp"), ("-march=native",), ())
_COMPILERS = ("cc", "gcc", "clang", "g++")
_PATIENCE = 120  # seconds that a compiler may take

_one_at_a_time = threading.Lock()


def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where they cannot be had."""
    with _one_at_a_time:
        return _loaded_once()


def forget() -> None:
    """Lets the next call of library() look again. For tests."""
    _loaded_once.cache_clear()


def wanted() -> bool:
    """Whether kernels are compiled at all: on systems with owners of files, and unless NRFX_NATIVE is 0."""
    return os.environ.get("NRFX_NATIVE") != "0" and os.name == "posix"


def compiler() -> str | None:
    """The C compiler that is asked, CC before all others; None where there is none."""
    return next(filter(None, map(shutil.which, (os.environ.get("CC", ""), *_COMPILERS))), None)


def compiled(folder: Path) -> Path | None:
    """What this compiler has made of these sources and kept in the folder; None where it has not yet."""
    found = compiler()
    return None if found is None else kept.find(folder, _name(found))


@cache
def _loaded_once() -> ctypes.CDLL | None:
    if not wanted():
        return None
    found = compiler()
    try:
        if found is None:
            raise OSError(f"there is no C compiler (CC, {', '.join(_COMPILERS)})")
        return _from_cache(found)
    except OSError as error:
        _warn(
            f"Cross layers run plain operations, which take longer, because {error}. NRFX_NATIVE=0 does so in silence."
        )
        return None


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=2)


def _from_cache(compiler: str) -> ctypes.CDLL:
    name, trouble = _name(compiler), None
    try:
        folder = kept.folder()
        path = kept.find(folder, name)
        if path is not None:
            return load(path)
    except OSError as error:
        trouble = error
    with tempfile.TemporaryDirectory(prefix="nrfx-") as scratch:
        built = Path(scratch).resolve() / "cross.so"
        kept.refuse_strangers(built.parent)
        build(compiler, built)
        if trouble is None:
            try:
                return load(kept.keep(folder, name, built.read_bytes()))
            except OSError as error:
                trouble = error
        kernels = load(built)  # and what is loaded stays when its file goes
    _warn(
        f"The kernels of cross layers are compiled in each process anew, because {trouble}. "
        "Let NRFX_CACHE name a folder that only you can write, below folders that nobody else can write."
    )
    return kernels


def load(path: Path) -> ctypes.CDLL:
    """A compiled library, with what its functions return.

    Raises:
        OSError: it cannot be loaded, or lacks a function.
    """
    kernels = ctypes.CDLL(str(path))
    try:
        for name in ("direct_forward", "direct_backward"):
            getattr(kernels, name).restype = ctypes.c_int
        for name in ("attend_forward", "attend_backward"):
            getattr(kernels, name).restype = None
    except AttributeError as error:
        raise OSError(f"a function is missing ({error})") from error
    return kernels


def build(compiler: str, target: Path, more: Sequence[str] = ()) -> None:
    """Compiles the kernels, with as many of the optional flags as the compiler takes.

    Raises:
        OSError: it does not compile them, or takes longer than a compiler may.
    """
    language = ("-x", "c") if "++" in Path(compiler).name else ()
    for optional in _OPTIONAL:
        command = [compiler, *FLAGS, *optional, *more, *language, *map(str, _sources()), "-o", str(target)]
        returned, said = _run(command, target.with_suffix(".log"))
        if returned == 0:
            return
    raise OSError(f"{compiler} did not compile {SOURCES}: {said[-500:]}")


def _run(command: Sequence[str], log: Path) -> tuple[int, str]:
    """Runs a compiler, which leaves no process behind: what it returned, and what it said."""
    # Output goes to a file: a pipe stays open as long as any process of a hanging compiler holds it.
    with log.open("w+b") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            returned = process.wait(_PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise OSError(f"{command[0]} did not end in {_PATIENCE} seconds") from error
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        return returned, output.read().decode(errors="replace").strip()


def _sources() -> list[Path]:
    return sorted(SOURCES.glob("*.c"))


def _name(compiler: str) -> str:
    return f"cross-{_fingerprint(compiler)}"


def _fingerprint(compiler: str) -> str:
    """Of everything that the compiled code depends on: the sources, the compiler, the processor."""
    digest = hashlib.sha256(repr((compiler, Path(compiler).stat().st_mtime, FLAGS, _OPTIONAL)).encode())
    for path in (*_sources(), *sorted(SOURCES.glob("*.h"))):
        digest.update(path.read_bytes())
    digest.update(f"{platform.platform()} {platform.machine()} {_processor()}".encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """What tells processors with other instructions apart, as far as the system says it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
