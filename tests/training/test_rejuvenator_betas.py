"""Betas that hold gamma-dead channels: shrink_beta pulls them to 0, and the channels go."""

import json
import re
from typing import Any

import pytest
import torch
from torch import nn

from nrfx.errors import TrainingError
from nrfx.training.events import Measurement
from nrfx.training.rejuvenator import Rejuvenator
from tests.training.small_loop import learn, set_up, step
from tests.zoo import SMALL


def gated() -> nn.Module:
    """A small network with gates and depthwise convolutions, half of whose first hidden gammas are 0 with a beta."""
    model = SMALL["mobilenet_se"]()
    with torch.no_grad():
        norm = model.get_submodule("1.2")
        norm.weight[:8], norm.bias[:8] = 0, torch.linspace(-0.4, 0.4, 8)
    return model


def penalties(nr: Rejuvenator) -> dict[str, torch.Tensor]:
    for parameter in nr.module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    nr.penalize()
    return {name: p.grad for name, p in nr.module.named_parameters() if p.grad is not None and bool(p.grad.any())}


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "1", True])
def test_a_shrink_beta_out_of_range_is_refused(value: Any) -> None:
    with pytest.raises(TrainingError, match=r"shrink_beta is .*; expected 0, or a positive number"):
        set_up(gated(), shrink_beta=value)


def test_without_the_option_no_beta_is_pulled() -> None:
    nr, _ = set_up(gated(), delta_lambda=0.1)
    step(nr), step(nr)
    assert nr.lam > 0
    assert all(name.endswith("weight") for name in penalties(nr))


def test_the_betas_that_hold_gamma_dead_channels_are_pulled_to_zero_and_no_others() -> None:
    nr, _ = set_up(gated(), delta_lambda=0.1, shrink_beta=2.0)
    step(nr), step(nr)
    pulled = {name: gradient for name, gradient in penalties(nr).items() if name.endswith("bias")}
    assert pulled.keys() == {"1.2.bias"}
    sign = nr.module.get_parameter("1.2.bias").detach().sign()
    sign[8:] = 0
    assert torch.equal(pulled["1.2.bias"], 2 * nr.lam * sign)


def test_at_lambda_zero_no_beta_is_pulled_and_none_is_moved() -> None:
    nr, _ = set_up(gated(), shrink_beta=1.0)
    assert nr.lam == 0 and penalties(nr) == {}
    before = nr.module.get_parameter("1.2.bias").detach().clone()
    step(nr)
    assert torch.equal(nr.module.get_parameter("1.2.bias"), before)


def test_a_beta_that_crosses_zero_stays_there_and_frees_its_channel() -> None:
    nr, optimizer = set_up(gated(), delta_lambda=0.005, shrink_beta=5.0, trigger=1e-6)
    held = []
    for seed in range(20):
        seen = learn(nr, optimizer, seed)
        assert isinstance(seen, Measurement)
        held.append(sum(count for reason, count in seen.utilization.held if "stream" not in reason))
    beta = nr.module.get_parameter("1.2.bias")[:8]
    print(held, beta)
    assert held[0] == 8 and held[-1] == 0
    assert torch.equal(beta, torch.zeros(8))


def test_a_gamma_that_comes_back_lets_its_beta_go() -> None:
    nr, _ = set_up(gated(), delta_lambda=0.05, shrink_beta=1.0)
    step(nr), step(nr)
    with torch.no_grad():
        nr.module.get_parameter("1.2.weight")[:8] = 1
    step(nr)
    assert not any(name.endswith("bias") for name in penalties(nr))


def test_a_search_resumed_between_measurements_pulls_the_same_betas() -> None:
    nr, optimizer = set_up(gated(), delta_lambda=0.05, shrink_beta=1.0, interval=2)
    for seed in range(5):
        learn(nr, optimizer, seed)
    saved = json.loads(json.dumps(nr.state_dict()))
    assert saved["betas"] == {"1.2.bias": list(range(8))}
    with torch.no_grad():
        nr.module.get_parameter("1.2.weight")[0] = 1  # not measured yet
    resumed = Rejuvenator(nr.module, optimizer, nr.budget, interval=2, delta_lambda=0.05, shrink_beta=1.0)
    resumed.load_state_dict(saved)
    assert resumed.state_dict() == nr.state_dict()
    assert penalties(resumed)["1.2.bias"].tolist() == penalties(nr)["1.2.bias"].tolist()


def test_a_state_whose_betas_do_not_fit_is_refused() -> None:
    nr, _ = set_up(gated(), shrink_beta=1.0)
    for betas, words in (
        ({"9.bias": [0]}, "betas that its module has not: {'9.bias': [0]}"),
        ({"1.2.bias": [99]}, "betas that its module has not: {'1.2.bias': [99]}"),
        ([3], "betas is [3]; expected a table"),
    ):
        with pytest.raises(TrainingError, match=re.escape(words)):
            nr.load_state_dict({**nr.state_dict(), "betas": betas})
