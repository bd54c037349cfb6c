"""The wheel as a user gets it: `python -m tests.installed [--demo]` builds it, installs it into an environment that has
nothing but its dependencies, runs commands of nrfx there, and checks the types that a program outside sees.

The dependencies are not installed again (torch alone has 5 GB): the environment sees those of this one, by links to the
packages that nrfx requires, directly or through others, and to no further one. `--demo` adds those of `nrfx[demo]`, and
runs a short demo.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
SOURCES = ("nrfx", "pyproject.toml", "README.md", "LICENSE")
COMMANDS = (("--help",), ("doctor",), ("inspect", "resnet18"))


def built(folder: Path) -> Path:
    """The wheel, built from a copy of the sources, so that no earlier build leaves files in it."""
    for name in SOURCES:
        here, there = ROOT / name, folder / "source" / name
        if here.is_dir():
            shutil.copytree(here, there, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            there.parent.mkdir(exist_ok=True)
            shutil.copy(here, there)
    command = (
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        folder / "dist",
        folder / "source",
    )
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PIP_NO_INDEX": "1"})
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def required(names: Iterable[str]) -> Iterator[Distribution]:
    """The packages that these requirements bring in here, each once."""
    left, asked, seen = [Requirement(name) for name in names], set[str](), set[str]()
    while left:
        each = left.pop()
        if str(each) in asked:
            continue
        asked.add(str(each))
        try:
            found = distribution(each.name)
        except PackageNotFoundError:
            continue  # of another platform
        if found.name not in seen:
            seen.add(found.name)
            yield found
        left += [need for need in map(Requirement, found.requires or ()) if _wanted(need, each.extras)]


def environment(folder: Path, wheel: Path, extras: Sequence[str] = ()) -> Path:
    """The interpreter of a new environment with the wheel and what it requires."""
    packages = folder / "packages"
    packages.mkdir()
    venv.create(folder / "env", symlinks=True)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (metadata,) = site.glob("*.dist-info")
    needs = [each for each in Distribution.at(metadata).requires or () if _wanted(Requirement(each), extras)]
    for found in required(each.partition(";")[0] for each in needs):
        tops = {Path(str(file)).parts[0] for file in found.files or ()} - {"..", "__pycache__"}
        for top in (top for top in tops if not top.endswith(".pth")):
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(found.locate_file(top))))
    (site / "dependencies.pth").write_text(f"{packages}\n")
    return folder / "env" / "bin" / "python"


def _wanted(requirement: Requirement, extras: Iterable[str]) -> bool:
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": each}) for each in ("", *extras))


def run(python: Path, folder: Path, *arguments: str) -> None:
    print("$ nrfx", *arguments, flush=True)
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run((python, "-P", "-m", "nrfx", *arguments), check=True, cwd=folder, env=clean)


def main(arguments: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        extras = ("demo",) if "--demo" in arguments else ()
        python = environment(folder, built(folder), extras)
        for command in COMMANDS:
            run(python, folder, *command)
        if extras:
            run(python, folder, "demo", "--epochs", "4")
        shutil.copy(ROOT / "tests" / "consumer.py", folder)
        mypy = (
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--untyped-calls-exclude",
            "torch",
            "--python-executable",
            python,
        )
        return subprocess.run((*mypy, "consumer.py"), check=False, cwd=folder).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
