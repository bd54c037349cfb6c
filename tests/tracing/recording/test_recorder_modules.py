"""Modules that a forward makes itself, or wraps, and what it keeps on tensors or asks of them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nrfx
from tests import zoo
from tests.tracing.models import Joined, assert_kept


def activations(m: Any, x: Tensor) -> Tensor:
    return nn.ReLU6()(m.b(nn.SiLU(inplace=True)(x * 1)))  # type: ignore[no-any-return]


def padded_and_pooled(m: Any, x: Tensor) -> Tensor:
    y = m.b(nn.ConstantPad2d((0, 1, 0, 1), 0.0)(nn.Upsample(scale_factor=2)(x)))
    return nn.Upsample(x.shape[2:])(nn.MaxPool2d(2)(y))  # type: ignore[no-any-return]


def gated(m: Any, x: Tensor) -> Tensor:
    return x * nn.Sigmoid()(nn.Flatten()(nn.AdaptiveAvgPool2d(1)(m.b(x))))[..., None, None]  # type: ignore[no-any-return]


def sliced(m: Any, x: Tensor) -> Tensor:
    return m.b[1:](m.b[:1](x))  # type: ignore[no-any-return]


def in_a_new_sequence(m: Any, x: Tensor) -> Tensor:
    return nn.Sequential(*list(m.b)[:2], nn.Tanh())(x)  # type: ignore[no-any-return]


def remembered(m: Any, x: Tensor) -> Tensor:
    y = m.b(x)
    y.skip, y.scale = x, 2.0
    return (y.skip + y) * y.scale if hasattr(y, "skip") and not hasattr(x, "skip") else x


def limited(m: Any, x: Tensor) -> Tensor:
    return m.b(x).clamp(min=torch.finfo(x.dtype).min, max=torch.finfo(x.dtype).max / torch.iinfo(torch.int8).max)  # type: ignore[no-any-return]


def sized_by_data(m: Any, x: Tensor) -> Tensor:
    return m.b(x).view(x.data.size()).reshape(x.detach().shape)  # type: ignore[no-any-return]


def filled_by_a_tensor(m: Any, x: Tensor) -> Tensor:
    half = torch.tensor(0.5)
    return m.b(x) * torch.full((x.shape[-1],), half, dtype=x.dtype) + x.new_full((x.shape[-1],), half)  # type: ignore[no-any-return]


FREE = (
    *(activations, padded_and_pooled, gated, sliced, in_a_new_sequence),
    *(remembered, limited, sized_by_data, filled_by_a_tensor),
)


@pytest.mark.parametrize("between", FREE, ids=lambda between: between.__name__)
def test_the_function_is_kept_and_channels_move(between: Any) -> None:
    result = assert_kept(Joined(between))
    assert result.changed and not result.before.uncounted
    assert {pin.reason for pin in result.before.pins} <= {
        "the network's output",
        "meets the tensor that new_full makes",
    }


def test_modules_of_a_model_in_a_new_container_have_their_paths() -> None:
    nodes = nrfx.trace(Joined(sliced), torch.zeros(1, 3, 8, 8)).graph.nodes
    assert [str(node.target) for node in nodes if str(node.target).startswith("b.")] == ["b.0", "b.1", "b.2"]


def test_a_submodule_in_data_parallel_is_looked_through() -> None:
    result = assert_kept(
        nn.Sequential(nn.DataParallel(nn.Sequential(zoo.cbr(3, 8), zoo.cbr(8, 8))), nn.Conv2d(8, 4, 1))
    )
    assert result.changed and len(result.removed) == 2


def test_a_module_with_parameters_that_is_not_registered_is_refused() -> None:
    hidden = [nn.Conv2d(8, 8, 1)]
    with pytest.raises(nrfx.TraceError, match="calls a module that is not registered"):
        nrfx.trace(Joined(lambda m, x: hidden[0](x)), torch.zeros(1, 3, 8, 8))
    statistics = [nn.BatchNorm2d(8, affine=False)]
    with pytest.raises(nrfx.TraceError, match="calls a module that is not registered"):
        nrfx.trace(Joined(lambda m, x: statistics[0](x)), torch.zeros(1, 3, 8, 8))


def test_the_limits_of_a_dtype_follow_the_graph() -> None:
    gm = nrfx.trace(nn.Sequential(Joined(lambda m, x: x + torch.finfo(x.dtype).eps)).eval(), torch.zeros(1, 3, 8, 8))
    model = Joined(lambda m, x: x + torch.finfo(x.dtype).eps).eval().double()
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(gm.double()(x), model(x))


@pytest.mark.parametrize("name", ["data", "grad", "tracer", "node"])
def test_attributes_that_mean_something_are_not_set(name: str) -> None:
    def between(m: Any, x: Tensor) -> Tensor:
        y = m.b(x)
        setattr(y, name, y * 2)
        return y  # type: ignore[no-any-return]

    with pytest.raises(nrfx.TraceError, match=f"sets the attribute {name} of b_2"):
        nrfx.trace(Joined(between), torch.zeros(1, 3, 8, 8))


def test_gradients_that_a_forward_asks_for_are_recorded() -> None:
    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = Joined(lambda m, x: m.b(x))

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                x.requires_grad = True
            return self.layers(x)  # type: ignore[no-any-return]

    gm = nrfx.trace(Asking(), torch.zeros(1, 3, 8, 8))
    images = [torch.ones(1, 3, 8, 8), torch.ones(1, 3, 8, 8)]
    for network, x in zip((Asking(), gm), images, strict=True):
        network.train()(x).square().sum().backward()
    assert images[0].grad is not None and torch.equal(images[0].grad, images[1].grad)  # type: ignore[arg-type]
    assert [pin.reason for pin in nrfx.utilization(gm).pins if "output" not in pin.reason] == []


@pytest.mark.parametrize(
    "between", [lambda m, x: x * torch.from_numpy(x.detach().numpy()), lambda m, x: m.b(x) * np.exp(x)]
)
def test_values_that_numpy_wants_are_refused(between: Any) -> None:
    with pytest.raises(nrfx.TraceError, match="gives a traced tensor to numpy"):
        nrfx.trace(Joined(between), torch.zeros(1, 3, 8, 8))
