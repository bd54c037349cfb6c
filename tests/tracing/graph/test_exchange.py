"""A module tree that takes over another one's contents keeps its objects."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from nrfx.tracing.graph.exchange import Snapshot, exchange, put_data


class Tree(nn.Module):
    """Tied parameters, a module at two places, buffers, plain values and lists of modules."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one = nn.Linear(width, width)
        self.two = nn.Linear(width, width)
        self.two.weight = self.one.weight
        self.norm = nn.BatchNorm1d(width)
        self.again = self.norm
        self.width = width
        self.parts = [self.one, self.two]
        self.register_buffer("table", torch.arange(width), persistent=False)
        self.inner = nn.Sequential(nn.ReLU(), nn.Linear(width, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.two(self.one(x)))
        return self.inner(self.again(x) + self.table)


@pytest.fixture
def trees() -> Iterator[tuple[Tree, Tree]]:
    torch.manual_seed(0)
    yield Tree(4).eval(), Tree(6).eval()


def test_the_target_computes_what_the_source_did_with_its_own_objects(trees: tuple[Tree, Tree]) -> None:
    target, source = trees
    x = torch.randn(3, 6)
    expected = source(x)
    modules, tensors = dict(target.named_modules()), {**dict(target.named_parameters()), **dict(target.named_buffers())}
    exchanged = exchange(target, source)
    assert torch.equal(target(x), expected)
    assert dict(target.named_modules()) == modules and target.again is target.norm
    now = {**dict(target.named_parameters()), **dict(target.named_buffers())}
    assert all(now[name] is tensor for name, tensor in tensors.items()) and now.keys() == tensors.keys()
    assert target.two.weight is target.one.weight and len(exchanged) == len(now)
    assert target.one.in_features == 6 and target.norm.num_features == 6
    assert target.parts == [target.one, target.two]
    assert list(target.state_dict()) == list(Tree(6).state_dict())


def test_what_only_the_source_has_is_taken_and_what_only_the_target_has_goes(trees: tuple[Tree, Tree]) -> None:
    target, source = trees
    source.inner.append(more := nn.Linear(1, 2))
    source.one.bias = None
    target.inner[1].register_parameter("extra", nn.Parameter(torch.ones(1)))
    exchange(target, source)
    assert target.inner[2] is more and target.one.bias is None
    assert not hasattr(target.inner[1], "extra")


@pytest.mark.parametrize("change", ["dtype", "frozen"])
def test_a_tensor_that_cannot_hold_the_others_data_is_replaced(change: str, trees: tuple[Tree, Tree]) -> None:
    target, source = trees
    old = target.inner[1].weight
    new = source.inner[1].weight
    if change == "dtype":
        new = source.inner[1].weight = nn.Parameter(new.detach().double())
    else:
        new.requires_grad_(False)
    exchange(target, source)
    assert target.inner[1].weight is new is not old


def test_a_module_of_another_class_is_replaced_and_its_parameters_stay(trees: tuple[Tree, Tree]) -> None:
    target, source = trees
    old, weight = target.inner[1], target.inner[1].weight
    new = source.inner[1] = nn.Conv1d(1, 1, 1)
    exchange(target, source)
    assert target.inner[1] is new is not old and new.weight is weight


def test_a_parameter_of_another_shape_trains_on_while_a_loss_of_before_is_kept() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        parameter, seen = nn.Parameter(torch.ones(3, dtype=dtype)), []
        parameter.register_post_accumulate_grad_hook(lambda p, seen=seen: seen.append(p.numel()))
        kept = parameter.sum()
        kept.backward()
        put_data(parameter, torch.ones(5, dtype=dtype))
        parameter.sum().backward()
        assert parameter.grad is not None and parameter.grad.shape == (5,) and seen == [3, 5]


def test_a_snapshot_puts_everything_back(trees: tuple[Tree, Tree]) -> None:
    target, source = trees
    x = torch.randn(3, 4)
    target(x).sum().backward()
    state, grads = copy.deepcopy(target.state_dict()), [p.grad for p in target.parameters()]
    modules, parameters = dict(target.named_modules()), dict(target.named_parameters())
    expected, snapshot = target(x), Snapshot(target)
    source.inner.append(nn.Linear(1, 2))
    exchange(target, source)
    target.one.__class__ = nn.Bilinear
    snapshot.restore()
    assert torch.equal(target(x), expected)
    assert dict(target.named_modules()) == modules and dict(target.named_parameters()) == parameters
    assert all(torch.equal(state[name], tensor) for name, tensor in target.state_dict().items())
    assert all(p.grad is grad for p, grad in zip(target.parameters(), grads, strict=True))
    assert target.one.in_features == 4 and type(target.one) is nn.Linear
