"""Shells: what is a copy of its own, and what is the tensor of the caller's choice."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from nrfx.nn import CrossConv2d
from nrfx.tracing.graph.clone import is_as_new, on_meta, same, shell
from tests.tracing.models import SMALL, Tied
from tests.zoo import SMALL as ZOO


def test_what_is_done_to_a_shell_does_not_reach_the_module() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).train()
    model[0].register_forward_hook(lambda *_: None)
    twin = shell(model, same).eval()
    twin[0].register_forward_hook(lambda *_: None)
    twin[0].note, twin[1] = "mine", nn.ReLU()
    assert model.training and model[0].training and not hasattr(model[0], "note")
    assert (len(model[0]._forward_hooks), len(twin[0]._forward_hooks)) == (1, 2)
    assert isinstance(model[1], nn.BatchNorm1d)


@pytest.mark.parametrize("model", [*(build() for build, _ in SMALL.values()), *(build() for build in ZOO.values())])
def test_a_shell_that_shares_its_tensors_has_them_under_all_names_and_a_bare_one_has_their_shapes(
    model: nn.Module,
) -> None:
    shared, bare = shell(model, same), shell(model, on_meta)
    state = model.state_dict(keep_vars=True)
    assert [id(tensor) for tensor in shared.state_dict(keep_vars=True).values()] == [id(t) for t in state.values()]
    for (name, tensor), old in zip(bare.state_dict(keep_vars=True).items(), state.values(), strict=True):
        assert (tensor.is_meta, tensor.shape, tensor.dtype) == (True, old.shape, old.dtype), name
        assert isinstance(tensor, nn.Parameter) == isinstance(old, nn.Parameter)


def test_tied_tensors_and_modules_stay_tied() -> None:
    twin = shell(Tied(), on_meta)
    assert twin.a.weight is twin.b.weight and twin.norm is twin.again


def test_a_module_that_copies_itself_in_its_own_way_is_copied_in_that_way() -> None:
    class Own(nn.Linear):
        def __deepcopy__(self, memo: dict[int, object]) -> "Own":
            twin = Own(2, 3)
            twin.weight = copy.deepcopy(self.weight, memo)
            twin.copied = True
            return twin

    model = nn.Sequential(Own(2, 3))
    twin = shell(model, same)
    assert twin[0].copied and twin[0].weight is model[0].weight


def test_a_weight_that_is_the_result_of_arithmetic_is_copied() -> None:
    model = nn.Linear(2, 3)
    weight = 2 * model.weight
    del model.weight
    model.weight = weight
    twin = shell(model, on_meta)
    assert twin.weight.is_meta and torch.equal(model.weight, weight)


class Noting(nn.Module):
    """Layers of which some are one, and attributes of each kind that a forward may change."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
        self.relu, self.again = nn.ReLU(), nn.ReLU()
        self.tied = self.first
        self.seen: dict[str, int] = {}
        self.marks: set[int] = set()
        self.calls, self.sizes = 0, (1, 2)


def test_a_shell_is_as_new_until_something_in_it_changes() -> None:
    model = Noting()
    assert is_as_new(shell(model, same), model) and not is_as_new(shell(model, on_meta), model)


CHANGES: dict[str, Callable[[Any], object]] = {
    "number": lambda net: setattr(net, "calls", 1),
    "true for one": lambda net: setattr(net.first, "eps", True),
    "tuple": lambda net: setattr(net, "sizes", (1, torch.zeros(1))),
    "new attribute": lambda net: setattr(net.second, "last", None),
    "no attribute": lambda net: delattr(net, "calls"),
    "entry": lambda net: net.seen.update(one=1),
    "mark": lambda net: net.marks.add(1),
    "hook": lambda net: net.relu.register_forward_hook(lambda *_: None),
    "parameter": lambda net: setattr(net.second, "weight", net.first.weight),
    "buffer": lambda net: setattr(net.second, "running_mean", torch.zeros(3)),
    "no buffer": lambda net: delattr(net.second, "running_mean"),
    "new buffer": lambda net: net.second.register_buffer("count", None),
    "order": lambda net: net._modules.update(first=net._modules.pop("first")),
    "module": lambda net: setattr(net, "relu", nn.ReLU6()),
    "one module for two": lambda net: setattr(net, "again", net.relu),
    "two modules for one": lambda net: setattr(net, "tied", shell(net.first, same)),
    "no module": lambda net: setattr(net, "again", None),
    "new module": lambda net: net.add_module("third", nn.ReLU()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_shell_with_a_change_is_not_as_new(change: Callable[[Any], object]) -> None:
    model = Noting()
    twin = shell(model, same)
    change(twin)
    assert not is_as_new(twin, model)


@pytest.mark.parametrize("held", [[1, [object()]], {"a": 1}, partial(nn.Linear, bias=[{}]), torch.zeros(1)])
def test_what_a_module_holds_may_have_changed_inside(held: object) -> None:
    model = Noting()
    model.held = held
    assert not is_as_new(shell(model, same), model)


HELD = [nn.Linear, len, shell, [1, (2, "a")], partial(nn.LayerNorm, eps=1e-6)]


@pytest.mark.parametrize("held", HELD)
def test_lists_and_partials_of_what_cannot_change_are_looked_into(held: object) -> None:
    model = Noting()
    model.held = held
    assert is_as_new(shell(model, same), model)


@pytest.mark.parametrize("now", [[1, (2, "b")], [1], partial(nn.LayerNorm, eps=1e-5), partial(nn.LayerNorm), nn.ReLU])
@pytest.mark.parametrize("held", HELD)
def test_another_list_partial_or_class_shows(held: object, now: object) -> None:
    model = Noting()
    model.held = held
    twin = shell(model, same)
    twin.held = now
    assert not is_as_new(twin, model)


def test_what_cannot_change_is_shared_and_what_can_is_copied() -> None:
    net = CrossConv2d((2, 2), (2, 2), 1)
    net.note = {"widths": [1, 2]}
    twin = shell(net, same)
    assert twin.form is net.form and twin.in_runs is net.in_runs
    assert twin.note == net.note and twin.note["widths"] is not net.note["widths"]


def test_a_list_that_two_modules_hold_is_one_list_in_the_copy_too() -> None:
    net = nn.Sequential(nn.ReLU(), nn.ReLU())
    sizes = [1, 2]
    net[0].sizes = net[1].sizes = sizes
    net[1].held = {"sizes": sizes}
    twin = shell(net, same)
    assert twin[0].sizes is twin[1].sizes is twin[1].held["sizes"] is not sizes
    assert twin[0].sizes == [1, 2]
