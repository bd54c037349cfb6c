"""What a release holds."""

import re
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.installed import ROOT, built, required


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(built(tmp_path_factory.mktemp("release")))


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """Templates, recipes, kernels and py.typed are files too."""
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "nrfx").rglob("*") if path.is_file()}
    package = {path for path in package if "__pycache__" not in path}
    held = set(wheel.namelist())
    info = {path for path in held if path.startswith("nrfx-") and ".dist-info/" in path}
    assert held - info == package
    assert {Path(path).name for path in info} >= {"METADATA", "LICENSE", "entry_points.txt"}
    suffixes = {Path(path).suffix for path in package}
    assert {".py", ".typed", ".toml", ".c", ".h", ".css", ".js", ".html"} <= suffixes


def test_its_metadata_is_that_of_the_project(wheel: zipfile.ZipFile) -> None:
    (path,) = (path for path in wheel.namelist() if path.endswith("METADATA"))
    metadata = Parser().parsestr(wheel.read(path).decode())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert metadata["Version"] == project["version"] == "0.1.0"
    plain = {each for each in metadata.get_all("Requires-Dist") if "extra ==" not in each}
    assert plain == set(project["dependencies"])
    assert {*metadata.get_all("Provides-Extra")} == set(project["optional-dependencies"])


def test_the_changelog_tells_of_the_version_to_come() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    first = re.search(r"^## \[(.*?)\]", text, flags=re.M)
    assert first is not None and first[1] in ("Unreleased", version) and version in text


def test_what_a_requirement_brings_in_is_found_through_others() -> None:
    names = {found.name.lower() for found in required(["torch"])}
    assert {"torch", "sympy", "mpmath"} <= names and "pytest" not in names  # sympy requires mpmath
