"""A saved network to damage, or to load into what it does not fit."""

import shutil
from pathlib import Path

import pytest
from torch.optim import SGD

import nrfx
from tests.checkpoint.saved import image, rejuvenated
from tests.zoo import resnet


@pytest.fixture(scope="package")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    gm = rejuvenated(resnet, "removed")
    path = tmp_path_factory.mktemp("original") / "net.safetensors"
    optimizer = SGD(gm.parameters(), lr=0.1, momentum=0.9)
    gm(image()).sum().backward()
    optimizer.step()
    nrfx.save(path, gm, optimizer)
    return path


@pytest.fixture
def file(original: Path, tmp_path: Path) -> Path:
    """A file of its own of a rejuvenated ResNet, with an SGD over it."""
    return Path(shutil.copy(original, tmp_path))
