"""The folder in which a command runs."""

from pathlib import Path

import pytest
import torch

from tests import zoo


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a file that is no weights and one that fits another model."""
    (tmp_path / "garbage.pt").write_bytes(b"nothing of the kind")
    torch.save(zoo.vgg_bn(widths=(8, 12, 20)).state_dict(), tmp_path / "wider.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path
