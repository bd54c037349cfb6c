"""Every node has the shape and dtype that its value has when the graph runs."""

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, fx, nn

from nrfx.tracing import trace
from tests.tracing.models import MODES, Function, assert_behaves_like, vals


@pytest.mark.parametrize("mode", MODES)
def test_the_value_of_every_node_has_the_shape_and_dtype_of_the_real_one(mode: str) -> None:
    model, x = torchvision.models.shufflenet_v2_x0_5().train(mode == "train"), torch.randn(2, 3, 64, 64)
    gm = trace(model, x)
    real: dict[str, object] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            real[n.name] = super().run_node(n)
            return real[n.name]

    Recorder(copy.deepcopy(gm)).run(x)
    for node in gm.graph.nodes:
        val, value = node.meta["val"], real[node.name]
        if isinstance(val, Tensor):
            assert isinstance(value, Tensor)
            assert val.is_meta
            assert (val.shape, val.dtype) == (value.shape, value.dtype), node.name
        elif node.op != "output" and not isinstance(val, tuple | list):
            assert val == value


def test_a_batch_norm_over_one_value_per_channel_has_a_shape() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3)).train()
    assert vals(trace(model, torch.zeros(1, 3, 4, 4)).graph)[-1].shape == (1, 3, 1, 1)


def test_a_norm_of_a_transposed_tensor_can_be_viewed() -> None:
    gm = trace(
        Function(lambda m, x: m.norm(x.transpose(1, 2)).view(-1, 4), norm=nn.LayerNorm(4)),
        torch.zeros(2, 4, 3),
    )
    assert vals(gm.graph)[-1].shape == (6, 4)


def test_an_in_place_change_of_shape_leaves_the_value_before_it() -> None:
    gm = trace(Function(lambda m, x: (x + 0).unsqueeze_(1)), torch.zeros(2, 4))
    assert [tuple(val.shape) for val in vals(gm.graph)[:3]] == [(2, 4), (2, 4), (2, 1, 4)]


@pytest.mark.parametrize("made", [
    lambda x, stride: x.new_full((x.shape[0], 1), stride),
    lambda x, stride: x.new_full((x.shape[0], 1), fill_value=stride),
    lambda x, stride: torch.full((x.shape[0], 1), stride),
    lambda x, stride: torch.full_like(x[:, :1], stride),
])  # fmt: skip
def test_a_tensor_may_be_filled_with_an_element_of_a_buffer(made: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = Function(lambda m, x: torch.cat([made(x, stride) for stride in m.get_buffer("strides")], 1) * x)
    model.register_buffer("strides", torch.tensor([8.0, 16.0, 32.0]))
    assert_behaves_like(trace(model, torch.ones(2, 3)), model, torch.randn(2, 3))


def test_a_tensor_that_a_forward_puts_in_the_place_of_another_has_the_shape_of_that_one() -> None:
    class Centred(nn.Module):
        """Keeps what it centres by as an attribute, in the dtype of its last input."""

        def __init__(self) -> None:
            super().__init__()
            self.mean, self.conv = torch.zeros(1, 3, 1, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            self.mean = self.mean.type_as(x)
            y = self.conv(x - self.mean)
            return y.flatten(1) if y.shape[2] > 2 else y

    model, x = Centred().double(), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert torch.equal(trace(model, x)(x), model(x))
