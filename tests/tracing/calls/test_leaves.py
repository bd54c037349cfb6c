"""leaves= of nrfx.trace: modules that are not looked into."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.errors import TraceError
from nrfx.tracing.calls.leaves import Leaves

IMAGE = (2, 3, 6, 6)


class Block(nn.Module):
    """A convolution and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), Block(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5))


@pytest.mark.parametrize(
    "leaf", [lambda net: Block, lambda net: net[2], lambda net: "2"], ids=["class", "module", "path"]
)
def test_a_leaf_is_one_node_that_pins_what_it_touches(leaf: Callable[[nn.Module], object]) -> None:
    net = model().eval()
    assert "2.conv" in [node.target for node in nrfx.trace(net, torch.zeros(IMAGE)).graph.nodes]
    gm = nrfx.trace(net, torch.zeros(IMAGE), leaves=[leaf(net)])
    assert [node.target for node in gm.graph.nodes if node.op == "call_module"] == ["0", "1", "2", "3", "4"]
    assert gm.facts.leaves == ("2",)
    x = torch.randn(IMAGE)
    assert torch.equal(gm(x), net(x))
    usage = nrfx.utilization(gm)
    assert usage.params.total == sum(p.numel() for p in net.parameters())
    assert [entry.nodes for entry in usage.not_understood] == [("2",)] and usage.uncounted == ()
    assert {"0", "3"} & {pin.space for pin in usage.pins} == {"0"} | {"3"}


def test_with_partial_leaves_are_calls_inside_of_the_parts() -> None:
    class Chooser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model()

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            return y if float(y.sum()) > 0 else -y

    for leaf in (Block, "body.2"):
        gm = nrfx.trace(Chooser().eval(), torch.zeros(IMAGE), partial=True, leaves=[leaf])
        called = [str(node.target) for node in gm.graph.nodes if node.op == "call_module"]
        assert "body.2" in called and "body.2.conv" not in called


@pytest.mark.parametrize("wrong", ["missing", nn.ReLU(), 3, Tensor])
def test_what_is_no_module_of_the_model_is_refused(wrong: object) -> None:
    with pytest.raises(TraceError, match=r"leaves has .*; expected a class of modules.*such as '0'"):
        nrfx.trace(model(), torch.zeros(IMAGE), leaves=[wrong])


@pytest.mark.parametrize("wrong", [Block, "2", nn.Sequential(Block()), None, 3])
def test_what_is_no_list_is_refused(wrong: object) -> None:
    with pytest.raises(TraceError, match=r"leaves is a .*; expected a list of classes, modules or paths"):
        nrfx.trace(model(), torch.zeros(IMAGE), leaves=wrong)


def test_the_model_itself_is_no_leaf_and_a_leaf_outside_of_all_parts_stays_whole() -> None:
    gm = nrfx.trace(model(), torch.zeros(IMAGE), leaves=[nn.Sequential, Block])
    assert gm.facts.leaves == ("2",)

    class Chooser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = model(), nn.Conv2d(5, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            return self.head(y if float(y.sum()) > 0 else -y)

    parts = nrfx.trace(Chooser().eval(), torch.zeros(IMAGE), partial=True, leaves=["body"])
    assert [part.path for part in parts.facts.parts] == ["head"]
    assert "body (Sequential): it is a leaf." in parts.facts.outside


def test_leaves_below_a_submodule_have_paths_of_their_own() -> None:
    leaves = Leaves(paths=frozenset({"body.3", "body", "head.0"}))
    assert leaves.below("body") == Leaves(paths=frozenset({"3"}))


def test_a_saved_network_is_loaded_with_its_leaves(tmp_path: Path) -> None:
    gm = nrfx.trace(model(), torch.zeros(IMAGE), leaves=[Block])
    with torch.no_grad():
        gm.get_parameter("4.weight")[:2] = 0
    result = nrfx.compact(gm)
    nrfx.save(tmp_path / "net.safetensors", result.module)
    again = nrfx.load(tmp_path / "net.safetensors", model())
    x = torch.randn(IMAGE)
    assert again.facts.leaves == ("2",) and torch.equal(again.eval()(x), result.module.eval()(x))


def test_a_traced_module_that_is_traced_again_keeps_its_leaves() -> None:
    gm = nrfx.trace(model(), torch.zeros(IMAGE), leaves=[Block])
    again = nrfx.trace(gm, torch.zeros(IMAGE), leaves=["4"])
    assert again.facts.leaves == ("2", "4")
    assert "2" in [node.target for node in again.graph.nodes]
