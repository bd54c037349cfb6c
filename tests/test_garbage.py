"""The passes search for no garbage, and leave the search for it as it was."""

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.garbage import unsearched


def network() -> nn.Module:
    """Forty layers, with dead channels."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(40)]
    net = nn.Sequential(nn.Conv2d(3, 8, 3), *blocks)
    with torch.no_grad():
        for block in blocks:
            block[1].weight[:3] = 0
    return net


class Untraceable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if bool(x.sum() > 0) else -x


@contextmanager
def searches() -> Iterator[list[str]]:
    """The searches for garbage that begin within the block."""
    found: list[str] = []

    def note(phase: str, info: Any) -> None:
        found.append(phase)

    gc.collect()
    gc.callbacks.append(note)
    try:
        yield found
    finally:
        gc.callbacks.remove(note)


def rejuvenated(traced: nrfx.TracedModule) -> object:
    return nrfx.rejuvenate(traced, nrfx.Budget(params=30_000), check=False)


PASSES: dict[str, Callable[[nn.Module], object]] = {
    "trace": lambda net: nrfx.trace(net, torch.zeros(1, 3, 8, 8)),
    "utilization": nrfx.utilization,
    "compact": lambda traced: nrfx.compact(traced, check=False),
    "rejuvenate": rejuvenated,
}


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_searches_for_no_garbage(name: str) -> None:
    given = network() if name == "trace" else nrfx.trace(network(), torch.zeros(1, 3, 8, 8))
    with searches() as found:
        made = PASSES[name](given)
        within = len(found)
        assert gc.isenabled()
    # one may begin between the block of the pass and its return
    assert within <= 2, f"{within // 2} searches"
    del made


def test_while_code_of_the_user_runs_on_data_it_is_searched() -> None:
    seen: list[bool] = []

    class Seeing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(gc.isenabled())
            return x if bool(x.sum() > -1) else -x

    nrfx.trace(nn.Sequential(nn.Conv2d(3, 4, 1), Seeing(), nn.Conv2d(4, 2, 1)), torch.ones(1, 3, 4, 4), partial=True)
    assert any(seen)


class Noting(list[Tensor]):
    """Batches that note, whenever they are taken, whether Python searches."""

    def __init__(self, batches: list[Tensor]) -> None:
        super().__init__(batches)
        self.searched: list[bool] = []

    def __iter__(self) -> Iterator[Tensor]:
        self.searched.append(gc.isenabled())
        return super().__iter__()


@pytest.mark.parametrize("work", [nrfx.utilization, nrfx.compact])
def test_while_a_criterion_runs_its_batches_it_is_searched(work: Callable[..., object]) -> None:
    traced = nrfx.trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(2, 4))
    batches = Noting([torch.randn(16, 4, generator=torch.Generator().manual_seed(0))])
    work(traced, liveness=nrfx.liveness.Activation(batches, 0.1))
    assert batches.searched and all(batches.searched)


def test_an_error_leaves_the_search_as_it_was() -> None:
    with pytest.raises(nrfx.TraceError):
        nrfx.trace(Untraceable(), torch.zeros(2))
    assert gc.isenabled()


def test_who_has_turned_the_search_off_finds_it_so() -> None:
    gc.disable()
    try:
        traced = nrfx.trace(network(), torch.zeros(1, 3, 8, 8))
        rejuvenated(traced)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_blocks_in_blocks() -> None:
    with unsearched():
        with unsearched():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_threads_leave_it_as_it_was() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work() -> None:
        for _ in range(2000):
            with unsearched():
                pass

    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    finally:
        sys.setswitchinterval(interval)
    assert gc.isenabled()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_process_that_is_forked_within_a_block_searches() -> None:
    with unsearched():
        child = os.fork()
        if not child:
            os._exit(0 if gc.isenabled() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not gc.isenabled()
