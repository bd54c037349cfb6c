"""What a training loop steps, and the optimizers in it."""

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import nn, optim

from nrfx.errors import TrainingError
from nrfx.optimizers.kinds import register_optimizer
from nrfx.optimizers.wrappers import optimizers_of
from nrfx.training.optimizer import check_optimizer, migrate
from tests.training.test_carried_state import Matrix, result_of


class Delegating(optim.Optimizer):
    """As that of accelerate: no state of its own."""

    def __init__(self, optimizer: optim.Optimizer) -> None:
        self.optimizer = optimizer

    state: Any = property(lambda self: self.optimizer.state)
    param_groups: Any = property(lambda self: self.optimizer.param_groups)


class Plain:
    """No optimizer by its class."""

    def __init__(self, base: Any) -> None:
        self.base = base


class Slow(optim.Optimizer):
    """As Lookahead: the groups of the optimizer that it wraps, and slow weights in a state of its own."""

    def __init__(self, base_optimizer: optim.Optimizer) -> None:
        self.base_optimizer = base_optimizer
        self.param_groups = base_optimizer.param_groups
        self.state: Any = defaultdict(dict)

    def start(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["slow"] = parameter.detach() - 1


def sgd(parameter: nn.Parameter | None = None) -> optim.Optimizer:
    return optim.SGD([nn.Parameter(torch.zeros(1)) if parameter is None else parameter], lr=0.1)


@pytest.mark.parametrize("value", [None, "SGD", 3, [None], [], nn.Linear(1, 1)])
def test_what_holds_no_optimizer_is_refused(value: Any) -> None:
    with pytest.raises(TrainingError, match=r"optimizer is .*; expected one of torch\.optim"):
        optimizers_of(value)


def test_an_optimizer_is_found_alone_in_wrappers_and_in_lists_and_each_once() -> None:
    first, second = sgd(), sgd()
    assert optimizers_of(first) == (first,)
    assert optimizers_of([Delegating(first), Plain(Delegating(second)), first]) == (first, second)
    assert optimizers_of({"a": first, "b": [second]}) == (first, second)
    assert optimizers_of(iter([second])) == (second,)


def test_a_wrapper_with_state_is_an_optimizer_of_its_own_kind() -> None:
    wrapper = Slow(sgd())
    assert optimizers_of(wrapper) == (wrapper.base_optimizer,)
    wrapper.start()
    assert optimizers_of(wrapper) == (wrapper.base_optimizer, wrapper)
    with pytest.raises(TrainingError, match=r"Slow is no optimizer of which"):
        check_optimizer(wrapper)


def test_both_follow_a_rejuvenation_and_share_their_groups() -> None:
    class Registered(Slow):
        pass

    register_optimizer(Registered, {"slow": -1}, {"slow": "parameter"})
    old, new = Matrix(2, 2), Matrix(3, 2)
    wrapper = Registered(sgd(old.weight))
    assert optimizers_of(wrapper) == (wrapper.base_optimizer, wrapper)
    wrapper.start()
    migrate(wrapper, old, result_of(new, (torch.tensor([1, 0, -1]), None)))
    assert wrapper.param_groups[0]["params"] == [new.weight]
    assert wrapper.param_groups is wrapper.base_optimizer.param_groups
    distance = (wrapper.state[new.weight]["slow"] - new.weight).detach()
    torch.testing.assert_close(distance, torch.tensor([[-1.0, -1], [-1, -1], [0, 0]]).double())
