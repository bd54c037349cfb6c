"""Stops: layers, joins and calls that are not understood, each behind what it reads."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import DenseNet, VisionTransformer

import nrfx
from nrfx.analysis.inventory import Inventory
from nrfx.analysis.spaces import channels_of
from nrfx.analysis.stops import Stop, stops_of
from tests import zoo
from tests.report.networks import measured


def stops(model: nn.Module, shape: tuple[int, ...] = zoo.IMAGE) -> tuple[Stop, ...]:
    gm = nrfx.trace(model, torch.zeros(shape))
    kinds = {module.path: module.kind.__name__ for module in Inventory.of(gm).modules if module.shapes}
    return stops_of(channels_of(gm), kinds)


def transformer() -> nn.Module:
    return VisionTransformer(16, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5)


class Scaled(nn.Module):
    """A parameter of the module's own scales what a layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 4, 1), nn.Parameter(torch.ones(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.conv(x)


@pytest.mark.parametrize("name", zoo.SMALL)
def test_every_module_with_parameters_is_at_some_stop_and_sources_come_first(name: str) -> None:
    u = measured(name)
    assert {row.name for row in u.rows} == {layer for stop in u.stops for layer in stop.layers}
    assert all(source < index for index, stop in enumerate(u.stops) for source in stop.sources)
    assert {stop.kind for stop in u.stops} <= {"input", "layer", "join", "call", "output"}


def test_what_passes_a_value_on_is_no_stop() -> None:
    assert [(stop.kind, stop.name, stop.sources) for stop in stops(zoo.vgg_bn((8,)))] == [
        ("input", "input_1", ()), ("layer", "0", (0,)), ("layer", "1", (1,)), ("layer", "5", (2,)),
        ("output", "output", (3,)),
    ]  # fmt: skip


def test_a_concatenation_that_goes_on_reads_the_one_before() -> None:
    joins = [stop for stop in stops(DenseNet(4, (2, 3), 8, num_classes=5), (1, 3, 32, 32)) if stop.kind == "join"]
    assert len(joins) == 5 and all(len(stop.sources) == 2 for stop in joins)


def test_layers_of_train_mode_alone_come_last_and_read_what_they_read() -> None:
    found = stops(zoo.aux_net())
    names = [stop.name for stop in found]
    assert names.index("output") < min(index for index, name in enumerate(names) if name.startswith("aux"))
    first = next(stop for stop in found if stop.name.startswith("aux"))
    assert [found[source].kind for source in first.sources] == ["layer"]


def test_parameters_of_modules_that_are_not_called_stand_where_they_are_read() -> None:
    found = stops(Scaled())
    assert [(stop.op, stop.layers, stop.sources) for stop in found[1:3]] == [
        ("Conv2d", ("conv",), (0,)),
        ("mul", ("",), (1,)),
    ]
    token = next(stop for stop in stops(transformer(), (1, 3, 16, 16)) if stop.layers == ("",))
    assert token.op == "cat"


def test_a_projection_in_a_layer_that_is_called_as_a_whole_stands_with_that() -> None:
    found = stops(transformer(), (1, 3, 16, 16))
    layers = [stop.layers for stop in found if stop.op == "MultiheadAttention"]
    assert all(f"{own}.out_proj" == inside for own, inside in layers) and len(layers) == 2


def test_a_call_that_is_not_understood_is_a_stop() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    model[1].register_forward_hook(nn.Identity())
    assert [stop.kind for stop in stops(model)] == ["input", "layer", "call", "layer", "output"]


def test_a_module_that_no_graph_calls_is_a_stop_without_sources() -> None:
    model = zoo.aux_net()
    model.spare = nn.Conv2d(3, 3, 1)
    assert stops(model)[-1] == Stop("layer", "spare", "Conv2d", False, ("spare",), ())
