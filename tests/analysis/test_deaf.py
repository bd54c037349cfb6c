"""Deaf layers: named where nothing of the input reaches their output, and nowhere else."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.analysis.deaf import NO_WEIGHT, NOTHING_HEARD, OUTPUT, silent_weights
from nrfx.analysis.names import named_tensors
from nrfx.analysis.spaces import channels_of
from tests import zoo


def deaf(model: nn.Module) -> dict[str, str]:
    u = nrfx.utilization(nrfx.trace(model, torch.zeros(zoo.IMAGE)))
    return {each.layer: each.reason for each in u.deaf}


def silenced(model: nn.Module, *names: str) -> nn.Module:
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).zero_()
    return model


class Gated(nn.Module):
    """A gate that hears nothing multiplies what depends on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.gate, self.head = zoo.cbr(3, 4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return self.head(y * torch.sigmoid(self.gate(y)))


# What must not happen


@pytest.mark.parametrize("name", zoo.SMALL)
def test_no_layer_of_a_network_with_dead_channels_is_called_deaf(name: str) -> None:
    assert deaf(zoo.with_dead(zoo.SMALL[name]())) == {}


def test_small_gammas_make_no_layer_deaf() -> None:
    model = zoo.vgg_bn()
    with torch.no_grad():
        model[1].weight.fill_(1e-6)
    assert deaf(model) == {}


def test_a_weight_that_begins_with_a_zero_is_not_silent() -> None:
    model = zoo.vgg_bn()
    with torch.no_grad():
        model[4].weight.view(-1)[:-1] = 0
    assert deaf(model) == {}


def test_a_layer_behind_a_deaf_branch_hears_the_stream() -> None:
    """zero_init_residual: the last gammas of each block are 0 when training begins."""
    model = silenced(zoo.resnet(), "layer1.0.bn2.weight", "layer2.1.conv1.weight")
    assert deaf(model) == {"layer2.1.conv1": NO_WEIGHT, "layer2.1.conv2": NOTHING_HEARD}


def test_what_a_deaf_gate_multiplies_is_heard() -> None:
    assert deaf(silenced(Gated(), "gate.weight")) == {"gate": NO_WEIGHT}


# The smallest examples


def test_all_that_stands_behind_gammas_of_zero_is_deaf_and_so_is_the_output() -> None:
    model = silenced(zoo.vgg_bn(), "5.weight")
    assert deaf(model) == {"8": NOTHING_HEARD, "13": NOTHING_HEARD, OUTPUT: NOTHING_HEARD}


def test_a_depthwise_convolution_hears_the_channels_of_its_input() -> None:
    model = nn.Sequential(*zoo.conv_bn(3, 6), *zoo.conv_bn(6, 6, groups=6), nn.Conv2d(6, 2, 1))
    assert deaf(silenced(model, "1.weight"))["2"] == NOTHING_HEARD
    assert "4" in deaf(silenced(model, "1.weight"))


def test_weights_without_data_are_not_looked_at() -> None:
    gm = nrfx.trace(silenced(zoo.vgg_bn(), "4.weight"), torch.zeros(zoo.IMAGE))
    steps = channels_of(gm).steps
    assert silent_weights(steps, named_tensors(gm)) == {"4.weight"}
    assert silent_weights(steps, named_tensors(gm.to("meta"))) == frozenset()


# The law


@pytest.mark.parametrize("name", zoo.SMALL)
@pytest.mark.parametrize("cut", [lambda names: names[:1], lambda names: names[1::3], lambda names: names[-1:]])
def test_the_inputs_of_a_deaf_layer_are_the_same_for_every_input(
    name: str, cut: Callable[[list[str]], list[str]]
) -> None:
    torch.manual_seed(3)
    model = zoo.SMALL[name]().eval()
    norms = [path for path, each in model.named_modules() if "Norm" in type(each).__name__]
    silenced(model, *(f"{path}.weight" for path in cut(norms)))
    found, seen = deaf(model), dict[str, list[Tensor]]()
    for path in found.keys() - {OUTPUT}:
        model.get_submodule(path).register_forward_hook(
            lambda module, args, out, path=path: seen.setdefault(path, []).append(out.detach())
        )
    outputs = [model(torch.randn(zoo.IMAGE)) for _ in range(2)]
    for one, other in (each for each in seen.values()):
        assert torch.equal(one, other)
    if OUTPUT in found:
        assert torch.equal(*(nrfx.nests.tensors_of(each)[next(iter(nrfx.nests.tensors_of(each)))] for each in outputs))


def test_reports_name_the_deaf_layers_and_why_agrees() -> None:
    gm = nrfx.trace(silenced(zoo.resnet(), "layer2.1.conv1.weight"), torch.zeros(zoo.IMAGE))
    assert [each.layer for each in nrfx.utilization(gm).deaf] == ["layer2.1.conv1", "layer2.1.conv2"]
    assert NO_WEIGHT in nrfx.why(gm, "layer2.1.conv1").note
    assert nrfx.why(gm, "layer2.0.conv1").note == ""


def test_the_utilization_of_a_rewritten_network_knows_them_too() -> None:
    gm = nrfx.trace(silenced(zoo.with_dead(zoo.resnet()), "layer2.1.conv1.weight"), torch.zeros(zoo.IMAGE))
    result = nrfx.compact(gm)
    assert result.after.deaf == nrfx.utilization(result.module).deaf == nrfx.utilization(gm).deaf
