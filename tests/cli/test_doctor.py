"""nrfx doctor: what is here, by name and number; exit status 0 whatever is missing."""

import json
import platform
from pathlib import Path

import pytest
import torch

from nrfx.cli import doctor
from nrfx.nn import cache as kept
from nrfx.nn import library
from tests.cli.running import printed


def asked(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(printed(["doctor", "--json"], capsys))
    return found


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NRFX_CACHE", str(tmp_path / "cache"))
    library.forget()
    return tmp_path / "cache"


def test_versions_and_devices_are_those_of_this_process(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    found = asked(capsys)
    assert found["python"] == platform.python_version()
    packages = found["packages"]
    assert isinstance(packages, dict) and torch.__version__.startswith(packages["torch"].partition("+")[0])
    assert {"torchvision", "networkx", "rich"} <= packages.keys()
    assert found["devices"] and str(found["devices"][0]).startswith("cpu")  # type: ignore[index]


def test_optional_packages_stand_under_the_extra_that_brings_them(capsys: pytest.CaptureFixture[str]) -> None:
    optional = asked(capsys)["optional"]
    assert isinstance(optional, dict)
    assert "scikit-learn" in optional["demo"] and "matplotlib" in optional["plot"] and "onnx" in optional["export"]


def test_a_package_that_is_not_installed_is_said_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "requires", lambda _: ["no-such-package>=1; extra == 'demo'"])
    assert asked(capsys)["optional"] == {
        "demo": {"no-such-package": None},
        "plot": {},
        "export": {},
        "integrations": {},
    }
    assert "no-such-package not installed" in printed(["doctor"], capsys)


def test_it_compiles_nothing_and_makes_no_folder(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    kernels = asked(capsys)["kernels"]
    assert isinstance(kernels, dict)
    assert kernels["cache"] == str(cache) and (kernels["files"], kernels["bytes"]) == (0, 0)
    assert not cache.exists()
    assert kernels["state"].startswith("not compiled yet" if kernels["compiler"] else "none")


def test_kernels_that_are_kept_are_found_with_their_size(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    compiler = library.compiler()
    if compiler is None:
        pytest.skip("there is no C compiler")
    cache.mkdir(mode=0o700)
    file = kept.keep(cache, library._name(compiler), b"compiled code")  # compiling it takes seconds
    kernels = asked(capsys)["kernels"]
    assert isinstance(kernels, dict)
    assert kernels["state"] == "compiled" and (kernels["files"], kernels["bytes"]) == (1, file.stat().st_size)
    assert f"{file.stat().st_size:,} bytes" in " ".join(printed(["doctor"], capsys).split())


@pytest.mark.parametrize(("name", "value", "state"), [
    ("NRFX_NATIVE", "0", "not used: NRFX_NATIVE is 0"),
    ("PATH", "", "none: there is no C compiler"),
])  # fmt: skip
def test_what_is_missing_or_turned_off_is_said(
    name: str, value: str, state: str, capsys: pytest.CaptureFixture[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv(name, value)
    assert state in printed(["doctor"], capsys)


def test_lines_are_no_longer_than_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    text = printed(["doctor"], capsys)
    assert max(map(len, text.splitlines())) <= 60 and "[demo]" in text
