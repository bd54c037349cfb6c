"""A mode that is set in one walk is the mode that nn.Module.train would have set."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.tracing.graph.switch import are_only_switched


class Frozen(nn.BatchNorm2d):
    """A norm that stays in eval mode, by a `train` of its own."""

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)


class Counting(nn.ReLU):
    """Counts how often its mode is set, by a `__setattr__` of its own."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "training":
            vars(self)["times"] = vars(self).get("times", 0) + 1


class Fixed(nn.ReLU):
    """Is in eval mode always, by a property."""

    @property
    def training(self) -> bool:  # type: ignore[override]
        return False

    @training.setter
    def training(self, mode: bool) -> None:
        pass


class Hiding(nn.Module):
    """Keeps a part of it out of its children, so that it stays in its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.shown, self.frozen = nn.BatchNorm2d(8), nn.BatchNorm2d(8).eval()

    def children(self) -> Iterator[nn.Module]:
        yield self.shown

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(self.shown(x))


def network(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(nn.BatchNorm2d(8), nn.Dropout()), *layers)


def traced(*layers: nn.Module) -> nrfx.TracedModule:
    return nrfx.trace(network(*layers), torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("layer", [Frozen(8), Fixed()])
def test_a_mode_of_their_own_is_left_to_modules_that_have_one(layer: nn.Module) -> None:
    gm = traced(layer)
    for mode in (True, False, True):
        gm.train(mode)
        assert {path: each.training for path, each in gm.named_modules()} == {
            path: mode and path != "2" for path, each in gm.named_modules()
        }


@pytest.mark.parametrize("inside", [True, False])
def test_what_a_module_hides_from_its_children_stays_in_its_mode(inside: bool) -> None:
    model = network(Hiding()) if inside else Hiding()
    gm = nrfx.trace(model, torch.zeros(2, 3, 4, 4) if inside else torch.zeros(2, 8, 4, 4))
    for mode in (True, False, True):
        for each in (model, gm):
            each.train(mode)
        assert [each.training for each in gm.modules()] == [each.training for each in model.modules()]


def test_whoever_listens_to_the_mode_hears_of_it() -> None:
    layer = Counting()
    gm = traced(layer)
    before = vars(gm.get_submodule("2")).get("times", 0)
    gm.eval()
    gm.train()
    assert vars(gm.get_submodule("2"))["times"] == before + 2


def test_a_train_that_was_set_on_an_instance_is_called() -> None:
    gm = traced()
    calls: list[bool] = []
    norm: Any = gm.get_submodule("1.0")
    norm.train = lambda mode=True: calls.append(mode) or norm
    gm.eval()
    assert calls == [False]


def test_a_mode_that_is_no_bool_is_refused_as_by_torch() -> None:
    with pytest.raises(ValueError, match="boolean"):
        traced().train(1)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("layer", [lambda: Frozen(8), Counting, Fixed, Hiding, lambda: torch.jit.script(nn.ReLU())])
def test_who_is_not_only_switched(layer: Callable[[], nn.Module]) -> None:
    assert are_only_switched([nn.Conv2d(3, 8, 1), nn.ReLU()])
    assert not are_only_switched([nn.ReLU(), layer()])


def test_outputs_follow_the_mode() -> None:
    gm = traced()
    x = torch.ones(2, 3, 4, 4)

    def drops(gm: nn.Module) -> Tensor:
        return (gm(x) == 0).any()

    torch.manual_seed(0)
    assert bool(drops(gm.train())) and not bool(drops(gm.eval()))
