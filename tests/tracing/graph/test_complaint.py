"""An input of a wrong shape is told in the words of torch, whose errors on "meta" say less."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nrfx
from nrfx.errors import TraceError
from nrfx.tracing.graph import complaint

FOUR = "expected input[2, 4, 8, 8] to have 3 channels, but got 4 channels instead"


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight)


class Own(nn.Module):
    """A layer of the user's own, which counts how often it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.runs.append(1)
        raise RuntimeError("not like this")


def refused(model: nn.Module) -> str:
    with pytest.raises(TraceError) as caught:
        nrfx.trace(model, torch.zeros(2, 4, 8, 8))
    return str(caught.value)


@pytest.mark.parametrize("model", [nn.Sequential(nn.Conv2d(3, 8, 3)), Functional()])
def test_a_wrong_number_of_channels_is_told_with_both_numbers(model: nn.Module) -> None:
    random = torch.get_rng_state()
    told = refused(model)
    assert "cannot be run on (([2, 4, 8, 8] float32" in told and FOUR in told
    assert torch.equal(torch.get_rng_state(), random)


def test_what_is_large_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complaint, "LARGEST", 100)
    assert "Invalid channel dimensions" in refused(nn.Sequential(nn.Conv2d(3, 8, 3)))


def test_a_layer_of_the_user_s_own_is_not_run_for_its_error() -> None:
    own = Own()
    error = RuntimeError("not like this")
    assert complaint.complaint(error, own, (torch.zeros(1),), {}) == "RuntimeError: not like this."
    assert not own.runs


def test_a_call_that_runs_on_zeros_leaves_the_error_as_it_was() -> None:
    error = RuntimeError("on meta alone")
    assert complaint.complaint(error, torch.relu, (torch.zeros(1),), {}) == "RuntimeError: on meta alone."


def test_an_error_of_another_kind_explains_nothing() -> None:
    error = RuntimeError("as on meta")
    assert (
        complaint.complaint(error, torch.select, (torch.zeros(2, device="meta"), 0, 9), {})
        == "RuntimeError: as on meta."
    )
