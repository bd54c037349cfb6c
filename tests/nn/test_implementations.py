"""Every implementation of the attention against plain operations in float64, on shapes that hypothesis draws."""

import copy
import pickle
import subprocess
import sys
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nrfx.errors import RewriteError
from nrfx.nn import Cross, CrossConv1d, CrossConv2d, CrossConv3d, CrossLinear, implementation
from nrfx.nn import implementations as chosen
from nrfx.nn.library import forget, library

LAYERS = (CrossLinear, CrossConv1d, CrossConv2d, CrossConv3d)  # by the number of spatial dims
FAST = ("attend", "direct")


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    """The tests of this file are about compiled kernels: without a C compiler they would only repeat the reference."""
    assert library() is not None, "the tests of the kernels need a C compiler"


def results(layer: nn.Module, x: Tensor, grad: Tensor, name: str) -> list[Tensor]:
    """The output and the gradients of x and of all parameters, by one implementation."""
    x = x.detach().requires_grad_()
    with implementation(name):
        out = layer(x)
    return [out, *torch.autograd.grad(out, [x, *layer.parameters()], grad.to(out.dtype))]


def agree(layer: nn.Module, x: Tensor, name: str, tolerance: float = 1e-5) -> list[Tensor]:
    """Compares one implementation with float64, relative to the largest number of each tensor."""
    with torch.no_grad(), implementation("reference"):
        grad = torch.randn_like(layer(x), memory_format=torch.contiguous_format)
    expected = results(copy.deepcopy(layer).double(), x.double(), grad.double(), "reference")
    found = results(layer, x, grad, name)
    for mine, truth in zip(found, expected, strict=True):
        assert mine.shape == truth.shape
        assert (mine - truth).abs().max() <= tolerance * truth.abs().max().clamp(min=1e-3), name
    return found


@st.composite
def cases(draw: st.DrawFn) -> tuple[Cross, Tensor]:
    """A layer of any kind and an input: odd sizes, batch 1 or none, absent generations, any order, any memory."""
    spatial, count = draw(st.integers(0, 3)), draw(st.integers(1, 4))
    widths = st.sampled_from((0, 1, 3, 5, 17, 34))
    ins = [draw(widths) for _ in range(count)]
    outs = [draw(widths) for _ in range(count)]
    ins[draw(st.integers(0, count - 1))] += draw(st.integers(1, 70))
    outs[draw(st.integers(0, count - 1))] += draw(st.integers(1, 70))
    runs = [(generation, width) for generation, width in enumerate(ins) if width]
    if draw(st.booleans()):
        runs = draw(st.permutations([(g, part) for g, w in runs for part in (w // 2, w - w // 2) if part]))
    torch.manual_seed(draw(st.integers(0, 99)))
    options = {"bias": draw(st.booleans()), "in_runs": runs}
    sizes = [draw(st.integers(5, 14 if spatial < 3 else 6)) for _ in range(spatial)]
    if spatial:
        options |= {
            "kernel_size": [draw(st.integers(1, 3)) for _ in range(spatial)] if draw(st.booleans()) else 1,
            "stride": draw(st.sampled_from((1, 1, 1, 2))),
            "padding": draw(st.integers(0, 2)),
            "dilation": draw(st.sampled_from((1, 1, 2))),
        }
    layer = LAYERS[spatial](ins, outs, **options)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    shape = draw(st.sampled_from(([], [1], [2], [3]))) if spatial else draw(st.sampled_from(([1], [30], [4, 7])))
    x = torch.randn([*shape, *sizes, sum(ins)])
    if spatial:
        x = x.movedim(-1, len(shape)) if draw(st.booleans()) else x.movedim(-1, len(shape)).contiguous()
    if draw(st.booleans()):
        x = torch.cat([x, x], -1)[..., ::2] if spatial else x.expand(2, *x.shape)
    return layer, x


# What must not happen


def test_an_implementation_that_does_not_exist_is_refused() -> None:
    with pytest.raises(RewriteError, match=r"'fast'.*'auto', 'reference', 'attend', 'direct'"), implementation("fast"):
        pass


def test_small_layers_and_the_import_compile_nothing() -> None:
    code = (
        "import torch; from nrfx.nn import CrossConv2d, library;"
        "CrossConv2d((6, 4), (5, 3), 3)(torch.randn(2, 10, 9, 9)).sum().backward();"
        "assert library._loaded_once.cache_info().currsize == 0;"
        "import sys; assert 'nrfx.nn.triton_kernels' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_a_compiler_plain_operations_do_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NRFX_NATIVE", "0")
    forget()
    try:
        assert library() is None
        layer, x = CrossConv2d((6, 4), (5, 3), 3), torch.randn(2, 10, 9, 9)
        for name in FAST:
            with implementation(name):
                out = layer(x)
            assert torch.equal(out, chosen.attention(x, layer.weight, layer.form) + layer.bias[:, None, None])
    finally:
        forget()


# The law


@settings(max_examples=120, deadline=None, derandomize=True)
@given(case=cases(), name=st.sampled_from(FAST))
def test_every_implementation_agrees_with_float64(case: tuple[Cross, Tensor], name: str) -> None:
    layer, x = case
    with torch.no_grad(), implementation("reference"):
        try:
            empty = not layer(x).numel()
        except RuntimeError:  # the kernel is larger than the padded input
            return
    if not empty:
        agree(layer, x, name)


WIDE = [
    (partial(CrossConv2d, kernel_size=3, padding=1, bias=False), (2, 96, 9, 11)),
    (partial(CrossConv2d, kernel_size=(3, 1), padding="same"), (1, 96, 7, 12)),
    (partial(CrossConv2d, kernel_size=3, padding=2, dilation=2), (2, 96, 8, 8)),
    (partial(CrossConv2d, kernel_size=1), (2, 96, 7, 7)),
    (partial(CrossConv2d, kernel_size=1, stride=2, bias=False), (2, 96, 13, 13)),
    (partial(CrossConv1d, kernel_size=3, padding=1), (2, 96, 40)),
    (partial(CrossConv3d, kernel_size=1), (2, 96, 2, 4, 6)),
    (CrossLinear, (3, 16, 96)),
]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("kind", "shape"), WIDE)
def test_the_direct_kernels_take_what_they_are_made_for(kind, shape, last, monkeypatch) -> None:
    """And give what they should: blocks of 64 channels, of two generations each, and what is left over."""
    layer = kind((58, 38), (61, 47))
    x = torch.randn(shape)
    if last and layer.channel_dim < -1:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    calls = []
    apply = chosen.DirectConvolution.apply
    monkeypatch.setattr(chosen.DirectConvolution, "apply", lambda *given: calls.append(given) or apply(*given))
    out, *_ = agree(layer, x, "direct")
    assert len(calls) == 1
    if last and x.dim() == 4:
        assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_share_the_work_and_not_the_sums(threads: int) -> None:
    torch.set_num_threads(threads)
    layer = CrossConv2d((5, 4), (6, 3), 3, padding=1, bias=False)
    x = torch.randn(5, 9, 20, 20)
    for name in FAST:
        first = agree(layer, x, name)
        again = results(layer, x, torch.ones_like(first[0]), name), results(layer, x, torch.ones_like(first[0]), name)
        assert all(torch.equal(a, b) for a, b in zip(*again, strict=True)), "the same call gives the same numbers"


@pytest.mark.parametrize("name", FAST)
def test_large_numbers_do_not_overflow_the_gate(name: str) -> None:
    layer = CrossConv2d((3, 2), (2, 3), 1, bias=False)
    x = torch.tensor([-1e4, -90, -1, 0, 1, 90, 1e4]).repeat(1, 5, 2, 1)
    agree(layer, x, name)
    x[0, 0, 0, 0] = torch.nan
    with implementation(name):
        assert layer(x)[0, :, 0, 0].isnan().all()


# Where it has to run


@pytest.mark.parametrize("name", FAST)
def test_bfloat16_and_autocast_agree_with_float64(name: str) -> None:
    layer = CrossConv2d((40, 24), (36, 30), 3, padding=1)
    x = torch.randn(2, 64, 10, 10)
    with torch.autocast("cpu", torch.bfloat16):
        out, *_ = agree(layer, x, name, 2e-2)
    assert out.dtype == torch.bfloat16
    agree(layer.bfloat16(), x.bfloat16(), name, 2e-2)


@pytest.mark.parametrize("name", FAST)
def test_a_gradient_can_be_differentiated(name: str) -> None:
    layer = CrossConv2d((3, 3), (2, 2), 1, bias=False)
    x = torch.randn(1, 6, 4, 4, requires_grad=True)

    def penalty(which: str) -> Tensor:
        with implementation(which):
            (slope,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        return torch.cat([g.flatten() for g in torch.autograd.grad(slope.square().sum(), [x, layer.weight])])

    torch.testing.assert_close(penalty(name), penalty("reference"))


@pytest.mark.parametrize("name", FAST)
def test_shapes_alone_go_through_the_layers(name: str) -> None:
    layer = CrossConv2d((6, 4), (5, 3), 3, device="meta")
    with implementation(name):
        assert layer(torch.empty(2, 10, 5, 5, device="meta")).shape == (2, 8, 3, 3)


@pytest.mark.parametrize("name", FAST)
def test_finite_differences_agree_with_the_kernels(name: str) -> None:
    """In float32, so the differences are coarse; the law above is the sharper check."""
    layer = CrossConv2d((5, 3), (4, 3), 3, padding=1, bias=False)
    x = torch.randn(1, 8, 5, 5, requires_grad=True)
    direction = torch.randn_like(x)
    weights = torch.randn(1, 7, 5, 5)
    with implementation(name):
        (slope,) = torch.autograd.grad((layer(x) * weights).sum(), x)
        near = [(layer(x + step * direction) * weights).sum().item() for step in (-0.01, 0.01)]
    assert (slope * direction).sum().item() == pytest.approx((near[1] - near[0]) / 0.02, rel=1e-2)


@pytest.mark.parametrize("name", FAST)
def test_copies_pickles_frozen_parts_and_no_grad(name: str) -> None:
    layer = CrossConv2d((40, 24), (36, 30), 1)
    x = torch.randn(2, 64, 8, 8)
    with implementation(name):
        expected = layer(x)
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert torch.equal(other(x), expected)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), expected)
        layer.weight.requires_grad_(False)
        layer(x).sum().backward()
        assert layer.weight.grad is None
        assert layer.bias.grad is not None
        torch.testing.assert_close(layer(x.requires_grad_()), expected)
        layer(x).sum().backward()
        assert x.grad is not None


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by torch's own forward mode
@pytest.mark.parametrize("name", FAST)
def test_transforms_and_forward_mode_see_plain_operations(name: str) -> None:
    layer = CrossConv2d((6, 4), (5, 3), 1)
    x, direction = torch.randn(2, 10, 4, 4), torch.randn(2, 10, 4, 4)
    with implementation(name):
        _, slope = torch.func.jvp(layer, (x,), (direction,))
        each = torch.func.vmap(layer)(x[:, None])
        (gradient,) = torch.func.grad(lambda x: layer(x).sum(), argnums=(0,))(x)
    step = 1e-3 * direction
    torch.testing.assert_close(slope, (layer(x + step) - layer(x - step)) / 2e-3, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(each[:, 0], layer(x))
    (expected,) = torch.autograd.grad(layer(x.requires_grad_()).sum(), x)
    torch.testing.assert_close(gradient, expected)


def test_a_fresh_layer_compiles_as_one_graph() -> None:
    """One that nothing has called before: what it derives is there from the start."""
    torch._dynamo.reset()
    layer, x = CrossConv2d((6, 4), (5, 3), 3, padding="same"), torch.randn(2, 10, 5, 5)
    compiled = torch.compile(copy.deepcopy(layer), backend="aot_eager", fullgraph=True)
    for found, expected in zip(*[torch.autograd.grad(f(x).sum(), f.weight) for f in (compiled, layer)], strict=True):
        torch.testing.assert_close(found, expected)


def test_who_watches_a_call_never_comes_to_the_context_that_older_compilers_cannot_follow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chosen, "_wanted", None)
    layer, x = CrossConv2d((2, 1), (3, 2), 1), torch.randn(1, 3, 4, 4)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() > 0
    with pytest.raises(AttributeError):
        layer(x)


def test_a_symbolic_trace_goes_through_the_layers() -> None:
    for scheme in ("attention", "removed"):
        layer, x = (
            CrossConv2d((6, 4), (5, 3), 3, in_runs=((0, 2), (1, 4), (0, 4)), scheme=scheme),
            torch.randn(2, 10, 5, 5),
        )
        torch.testing.assert_close(torch.fx.symbolic_trace(layer)(x), layer(x))


def test_deterministic_algorithms_are_no_obstacle() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        for name in FAST:
            agree(CrossConv2d((40, 24), (36, 30), 3, padding=1), torch.randn(2, 64, 8, 8), name)
    finally:
        torch.use_deterministic_algorithms(False)


def test_equal_generations_without_cross_connections_are_one_grouped_convolution() -> None:
    """Which torch counts and runs as such."""
    layer = CrossConv2d((8, 8), (6, 6), 3, padding=1, scheme="removed")
    grouped = nn.Conv2d(16, 12, 3, padding=1, groups=2)
    with torch.no_grad():
        grouped.weight.copy_(torch.cat(list(layer.weights.values())))
        grouped.bias.copy_(nn.init.normal_(layer.bias))
    x = torch.randn(2, 16, 9, 9)
    torch.testing.assert_close(layer(x), grouped(x))
    calls = [node for node in torch.fx.symbolic_trace(layer).graph.nodes if "conv" in str(node.target)]
    assert [node.args[-1] for node in calls] == [2]


def test_kernels_of_one_in_bfloat16_take_plain_operations_unless_channels_come_last() -> None:
    layer = CrossConv2d((32, 32), (32, 32), 1, device="meta").to_empty(device="cpu").bfloat16()
    x = torch.zeros(4, 64, 32, 32, dtype=torch.bfloat16)
    assert chosen.choice(x, layer.weight, layer.form) == "reference"
    assert chosen.choice(x.contiguous(memory_format=torch.channels_last), layer.weight, layer.form) == "attend"
    with implementation("attend"):
        assert chosen.choice(x, layer.weight, layer.form) == "attend"


def test_few_positions_take_contractions() -> None:
    layer = CrossConv2d((256, 256), (256, 256), 1)
    for side, way in ((8, "reference"), (16, "direct")):
        assert chosen.choice(torch.zeros(1, 512, side, side), layer.weight, layer.form) == way
