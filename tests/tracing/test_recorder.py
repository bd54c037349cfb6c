"""Tracing what real models do: wrapped functions, sizes as numbers, changes in place."""

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.layers import BatchNormAct2d
from torch import Tensor, fx, nn
from torch.fx._symbolic_trace import _wrapped_fns_to_patch
from torchvision.models.swin_transformer import SwinTransformer, SwinTransformerBlockV2
from torchvision.models.video.swin_transformer import SwinTransformer3d

from nrfx.errors import TraceError
from nrfx.tracing import trace
from tests.tracing import test_capture
from tests.tracing.test_capture import Function, assert_behaves_like


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
    patched = torch.arange, torch.autocast.__init__, torch.autocast.__enter__, vars(test_capture).get("isinstance")
    gm = trace(Function(lambda m, x: x + torch.arange(x.size(1))), torch.zeros(2, 4))
    with pytest.raises(TraceError):
        trace(Function(lambda m, x: x if x.sum() > 0 else -x), torch.zeros(2, 4))
    gm.recompile()
    trace(nn.Sequential(nn.Sequential(gm)), torch.zeros(2, 4))
    assert before == _wrapped_fns_to_patch
    now = torch.arange, torch.autocast.__init__, torch.autocast.__enter__, vars(test_capture).get("isinstance")
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


@pytest.mark.parametrize("forward", [steps, ramp])
def test_a_size_that_python_wants_plain_is_a_constant_which_the_graph_checks(forward: Callable[..., Any]) -> None:
    model = Function(forward)
    gm = trace(model, torch.zeros(2, 4))
    for rows in (2, 3):
        assert_behaves_like(gm, model, torch.randn(rows, 4))
    with pytest.raises(AssertionError, match=r"must be 4, as in the inputs that the model was traced on"):
        gm(torch.zeros(2, 5))


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
