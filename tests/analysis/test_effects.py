"""Nodes that compute Python values."""

import operator
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrfx.analysis import interpret
from nrfx.analysis.channels import Step
from nrfx.analysis.spaces import channels_of
from nrfx.rules import Family
from nrfx.tracing import trace


class Net(nn.Module):
    """A convolution in front of what is done with its map."""

    def __init__(self, then: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.then = nn.Conv2d(3, 4, 1), then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self, self.conv(x))


def windows(_: nn.Module, x: Tensor) -> Tensor:
    """Cut into windows, at whatever size."""
    batch, channels, height, width = x.shape
    x = F.pad(x, (0, -width % 2, 0, -height % 2))
    rows, columns = x.size(2) // 2, x.shape[2:][1] // 2
    return x.view(batch, channels, rows, 2, columns, 2).transpose(3, 4).reshape(batch, channels, -1, 4) / len(x.shape)


def facts(_: nn.Module, x: Tensor) -> Tensor:
    """What a tensor says of itself beside its sizes."""
    more = torch.zeros(x.shape[-1], dtype=x.dtype, device=x.device)
    return x + more if x.is_floating_point() and x.dim() == 4 and x.numel() > 8 else x


def by_mode(net: nn.Module, x: Tensor) -> Tensor:
    """A number that depends on the mode, and one that is computed from it: a graph for each mode."""
    scale = 2 if net.training else 3
    return x * (scale * x.shape[1])


def steps(net: nn.Module) -> tuple[Step, ...]:
    return channels_of(trace(net, torch.zeros(2, 3, 6, 6))).steps


@pytest.mark.parametrize("then", [windows, facts, by_mode])
def test_values_are_those_that_calls_of_the_ops_give(
    then: Callable[[nn.Module, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Net(then)
    fast = steps(net)
    monkeypatch.setattr(interpret, "plain_value", lambda *_: None)
    slow = steps(net)
    assert [step.effect.family for step in fast] == [step.effect.family for step in slow]
    for one, other in zip(fast, slow, strict=True):
        assert (one.mode, one.node.name, one.path) == (other.mode, other.node.name, other.path)
        if one.effect.family is Family.VALUE:
            assert (one.effect.out, type(one.effect.out)) == (other.effect.out, type(other.effect.out))
        else:
            assert torch.equal(one.effect.out, other.effect.out)


def test_a_number_that_is_computed_from_the_mode_is_not_one_value() -> None:
    traced = trace(Net(lambda net, x: F.dropout(x, 0.1, net.training)), torch.zeros(2, 3, 6, 6))
    graph = traced.graphs["eval"]
    (mode,) = (node for node in graph.nodes if "by_mode" in node.name)
    with graph.inserting_after(mode):
        graph.call_function(operator.add, (mode, 1)).meta["val"] = 2
    (step,) = (step for step in channels_of(traced).steps if step.node.target is operator.add)
    assert step.effect.reason == "its arguments depend on train/eval mode"
