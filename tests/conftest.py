"""Every test runs on one thread, from one seed, with every multiply-add visible and every effect checked."""

import gc
import sys
from collections.abc import Iterator

import pytest
import torch

from nrfx.rules import check

for device in (torch.cuda, torch.xpu, torch.mtia):
    if not device.is_available():  # else torch.manual_seed formats the call stack for each, 1 ms in all
        device.manual_seed_all = lambda seed: None


frozen = {"modules": 0}


def pytest_collection_finish() -> None:
    """What is imported by now stays: looking through it for garbage, again and again, took a third of the suite."""
    freeze_imports()


def freeze_imports() -> None:
    """Takes all that is alive out of the searches for garbage, where much was imported since the last time."""
    if len(sys.modules) >= frozen["modules"] + 50:
        gc.collect()
        gc.freeze()
        frozen["modules"] = len(sys.modules)


@pytest.fixture(autouse=True)
def reproducible(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, here and in the processes a test starts, one seed, and attention without its uncounted fused path.

    Shared cores make two threads slower, and other numbers of threads add in another order.
    """
    freeze_imports()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.set_warn_always(True)  # else a warning is an error in the first test that meets it, and in no other
    check.every_rule = True
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(fast_path)


@pytest.fixture
def generator() -> torch.Generator:
    """A fresh generator with a fixed seed."""
    return torch.Generator().manual_seed(0)
