"""A large package is imported without a search for garbage."""

import gc
import sys
from pathlib import Path

import pytest

from nrfx.cli.start import imported


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_nothing_is_collected_while_a_package_is_imported(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (packages / "nrfx_large.py").write_text("import gc\ncollects = gc.isenabled()\nobjects = [[] for _ in range(99)]\n")
    before = gc.get_freeze_count()
    imported("nrfx_large")
    assert sys.modules["nrfx_large"].collects is False
    assert gc.isenabled() and gc.get_freeze_count() >= before + 99
    frozen = gc.get_freeze_count()
    imported("nrfx_large")  # which is there
    assert gc.get_freeze_count() <= frozen
    monkeypatch.delitem(sys.modules, "nrfx_large")


def test_a_package_that_cannot_be_imported_leaves_the_collector_as_it_was(packages: Path) -> None:
    (packages / "nrfx_broken.py").write_text("raise ValueError('broken')\n")
    with pytest.raises(ValueError, match="broken"):
        imported("nrfx_broken")
    assert gc.isenabled()
    gc.disable()
    try:
        with pytest.raises(ModuleNotFoundError, match="nrfx_nowhere"):
            imported("nrfx_nowhere")
        assert not gc.isenabled()
    finally:
        gc.enable()
