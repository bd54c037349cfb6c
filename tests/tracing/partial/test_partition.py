"""Tracing in parts: the model's own code runs, with graphs in the places of its largest traceable submodules."""

import copy
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import nrfx
from nrfx.errors import CheckpointError, TraceError, VerificationError
from nrfx.tracing import PartialModule, TracedModule, as_traced, trace


def unit(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width_in, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.5))


class Backbone(nn.Module):
    """Two maps of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = unit(3, 8), unit(8, 6)
        self.side, self.join = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        high = self.one(x)
        low = self.two(high)
        return OrderedDict(high=self.join(self.side(high)), low=self.join(low))


class Detector(nn.Module):
    """Takes a list of images; keeps as many positions as score above their mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.head = Backbone(), nn.Sequential(unit(6, 8), nn.Conv2d(8, 2, 1))
        self.scale = nn.Parameter(torch.ones(2))
        self.spare = nn.Linear(3, 3)

    def forward(self, images: list[Tensor], least: int = 1) -> list[Tensor]:
        boxes = []
        for features in self.backbone(torch.stack(images)).values():
            scores = self.head(features).flatten(2) * self.scale[:, None]
            kept = scores.mean((0, 1)) > scores.mean()
            if int(kept.sum()) >= least:
                boxes.append(scores[:, :, kept])
        return boxes


def images(count: int = 1, size: int = 20) -> list[Tensor]:
    generator = torch.Generator().manual_seed(size)
    return [torch.rand(3, size, size, generator=generator, dtype=torch.float64) for _ in range(count)]


def detector() -> Detector:
    """In float64, with half of the gammas of each norm at 0."""
    model = Detector().double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight[::2] = 0
                module.bias.uniform_(-0.5, 0.5)
    return model


def assert_same(model: nn.Module, gm: nn.Module, inputs: Any) -> None:
    for training in (False, True, False):
        torch.manual_seed(1)
        expected = copy.deepcopy(model).train(training)(inputs)
        torch.manual_seed(1)
        actual = copy.deepcopy(gm).train(training)(inputs)
        assert len(expected) == len(actual)
        assert all(torch.equal(a, b) for a, b in zip(expected, actual, strict=True))


def test_the_largest_parts_are_graphs_and_the_model_s_own_code_runs() -> None:
    model = detector()
    gm = trace(model, images(), partial=True)
    assert isinstance(gm, PartialModule)
    assert [part.path for part in gm.facts.parts] == ["backbone", "head", "head"]
    assert gm.graphs["train"] is gm.graphs["eval"]
    assert [node.target for node in gm.graph.nodes].count("head.0.0") == 2
    for inputs in (images(), images(2), images(1, 32)):
        assert_same(model, gm, inputs)


def test_all_parameters_are_the_model_s_own_and_count_once() -> None:
    model = detector()
    gm = trace(model, images(), partial=True)
    theirs = dict(model.named_parameters())
    assert {name: id(p) for name, p in gm.named_parameters()} == {name: id(p) for name, p in theirs.items()}
    assert list(gm.state_dict()) == list(model.state_dict())
    u = nrfx.utilization(gm)
    assert u.params.total == sum(parameter.numel() for parameter in theirs.values())
    assert any(
        line.startswith("spare (Linear): the run on the example inputs does not call it") for line in u.uncounted
    )
    assert any(line.startswith("The model (Detector):") for line in u.uncounted)


def test_flops_are_those_of_the_parts_in_one_run() -> None:
    model = detector()
    gm, count = trace(model, images(), partial=True), FlopCounterMode(display=False)
    with count, torch.no_grad():
        model(images())
    assert nrfx.utilization(gm).flops.total == count.get_total_flops() // 2


def test_tracing_in_parts_leaves_the_model_as_it_was() -> None:
    model = detector().train()
    state = copy.deepcopy(model.state_dict())
    attributes = {path: set(vars(module)) for path, module in model.named_modules()}
    random_state = torch.get_rng_state()
    trace(model, images(), partial=True)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(module.training for module in model.modules())
    assert {path: set(vars(module)) for path, module in model.named_modules()} == attributes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda gm: pickle.loads(pickle.dumps(gm))])
def test_copies_run_their_own_parts(copied: Any) -> None:
    model = detector()
    twin = copied(trace(model, images(), partial=True))
    assert isinstance(twin, PartialModule)
    assert_same(model, twin, images())
    with torch.no_grad():
        copy.deepcopy(twin).get_parameter("head.1.weight").zero_()
    assert_same(model, twin, images())
    twin.set_submodule("head.1", nn.Conv2d(8, 2, 1).double())
    assert not torch.equal(twin.eval()(images())[0], model(images())[0])


def test_it_is_the_graph_of_a_part_that_runs() -> None:
    model = detector()
    gm = trace(model, images(), partial=True).eval()
    relu = next(node for node in gm.graph.nodes if node.target == "head.0.2")
    relu.replace_all_uses_with(relu.args[0])
    gm.recompile()
    assert not torch.equal(gm(images())[0], model(images())[0])


@pytest.mark.parametrize("scheme", ["attention", "dense", "removed"])
def test_a_rewrite_of_the_parts_keeps_the_function_of_the_model(scheme: Any) -> None:
    gm = trace(detector(), images(), partial=True)
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme=scheme)
    assert result.changed
    assert isinstance(result.module, PartialModule)
    assert result.before.params.ratio < 0.8 < result.after.params.ratio
    assert nrfx.verify(gm, result, images(2)) < 1e-12
    before, after = gm.eval()(images()), result.module.eval()(images())
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(before, after, strict=True))
    sum(y.sum() for y in result.module.train()(images(2))).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for name, p in result.module.named_parameters() if not name.startswith("spare"))


def test_verify_sees_a_part_that_differs() -> None:
    gm = trace(detector(), images(), partial=True)
    result = nrfx.compact(gm)
    with torch.no_grad():
        result.module.get_parameter("head.1.weight").add_(1e-3)
    with pytest.raises(VerificationError, match=r"call 1, head"):
        nrfx.verify(gm, result, images())


def test_borders_are_pinned() -> None:
    result = nrfx.compact(trace(detector(), images(), partial=True))
    assert result.module.get_submodule("backbone.one.0").out_channels < 8
    assert result.module.get_submodule("head.0.0").in_channels == 6
    assert result.module.get_submodule("backbone.join").out_channels == 6


def test_a_rejuvenator_trains_a_model_in_parts_and_a_file_keeps_it(tmp_path: Path) -> None:
    gm = trace(detector(), images(), partial=True).train()
    optimizer = torch.optim.SGD(gm.parameters(), lr=0.01, momentum=0.9)
    nr = nrfx.Rejuvenator(gm, optimizer, nrfx.Budget.relative(gm, params=1.0), trigger=0.9, interval=2)
    events = []
    for _ in range(2):
        optimizer.zero_grad()
        sum(y.square().mean() for y in nr.module(images(2))).backward()  # type: ignore[union-attr]
        nr.penalize()
        optimizer.step()
        events.append(nr.step())
    assert type(events[1]).__name__ == "Event"
    nrfx.save(tmp_path / "parts.safetensors", nr.module, optimizer)
    with pytest.raises(CheckpointError, match=r"a network in parts \(backbone, head\).*fresh Detector with nrfx.trace"):
        nrfx.load(tmp_path / "parts.safetensors", detector())
    loaded = nrfx.load(tmp_path / "parts.safetensors", trace(detector(), images(), partial=True))
    assert_same(nr.module, loaded, images())


def test_a_model_that_can_be_traced_whole_is() -> None:
    gm = trace(Backbone(), torch.zeros(1, 3, 20, 20), partial=True)
    assert isinstance(gm, TracedModule)
    assert not isinstance(gm, PartialModule)
    partial = trace(detector(), images(), partial=True)
    assert as_traced(partial) is partial


class Reading(nn.Module):
    """Data-dependent; reads the weight of its first layer from outside."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body, self.last = nn.Sequential(*layers), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if float(y.detach().mean()) > 1e9:
            y = -y
        return self.last(y) + self.body[0].weight.sum() * self.body[0].weight.shape[0]


def test_a_part_whose_parameters_others_read_is_none() -> None:
    model, x = Reading(nn.Linear(4, 8), nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 4))).eval(), torch.randn(2, 4)
    gm = trace(model, x, partial=True)
    assert [part.path for part in gm.facts.parts] == ["body.1", "last"]
    assert any(line.startswith("body.0 (Linear): something outside of it reads") for line in gm.facts.outside)
    assert torch.equal(gm.eval()(x), model(x))


def test_nothing_to_trace_is_an_error_that_names_the_obstacles() -> None:
    with pytest.raises(
        TraceError, match=r"(?s)No part of Reading can be traced.*values of a tensor|a plain one|number"
    ):
        model = Reading(nn.Linear(4, 4))
        model.last.forward = lambda x: x * x.mean().item()  # type: ignore[method-assign]
        trace(model, torch.randn(2, 4), partial=True)
    with pytest.raises(TraceError, match=r"Detector does not run on the example inputs.*a tuple holds the arguments"):
        trace(Detector(), torch.zeros(1, 3, 8, 8), partial=True)


def test_a_part_that_is_called_otherwise_says_so() -> None:
    gm = trace(detector(), images(), partial=True).eval()
    with pytest.raises(TraceError, match=r"backbone is called with \(tensor, tensor\), and was traced with \(tensor\)"):
        gm.get_submodule("backbone")(torch.zeros(1, 3, 20, 20), torch.zeros(1))


def test_faster_rcnn_is_rejuvenated_in_place() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(unit(3, 8), unit(8, 8))
    body.out_channels = 8  # type: ignore[assignment]
    detection = torchvision.models.detection
    model = detection.FasterRCNN(
        body,
        min_size=32,
        max_size=40,
        rpn_anchor_generator=detection.anchor_utils.AnchorGenerator(((16,),), ((1.0,),)),
        box_roi_pool=torchvision.ops.MultiScaleRoIAlign(["0"], 2, 2),
        box_head=detection.faster_rcnn.TwoMLPHead(8 * 4, 16),
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(16, 3),
        box_score_thresh=0.0,
    )
    model.double().eval()
    with torch.no_grad():
        body[0][1].weight[:4] = 0
    picture = [torch.rand(3, 32, 40, dtype=torch.float64)]
    gm = trace(model, picture, partial=True).eval()
    paths = ["backbone", "rpn.head", "roi_heads.box_head", "roi_heads.box_predictor"]
    assert [part.path for part in gm.facts.parts] == paths
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, flops=1.0))
    assert result.module.get_submodule("backbone.0.0").out_channels > 4
    assert nrfx.verify(gm, result, picture) < 1e-12
    before, after = model(picture)[0], result.module.eval()(picture)[0]
    assert before["boxes"].shape[0] > 0
    assert all(torch.allclose(before[key].double(), after[key].double(), atol=1e-9) for key in before)


class Shared(nn.Module):
    """Two parts that share an activation, and code that depends on values between them."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), act, nn.Conv2d(8, 4, 1))
        self.two = nn.Sequential(nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), act, nn.Conv2d(8, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        return self.two(y if float(y.detach().mean()) > 0 else -y)


@pytest.mark.parametrize("act", [nn.ReLU(), nn.PReLU()])
def test_parts_may_share_a_submodule(act: nn.Module) -> None:
    model, x = Shared(act).double().eval(), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        model.two[1].weight[::2] = 0
    gm = trace(model, x, partial=True).eval()
    assert [part.path for part in gm.facts.parts] == ["one", "two"]
    assert torch.equal(gm(x), model(x))
    result = nrfx.compact(gm)
    assert result.module.get_submodule("two.0").out_channels == 4
    assert nrfx.verify(gm, result, x) < 1e-12
    assert torch.equal(copy.deepcopy(gm)(x), model(x))


class Turned(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if float(y.detach().mean()) > 0 else -y


def test_a_sequential_is_traced_in_parts_too() -> None:
    model, x = Turned(unit(3, 8), nn.Conv2d(8, 2, 1)).eval(), torch.randn(2, 3, 8, 8)
    gm = trace(model, x, partial=True).eval()
    assert isinstance(gm, PartialModule)
    for twin in (gm, copy.deepcopy(gm), pickle.loads(pickle.dumps(nrfx.compact(gm).module))):
        assert torch.equal(twin(x), model(x))
