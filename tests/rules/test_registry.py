"""The table of rules: one rule for an op, the rule of a parent class for its children, and a name for what has none."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.rules.registry import RULES, register, rule_of
from tests.tracing.models import Function


def test_an_op_takes_no_second_rule() -> None:
    with pytest.raises(AssertionError, match="has a rule already"):
        register(RULES[nn.Conv2d], nn.Conv2d)


def test_a_subclass_has_the_rule_of_its_nearest_parent() -> None:
    class Own(nn.Conv2d):
        pass

    node = next(iter(nrfx.trace(nn.Sequential(nn.Conv2d(3, 4, 1)), torch.zeros(1, 3, 4, 4)).graph.nodes)).next
    assert rule_of(node, Own(3, 4, 1)) is RULES[nn.Conv2d]


@pytest.mark.parametrize(("op", "name"), [
    (lambda m, x: torch.cummax(x, 1)[0], "cummax"), (lambda m, x: x.cumprod(1), "cumprod"),
])  # fmt: skip
def test_an_op_without_a_rule_is_named(op: Callable[[nn.Module, Tensor], Any], name: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4), Function(op))
    (pin,) = nrfx.utilization(nrfx.trace(model, torch.zeros(2, 3))).pins
    assert (pin.space, pin.reason) == ("0", f"nrfx has no rule for {name}")
