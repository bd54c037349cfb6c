"""Tracing what real models do: wrapped functions, sizes as numbers, changes in place."""

import copy
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import BatchNormAct2d
from torch import Tensor, fx, nn
from torch.fx._symbolic_trace import _wrapped_fns_to_patch
from torchvision.models.swin_transformer import SwinTransformer, SwinTransformerBlockV2
from torchvision.models.video.swin_transformer import SwinTransformer3d

import nrfx
from nrfx.errors import SizeError, TraceError
from nrfx.tracing import trace
from nrfx.tracing.graph.guards import is_guard
from tests.tracing.models import Function, FunctionalDropout, assert_behaves_like


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    random.seed(0)


def swin(**options: Any) -> nn.Module:
    return SwinTransformer([4, 4], 8, [2, 2], [2, 4], [4, 4], num_classes=3, stochastic_depth_prob=0.5, **options)


def swin3d() -> nn.Module:
    return SwinTransformer3d([2, 4, 4], 8, [2, 2], [2, 4], [2, 4, 4], num_classes=3, stochastic_depth_prob=0.5)


def mvit() -> nn.Module:
    settings = torchvision.models.video.mvit.MSBlockConfig
    kinds = ((2, 8, 16, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 2, 2]), (2, 16, 16, [], [3, 3, 3], [], [1, 1, 1]))
    return torchvision.models.video.MViT(
        (32, 32),
        8,
        [settings(*kind) for kind in kinds],
        num_classes=3,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        stochastic_depth_prob=0.5,
    )


def maxvit() -> nn.Module:
    return torchvision.models.MaxVit((64, 64), 8, 2, [16, 16], [1, 1], 8, 0.5, num_classes=3)


WRAPPED = {
    "swin": (swin, (2, 3, 36, 36)),
    "swin v2": (lambda: swin(block=SwinTransformerBlockV2), (2, 3, 36, 36)),
    "swin3d": (swin3d, (1, 3, 8, 36, 36)),
    "mvit": (mvit, (2, 3, 8, 32, 32)),
    "maxvit": (maxvit, (2, 3, 64, 64)),
}


def functions(graph: fx.Graph) -> set[str]:
    calls = [node.target for node in graph.nodes if node.op == "call_function"]
    return {f"{call.__module__}.{call.__name__}" for call in calls}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_functions_of_torchvision_are_traced_into(name: str) -> None:
    build, shape = WRAPPED[name]
    model = build()
    gm = trace(model, torch.zeros(shape))
    assert not [call for call in functions(gm.graph) if call.startswith("torchvision.models")]
    for module in (gm, copy.deepcopy(gm)):
        assert_behaves_like(module, model, torch.randn(shape))
    other = torch.randn(3, *shape[1:])
    assert torch.equal(gm.eval()(other), model.eval()(other))


TIMM = ("test_vit", "test_byobnet", "tf_mobilenetv3_small_minimal_100")


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.filterwarnings("ignore")
def test_networks_of_timm_are_traced(name: str) -> None:
    """Padding that depends on sizes ("same"), asserted sizes, norms with an activation of their own."""
    options = {"img_size": 64} if name == "test_vit" else {}
    model = timm.create_model(name, num_classes=3, **options)
    for side in (64, 64 if options else 96):
        assert_behaves_like(trace(model, torch.zeros(2, 3, 64, 64)), model, torch.randn(2, 3, side, side))


@fx.wrap
def opaque(x: Tensor, times: list[int]) -> Tensor:
    times[0] += 1
    return x * times[0]


def test_wrapped_functions_of_others_stay_one_call() -> None:
    model = Function(lambda m, x: opaque(x, [2]))
    gm = trace(model, torch.zeros(2, 4))
    assert [node.target.__name__ for node in gm.graph.nodes if node.op == "call_function"] == ["opaque"]
    assert_behaves_like(gm, model, torch.randn(2, 4))


def test_what_is_patched_while_recording_is_as_it_was_also_after_a_failure() -> None:
    before = dict(_wrapped_fns_to_patch)
    patched = torch.arange, torch.autocast.__init__, torch.autocast.__enter__, torch.is_grad_enabled
    gm = trace(Function(lambda m, x: x + torch.arange(x.size(1))), torch.zeros(2, 4))
    with pytest.raises(TraceError):
        trace(Function(lambda m, x: x if x.sum() > 0 else -x), torch.zeros(2, 4))
    gm.recompile()
    trace(nn.Sequential(nn.Sequential(gm)), torch.zeros(2, 4))
    assert before == _wrapped_fns_to_patch
    now = torch.arange, torch.autocast.__init__, torch.autocast.__enter__, torch.is_grad_enabled
    assert now == patched


# Sizes as numbers


def steps(m: nn.Module, x: Tensor) -> Tensor:
    total = x.new_zeros(x.size(0))
    for step in range(x.size(1)):
        total = total + x[:, step] * step
    return total


def ramp(m: nn.Module, x: Tensor) -> Tensor:
    count = int(x.shape[1])
    return x + torch.arange(x.shape[1]) * torch.full((1, count), float(x.shape[1])) * len(x.shape)


def test_a_size_that_python_wants_plain_is_a_constant_which_the_graph_checks() -> None:
    model = Function(steps)
    gm = trace(model, torch.zeros(2, 4))
    for rows in (2, 3):
        assert_behaves_like(gm, model, torch.randn(rows, 4))
    with pytest.raises(SizeError, match=r"test_recorder\.py:\d+, in steps .*shapes \[2, 4\], met 4, .*give 5"):
        gm(torch.zeros(2, 5))


def test_int_float_and_len_of_a_size_stay_symbolic() -> None:
    model = Function(ramp)
    gm = trace(model, torch.zeros(2, 4))
    for shape in ((2, 4), (3, 4), (2, 7)):
        assert_behaves_like(gm, model, torch.randn(shape))


def test_a_tensor_is_no_number() -> None:
    for forward in (lambda m, x: x * int(x.sum()), lambda m, x: x * float(x[0, 0]), lambda m, x: [1, 2][x[0, 0]]):
        with pytest.raises(TraceError, match=r"a traced tensor as a Python number"):
            trace(Function(forward), torch.zeros(2, 4))


def test_statistics_over_all_batches_are_traced_in_torchs_norms_and_named_in_those_of_others() -> None:
    def network(norm: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Flatten(), nn.Linear(16, 2))

    model = network(nn.BatchNorm2d(4, momentum=None))
    gm = trace(copy.deepcopy(model), torch.zeros(2, 3, 4, 4))
    for _ in range(3):
        assert_behaves_like(gm, model, torch.randn(2, 3, 4, 4))
    with pytest.raises(
        TraceError, match=r"1 \(BatchNormAct2d\) .*over all batches so far \(momentum=None\).*such as 0\.1"
    ):
        trace(network(BatchNormAct2d(4, momentum=None)), torch.zeros(2, 3, 4, 4))


def test_an_augmented_size_is_a_new_number() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        rows = x.size(0)
        more = rows
        more += 1
        more //= 1
        return x.view(rows, -1) * more

    assert_behaves_like(trace(Function(forward), torch.zeros(2, 4)), Function(forward), torch.randn(2, 4))


class TransposedConv3d(nn.Conv3d):
    """A subclass outside torch.nn with torch's own forward."""


class Standardized(nn.Conv2d):
    """A subclass that changes what torch's forward calls."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight - weight.mean((1, 2, 3), keepdim=True), bias)


# What is traced into, and what is recorded


def test_leaves_are_the_modules_whose_forward_is_torch_s_own() -> None:
    gm = trace(nn.Sequential(nn.Sequential(TransposedConv3d(3, 4, 3))), torch.zeros(1, 3, 5, 5, 5))
    assert [node.target for node in gm.graph.nodes if node.op == "call_module"] == ["0.0"]
    gm = trace(nn.Sequential(Standardized(3, 4, 3)), torch.zeros(1, 3, 5, 5))
    assert [node.op for node in gm.graph.nodes if node.op == "call_module"] == []
    parametrized = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)))
    gm = trace(parametrized, torch.zeros(1, 3, 5, 5))
    assert torch.nn.functional.conv2d in {node.target for node in gm.graph.nodes}
    assert torch.equal(gm(torch.ones(1, 3, 5, 5)), parametrized(torch.ones(1, 3, 5, 5)))


def test_parameters_and_buffers_that_a_forward_computes_with_are_nodes() -> None:
    model = Function(lambda m, x: x * (m.bn.weight + m.bn.running_mean), bn=nn.BatchNorm1d(4))
    gm = trace(model, torch.zeros(2, 4))
    assert {n.target for n in gm.graph.nodes if n.op == "get_attr"} == {"bn.weight", "bn.running_mean"}
    nn.init.constant_(model.bn.running_mean, 3.0)
    assert torch.equal(gm(torch.ones(2, 4)), torch.full((2, 4), 4.0))


def test_tensors_made_in_the_forward_are_kept_and_add_no_state() -> None:
    model = Function(lambda m, x: x + (torch.arange(4) if m.training else torch.arange(4) * 2))
    gm = trace(model, torch.zeros(2, 4))
    assert not gm.state_dict()
    for module in (gm, copy.deepcopy(gm)):
        assert_behaves_like(module, model, torch.randn(2, 4))


def test_an_if_on_sizes_is_decided_and_sizes_in_views_stay_symbolic() -> None:
    def pad_if_odd(m: nn.Module, x: Tensor) -> Tensor:
        rows, width = x.shape
        assert rows > 0
        x = F.pad(x, (0, 1)) if width % 2 else x
        return x.view(rows, -1, 2)

    def after_parameters_and_composite_leaves(m: nn.Module, x: Tensor) -> Tensor:
        return pad_if_odd(m, m.layer(x) + m.layer.norm1.weight)

    layer = nn.TransformerEncoderLayer(5, 1, 8, batch_first=True)
    gm = trace(Function(after_parameters_and_composite_leaves, layer=layer), torch.zeros(2, 5))
    assert gm(torch.zeros(7, 5)).shape == (7, 3, 2)
    gm = trace(Function(pad_if_odd), torch.zeros(2, 5))
    assert not [node for node in gm.graph.nodes if not (node.users or node.op == "output" or is_guard(node))]
    assert gm(torch.zeros(7, 5)).shape == (7, 3, 2)
    with pytest.raises(SizeError, match=r"`x = F\.pad.* met True, and these inputs give False"):
        gm(torch.zeros(7, 6))


def test_nodes_know_their_module_and_the_line_of_code() -> None:
    gm = trace(nn.Sequential(FunctionalDropout()), torch.zeros(3, 4))
    node = next(node for node in gm.graph.nodes if node.target is F.dropout)
    for module in (gm, copy.deepcopy(gm), pickle.loads(pickle.dumps(gm))):
        node = next(node for node in module.graph.nodes if node.target is F.dropout)
        assert list(node.meta["nn_module_stack"].values())[-1] == ("0", FunctionalDropout)
        assert "models.py" in node.meta["stack_trace"]
        assert "in forward" in node.meta["stack_trace"]


def test_arguments_beyond_the_example_inputs_take_their_defaults() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 2.0) -> Tensor:
            return x * scale if mask is None else x * mask

    assert torch.equal(trace(Masked(), torch.ones(2))(torch.ones(2)), torch.full((2,), 2.0))
    assert torch.equal(trace(Masked(), (torch.ones(2), torch.ones(2)))(torch.ones(2), torch.zeros(2)), torch.zeros(2))


def test_a_node_knows_its_line_in_torchvision_whose_folder_begins_like_torchs() -> None:
    gm = trace(torchvision.models.resnet18(), torch.zeros(1, 3, 32, 32))
    node = next(node for node in gm.graph.nodes if node.name == "layer1_0_conv2")
    assert "resnet.py" in node.meta["stack_trace"] and ", in forward" in node.meta["stack_trace"]


def test_the_limits_of_a_dtype_are_those_of_the_tensor_that_comes() -> None:
    def hidden(m: nn.Module, x: Tensor) -> Tensor:
        return x.masked_fill(x < 0, torch.finfo(x.dtype).min).clamp(max=torch.finfo(x.dtype).eps)

    gm = trace(Function(hidden), torch.zeros(2, 3))
    assert sum(node.target is torch.finfo for node in gm.graph.nodes) == 2
    for dtype in (torch.float32, torch.float16, torch.float64):
        x = torch.tensor([[-1.0, 1e-9, 1.0]], dtype=dtype)
        assert torch.equal(gm(x), hidden(gm, x))
    assert nrfx.utilization(gm).uncounted == ()


# Errors that a forward catches


def swallowing(forward: Callable[..., Any]) -> nn.Module:
    def caught(m: nn.Module, x: Tensor) -> Tensor:
        try:
            return forward(m, x)
        except Exception:
            return x

    return Function(caught)


@pytest.mark.parametrize(("forward", "message"), [
    (lambda m, x: x * int(x.sum()), "a traced tensor as a Python number"),
    (lambda m, x: x if x.sum() > 0 else -x, "depends on the values of a tensor"),
    (lambda m, x: x.__setattr__("data", x), "sets the attribute data"),
])  # fmt: skip
def test_what_cannot_be_recorded_is_refused_also_where_the_forward_catches_it(
    forward: Callable[..., Any], message: str
) -> None:
    with pytest.raises(TraceError, match=message):
        trace(swallowing(forward), torch.zeros(2, 4))


class Loud(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_the_error_names_the_line_that_asks_for_values_and_the_way_around_it() -> None:
    line = Loud.forward.__code__.co_firstlineno + 1
    said = rf"1 \(Loud\) cannot be traced: File .*test_recorder.py.*, line {line}, in forward: an `if`.*partial=True"
    with pytest.raises(TraceError, match=said):
        trace(nn.Sequential(nn.ReLU(), Loud()), torch.zeros(2, 4))
    assert trace(nn.Sequential(nn.ReLU(), Loud()), torch.zeros(2, 4), partial=True).facts.boxes == ("1",)


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def test_an_error_that_the_model_itself_gets_may_be_caught() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        for layer in m.layers:
            try:
                x = layer(x, lengths=None)
            except TypeError:
                x = layer(x)
        return x

    layers = nn.ModuleList([nn.Linear(4, 4), nn.ReLU(), Halved()])
    model = Function(forward, layers=layers)
    assert_behaves_like(trace(model, torch.zeros(2, 4)), model, torch.randn(2, 4))
    with pytest.raises(TraceError, match=r"unexpected keyword argument 'lengths'"):
        trace(Function(lambda m, x: m.layers[0](x, lengths=None), layers=layers), torch.zeros(2, 4))
