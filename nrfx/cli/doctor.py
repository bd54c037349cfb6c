"""What nrfx finds on a machine: versions, optional packages, devices, the C compiler and the compiled kernels."""

import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import torch
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from nrfx.nn import cache, library

EXTRAS = ("demo", "plot", "export", "integrations")
"""The optional packages that a user installs for some command or trainer."""


def examined() -> dict[str, Any]:
    """What is here. Nothing is compiled, downloaded or written."""
    return {
        "nrfx": _version("nrfx"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": _packages(None),
        "optional": {extra: _packages(extra) for extra in EXTRAS},
        "devices": list(_devices()),
        "kernels": _kernels(),
    }


def told(found: Mapping[str, Any]) -> RenderableType:
    """The same, a line for each."""
    kernels = found["kernels"]
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name in ("nrfx", "python", "system"):
        table.add_row(name, Text(str(found[name] or "not installed")))
    table.add_row("packages", Text(_listed(found["packages"])))
    for extra, packages in found["optional"].items():
        table.add_row(f"[{extra}]".replace("[", r"\["), Text(_listed(packages)))
    table.add_row("devices", Text(", ".join(found["devices"])))
    table.add_row("compiler", Text(kernels["compiler"] or "none found: cross layers run plain operations"))
    table.add_row("kernels", Text(kernels["state"]))
    table.add_row("cache", Text(f"{kernels['cache']}, {kernels['files']} files, {kernels['bytes']:,} bytes"))
    return table


def _listed(packages: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {known or 'not installed'}" for name, known in packages.items()) or "none"


def _packages(extra: str | None) -> dict[str, str | None]:
    """The packages that nrfx asks for, always or for an extra, and their versions; None where one is not installed."""
    return {name: _version(name) for name in _asked_for(extra)}


def _asked_for(extra: str | None) -> Iterator[str]:
    try:
        lines: Iterable[str] = requires("nrfx") or ()
    except PackageNotFoundError:  # the code is here, but no package of it
        lines = ("torch", "torchvision") if extra is None else ()
    for line in lines:
        name, _, condition = line.partition(";")
        own = re.search(r"extra == ['\"](\w+)['\"]", condition)
        package = re.match(r"[\w.-]+", name)
        if package is not None and package[0] != "nrfx" and (own[1] if own else None) == extra:
            yield package[0]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> Iterator[str]:
    yield f"cpu ({torch.get_num_threads()} threads)"
    if torch.cuda.is_available():
        yield from (f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(torch.cuda.device_count()))
    if torch.backends.mps.is_available():
        yield "mps"


def _kernels() -> dict[str, Any]:
    """The compiler, whether there are kernels for this machine, and the folder in which they are kept."""
    compiler = library.compiler()
    try:
        folder = cache.wanted()
    except OSError as error:
        state = f"compiled in each process anew, because {error}"
        return {"compiler": compiler, "state": state, "cache": None, "files": 0, "bytes": 0}
    files = [file for file in folder.glob("*.so") if file.is_file()] if folder.is_dir() else []
    if not library.wanted():
        state = "not used: NRFX_NATIVE is 0" if os.environ.get("NRFX_NATIVE") == "0" else "not used on this system"
    elif compiler is None:
        state = "none: there is no C compiler"
    else:
        state = (
            "compiled" if library.compiled(folder) is not None else "not compiled yet: the first cross layer does it"
        )
    sizes = [file.stat().st_size for file in files]
    return {"compiler": compiler, "state": state, "cache": str(folder), "files": len(sizes), "bytes": sum(sizes)}
