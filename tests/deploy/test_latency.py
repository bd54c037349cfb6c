"""The time of a forward, measured in eval mode; the clock of these tests is their own."""

import itertools

import pytest
import torch
from torch import nn

import nrfx
from nrfx.deploy import latency as file
from nrfx.deploy.latency import LEAST, WARM_UP, latency, on_device
from nrfx.errors import AnalysisError, UsageError


def test_median_and_middle_half_of_the_runs_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run takes one second more than the one before."""
    seconds = itertools.accumulate(itertools.chain([0.0], *([0.0, float(n)] for n in range(1, 100))))
    monkeypatch.setattr(file.time, "perf_counter", lambda: next(seconds))
    found = latency(nrfx.trace(nn.Linear(4, 2), torch.zeros(3, 4)), seconds=0)
    assert (found.runs, found.median, found.examples, found.inputs) == (LEAST, 3.0, 3, ((3, 4),))
    assert 1 <= found.low < found.median < found.high <= 5
    assert (found.device, found.threads) == ("cpu", torch.get_num_threads())


def test_it_goes_on_for_the_time_given(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(file.time, "perf_counter", lambda: float(next(clock)))
    runs = [latency(nrfx.trace(nn.Linear(4, 2), torch.zeros(3, 4)), seconds=seconds).runs for seconds in (30, 60)]
    assert LEAST < runs[0] < runs[1]


def test_the_network_runs_in_eval_mode_and_stays_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    module = nrfx.trace(model, torch.zeros(3, 4))
    modes = []
    module.get_submodule("1").register_forward_hook(lambda part, *_: modes.append(part.training))
    latency(module, seconds=0)
    assert modes == [False] * (WARM_UP + LEAST)
    assert module.training and int(model[1].num_batches_tracked) == 0


def test_a_network_that_does_not_run_on_drawn_inputs_is_said() -> None:
    model = nn.Embedding(1, 2)  # ids are drawn as 0 and 1
    with pytest.raises(AnalysisError, match=r"does not run on drawn inputs .*IndexError"):
        latency(nrfx.trace(model, torch.zeros(2, 3, dtype=torch.long)), seconds=0)


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="There is no device 'nowhere' here"):
        on_device(nrfx.trace(nn.Linear(2, 2), torch.zeros(1, 2)), "nowhere")
