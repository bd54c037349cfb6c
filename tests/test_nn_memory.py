"""Right calls of the cross layers with tensors that lie in memory in odd ways, against float64, in every way."""

import copy

import pytest
import torch
from torch import Tensor, nn

from nrfx.nn import Cross, CrossConv2d, CrossLinear, implementation, native
from nrfx.nn import implementations as chosen
from nrfx.nn.attention import Form
from nrfx.nn.fused import Attend
from tests.test_nn_mistakes import CASES, FAST, WAYS, inputs


def truth(layer: Cross, x: Tensor, grad: Tensor) -> list[Tensor]:
    layer = copy.deepcopy(layer).double()
    with implementation("reference"):
        return numbers(layer, x.double(), grad.double())


def numbers(layer: Cross, x: Tensor, grad: Tensor) -> list[Tensor]:
    """The output, and the gradients of x and the parameters."""
    x = x.detach().requires_grad_()
    out = layer(x)
    return [out, *torch.autograd.grad(out, [x, *layer.parameters()], grad)]


def same(layer: Cross, x: Tensor, way: str, grad: Tensor | None = None) -> None:
    """Compares one way with float64, relative to the largest number of each tensor."""
    with torch.no_grad(), implementation("reference"):
        grad = torch.randn_like(layer(x), memory_format=torch.contiguous_format) if grad is None else grad
    with implementation(way):
        found = numbers(layer, x, grad)
    for mine, expected in zip(found, truth(layer, x, grad), strict=True):
        assert mine.shape == expected.shape
        assert (mine - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1e-3), way


def negative(x: Tensor) -> Tensor:
    """x as a view that torch negates when it reads it: the memory holds -x."""
    return torch._neg_view(-x)


def imaginary(x: Tensor) -> Tensor:
    """x as the imaginary part of a conjugate: strided, and negated when it is read."""
    return torch.complex(torch.zeros_like(x), -x).conj().imag


def strided(x: Tensor) -> Tensor:
    return torch.stack([x, torch.full_like(x, torch.nan)], -1)[..., 0]


def expanded(x: Tensor) -> Tensor:
    return x.flatten()[0].expand(x.shape)


def reversed_dims(x: Tensor) -> Tensor:
    return x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim())))


def askew(x: Tensor) -> Tensor:
    """x at an address that no float has."""
    memory = torch.zeros(4 * x.numel() + 1, dtype=torch.uint8).numpy().data
    moved = torch.frombuffer(memory, dtype=torch.float32, offset=1, count=x.numel()).view(x.shape)
    assert moved.data_ptr() % 4
    return moved.copy_(x)


ODD = {f.__name__: f for f in (negative, imaginary, strided, expanded, reversed_dims, askew)}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize("way", FAST)
@pytest.mark.parametrize("case", CASES)
def test_inputs_parameters_and_gradients_may_lie_in_memory_as_they_like(case: str, way: str, odd) -> None:
    cross, _, shape = CASES[case]
    layer = cross()
    nn.init.normal_(layer.bias)
    x = torch.randn(shape)
    same(layer, odd(x), way)
    with torch.no_grad():
        out = torch.randn_like(layer(x))
    same(layer, x, way, odd(out))
    for name in ("weight", "bias"):
        other = copy.deepcopy(layer)
        value = odd(other.get_parameter(name).detach())
        setattr(other, name, nn.Parameter(value))
        assert other.get_parameter(name).stride() == value.stride()
        same(other, x, way)


@pytest.mark.parametrize("way", FAST)
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_another_dtype_and_expanded_ones_of_a_sum(case: str, way: str) -> None:
    cross, _, shape = CASES[case]
    layer, x = cross(), torch.randn(shape)
    with torch.no_grad():
        out = layer(x)
    same(layer, x, way, torch.randn_like(out).double())
    with implementation(way):
        (found,) = torch.autograd.grad(layer(x.requires_grad_()).sum(), x)
    expected = truth(layer, x, torch.ones_like(out))[1]
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("way", WAYS)
def test_no_batch_and_an_empty_batch_are_what_they_are_for_nn(way: str) -> None:
    for cross, dense, shape in CASES.values():
        layer = cross()
        for x in (torch.randn(shape[1:]), torch.randn(0, *shape[1:])):
            with implementation(way):
                assert layer(x).shape == dense()(x).shape
        same(layer, torch.randn(shape[1:]), way)


@pytest.mark.parametrize("way", FAST)
def test_who_keeps_the_saved_tensors_may_change_their_layout_but_not_their_dtype(way: str) -> None:
    layer, x = CrossConv2d((32, 32), (32, 33), 3, padding=1), next(iter([*inputs((4, 64, 24, 24))][1:]))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.contiguous().clone(), lambda t: t):
        same(layer, x, way)
    with (
        implementation(way),
        torch.autograd.graph.saved_tensors_hooks(Tensor.double, lambda t: t),
        pytest.raises(RuntimeError, match=r"float64|Double|double"),
    ):
        numbers(layer, x, torch.ones(4, 65, 24, 24))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by torch's own forward mode
@pytest.mark.parametrize("way", FAST)
@pytest.mark.parametrize("case", CASES)
def test_transforms_of_what_lies_behind_a_layer_and_batched_gradients(case: str, way: str) -> None:
    """There the layer's own tensors are plain, and the transform is on all the same."""
    cross, _, shape = CASES[case]
    layer, x, scale = cross(), torch.randn(shape, requires_grad=True), torch.tensor(2.0)
    with implementation(way):
        out = layer(x)
        slope = torch.func.grad(lambda s: (layer(x) * s).sum())(scale)
        each = torch.func.vmap(lambda s: (layer(x) * s).sum())(torch.stack([scale, scale]))
        forward = torch.func.jvp(lambda s: (layer(x) * s).sum(), (scale,), (scale,))[1]
        bias = torch.func.grad(lambda b: torch.func.functional_call(layer, {"bias": b}, x).sum())(layer.bias)
        grads = torch.randn(2, *out.shape)
        batched = torch.autograd.grad(out, [x, layer.weight], grads, is_grads_batched=True, retain_graph=True)
        single = [torch.autograd.grad(out, [x, layer.weight], grad, retain_graph=True) for grad in grads]
    tolerance = {"rtol": 1e-3, "atol": 1e-3 * out.abs().sum().item()}
    torch.testing.assert_close(slope, out.sum(), **tolerance)
    torch.testing.assert_close(each, torch.stack([2 * out.sum()] * 2), **tolerance)
    torch.testing.assert_close(forward, 2 * out.sum(), **tolerance)
    torch.testing.assert_close(bias, torch.full_like(bias, out[:, 0].numel()))
    for found, expected in zip(batched, zip(*single, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-3, atol=1e-2)


def test_integers_under_autocast_are_refused_as_by_nn() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        for layer in (CrossLinear((64, 64), (64, 65)), nn.Linear(128, 129)):
            with pytest.raises(RuntimeError, match="dtype"):
                layer(torch.ones(512, 128).long())


def test_maps_that_lie_differently_meet_in_one_layout() -> None:
    form = Form(((0, 3), (1, 4)), (3, 2), (1, 1), (1, 1), (0, 0), (1, 1))
    ys = [torch.randn(2, 5, 6, 7), torch.randn(2, 5, 6, 7).to(memory_format=torch.channels_last)]
    expected = chosen.attend(ys, form)
    for maps in (ys, ys[::-1]):
        found = Attend.apply(native, form, *maps)
        torch.testing.assert_close(found, expected if maps is ys else chosen.attend(maps, form))


def test_a_kernel_that_reaches_farther_than_the_map_is_left_to_others() -> None:
    """Its scratch space would grow with the reach: beyond what 64 bits can count."""
    layer = CrossConv2d((8, 8), (8, 8), 3, padding=2**31, dilation=2**31)
    with implementation("direct"):
        assert chosen.choice(torch.randn(2, 16, 9, 9), layer.weight, layer.form) == "attend"
    layer = CrossConv2d((8, 8), (8, 8), 3, padding=9, dilation=9)
    same(layer, torch.randn(2, 16, 18, 18), "direct")
    same(layer, torch.randn(2, 16, 17, 17), "direct")
