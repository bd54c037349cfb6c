"""Tracing around what cannot be traced: the smallest submodule or function becomes one call of the graph."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import nrfx
from nrfx.errors import CheckpointError
from nrfx.tracing import PartialModule, TracedModule, as_traced, trace

X = (2, 3, 6, 6)


def above(y: Tensor, least: float) -> bool:
    return float(y.detach().mean()) > least


def turned(y: Tensor, least: float) -> Tensor:
    """Depends on values in a way that no graph can hold; widths and sizes stay."""
    return -y if above(y, least) else y


class Router(nn.Module):
    """Chooses one of two layers by the values of its input, on which it does not run without values."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[int(x.detach().mean() > 0)](x)


class Decided(Router):
    """The same layers, of which it always takes the first."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0](x)


def unit(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width_in, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())


class Net(nn.Module):
    """A body with a router, then whatever `last` does with the model and the maps."""

    def __init__(self, last: Callable[[Any, Tensor], Any] = lambda net, y: y, router: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = unit(3, 12), nn.Sequential(unit(12, 8), router or Router())
        self.three, self.head, self.aside = unit(8, 10), nn.Conv2d(10, 4, 1), nn.Linear(4, 4)
        self.least, self.last = 0.0, last

    def forward(self, x: Tensor) -> Any:
        return self.last(self, self.head(self.three(self.two(self.one(x)))))

    def chosen(self, y: Tensor) -> Tensor:
        return self.mixed(y) if above(y, self.least) else y

    def mixed(self, y: Tensor) -> Tensor:
        return self.aside(y.transpose(1, 3)).transpose(1, 3)

    def everything(self, y: Tensor) -> Tensor:
        return y * sum(p.sum() for p in self.parameters()) if above(y, self.least) else y


def built(*args: Any, **options: Any) -> Net:
    """In float64, with half of the gammas of each norm at 0."""
    net = Net(*args, **options).double().eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight[::2] = 0
                module.bias.uniform_(-0.5, 0.5)
    return net


def examples(seed: int = 0) -> Tensor:
    return torch.randn(X, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same(model: nn.Module, gm: nn.Module) -> None:
    for training in (False, True, False):
        for seed in range(3):
            pair = [copy.deepcopy(each).train(training)(examples(seed)) for each in (model, gm)]
            assert torch.equal(*pair)


def called(gm: TracedModule) -> list[str]:
    return [str(node.target) for node in gm.graph.nodes if node.op == "call_module"]


def test_the_innermost_submodule_that_cannot_be_traced_is_one_call_and_all_else_is_traced() -> None:
    net = built()
    gm = trace(net, examples(), partial=True)
    assert not isinstance(gm, PartialModule)
    assert gm.facts.boxes == ("two.1",)
    units = [f"{path}.{index}" for path in ("one", "two.0", "three") for index in range(3)]
    assert called(gm) == [*units[:6], "two.1", *units[6:], "head"]
    assert_same(net, gm)


def test_a_box_keeps_the_widths_that_it_touches_and_is_named_with_its_reason_and_its_flops() -> None:
    net, count = built(), FlopCounterMode(display=False)
    gm = trace(net, examples(), partial=True)
    usage = nrfx.utilization(gm)
    assert {pin.space: pin.node for pin in usage.pins} == {"two.0.0": "two_1", "head": "output"}
    (reason,) = (line for line in usage.uncounted if line.startswith("two.1: it cannot be traced: File"))
    assert "test_around.py" in reason and "in forward: it uses a traced tensor as a Python number" in reason
    assert usage.params.total == sum(p.numel() for p in net.parameters())
    with count, torch.no_grad():
        net(examples())
    assert usage.flops.total == count.get_total_flops() // 2 // X[0]


class Two(nn.Module):
    """Takes two inputs, and joins them by their values."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.last = unit(3, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.last(turned(self.one(x) + self.one(y), 0.1))


def test_a_model_of_several_inputs_is_one_graph() -> None:
    net, given = Two().double().eval(), (examples(), examples(1))
    gm = trace(net, given, partial=True).eval()
    assert gm.facts.boxes == (f"{__name__}:turned",)
    assert torch.equal(gm(*given), net(*given))


def test_a_function_that_cannot_be_traced_is_one_call() -> None:
    net = built(lambda net, y: turned(y, 0.1), router=nn.Identity())
    gm = trace(net, examples(), partial=True)
    assert gm.facts.boxes == (f"{__name__}:turned",)
    assert [node.target for node in gm.graph.nodes if "opaque" in node.meta] == [turned]
    assert turned(torch.ones(2), 0.0).tolist() == [-1, -1]
    assert_same(net, gm)


def test_a_method_is_one_call_and_what_its_code_may_read_keeps_its_width() -> None:
    net = built(lambda net, y: net.chosen(y), router=nn.Identity())
    gm = trace(net, examples(), partial=True)
    assert gm.facts.boxes == (f"{__name__}:Net.chosen",)
    (box,) = (node.meta["opaque"] for node in gm.graph.nodes if "opaque" in node.meta)
    assert box.reads == ("aside.weight", "aside.bias")
    assert_same(net, gm)
    result = nrfx.compact(gm)
    assert result.module.get_submodule("one.0").out_channels == 7
    assert nrfx.verify(gm, result, examples()) < 1e-12
    assert torch.allclose(result.module.eval()(examples(1)), net(examples(1)), atol=1e-12)


def test_a_method_that_may_read_everything_keeps_everything() -> None:
    net = built(lambda net, y: net.everything(y), router=nn.Identity())
    gm = trace(net, examples(), partial=True)
    assert gm.facts.boxes == (f"{__name__}:Net.everything",)
    assert all("is also read by node everything" in pin.reason for pin in nrfx.utilization(gm).pins[:-1])
    assert len(nrfx.utilization(gm).pins) == 4
    assert not nrfx.compact(gm).changed


class Tied(nn.Module):
    """Reads the weight of another layer."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.sum() if above(x, 0) else x


def test_a_weight_that_a_box_shares_keeps_its_widths() -> None:
    net = built()
    net.two[1] = Tied(net.one[0].weight)
    gm = trace(net, examples(), partial=True)
    assert gm.facts.boxes == ("two.1",)
    result = nrfx.compact(gm)
    assert result.module.get_submodule("one.0").out_channels == 12
    assert result.module.get_submodule("three.0").out_channels == 5


class Counting(nn.Module):
    """Gives a number that depends on values."""

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x, int((x > 0).sum())


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.count = Counting()

    def forward(self, x: Tensor) -> Tensor:
        y, number = self.count(x)
        return y * number


class Sizing(nn.Module):
    """Gives as many positions as are above the mean."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2)[..., x.detach().mean((0, 1)).flatten() > x.detach().mean() + 0.1]


class Resizing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.size = Sizing()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.size(x).sum(-1)[..., None, None]


@pytest.mark.parametrize("inner", [Scaled, Resizing])
def test_what_gives_numbers_or_sizes_that_depend_on_values_is_a_box_with_what_is_around_it(inner: Any) -> None:
    net = built(router=inner())
    gm = trace(net, examples(), partial=True)
    assert gm.facts.boxes == ("two.1",)
    assert_same(net, gm)


def test_several_outputs_of_a_box_are_told_apart() -> None:
    class Pairs(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"pair": (turned(x, 0.0), x.mean(1)), "none": None}

    class Using(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Pairs()

        def forward(self, x: Tensor) -> Tensor:
            out = self.inner(x)
            one, other = out["pair"]
            return one + other[:, None] if out["none"] is None else x

    net = built(router=Using())
    gm = trace(net, examples(), partial=True, leaves=["two.1.inner"])
    assert "two.1.inner" in called(gm)
    assert_same(net, gm)


class Stage(nn.Module):
    """Its own code depends on values, its layers do not."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(unit(8, 16), unit(16, 16), unit(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return y if float(y.detach().mean()) > 1e9 else -y


def test_parts_are_preferred_where_they_leave_more_free() -> None:
    net = built(router=Stage())
    gm = trace(net, examples(), partial=True)
    assert isinstance(gm, PartialModule)
    assert "two.1.layers" in [part.path for part in gm.facts.parts]
    said = (
        "The model (Net): parts leave more of it free than one graph, in which two.1 would be a single call: it cannot"
    )
    assert gm.facts.outside[0].startswith(said)
    small = trace(built(router=nn.Sequential(unit(8, 40), unit(40, 8), Stage())), examples(), partial=True)
    assert small.facts.boxes == () or not isinstance(small, PartialModule)


def test_a_part_holds_boxes_of_its_own() -> None:
    class Chooser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.last = built(), nn.Conv2d(4, 2, 1).double()

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            return self.last(y if float(y.detach().mean()) > 1e9 else -y)

    net = Chooser().eval()
    gm = trace(net, examples(), partial=True)
    assert isinstance(gm, PartialModule)
    assert [part.path for part in gm.facts.parts] == ["body", "last"]
    assert any(line.startswith("body.two.1: it cannot be traced") for line in nrfx.utilization(gm).uncounted)
    assert_same(net, gm)
    result = nrfx.compact(gm)
    assert result.module.get_submodule("body.one.0").out_channels == 7
    assert nrfx.verify(gm, result, examples()) < 1e-12


EVERY: list[Callable[[Any, Tensor], Any]] = [lambda net, y: y, lambda net, y: turned(y, 0.1)]
EVERY += [lambda net, y: net.chosen(y)]


@pytest.mark.parametrize("last", EVERY, ids=["module", "function", "method"])
def test_copies_files_and_rewrites_hold_their_boxes(last: Any, tmp_path: Path) -> None:
    net = built(last)
    gm = trace(net, examples(), partial=True)
    for twin in (copy.copy(gm), copy.deepcopy(gm), pickle.loads(pickle.dumps(gm.double()))) if last is EVERY[0] else ():
        assert_same(net, twin)
    again = trace(gm, examples())
    assert again.facts.boxes == gm.facts.boxes
    assert_same(net, again)
    assert nrfx.utilization(again).flops == nrfx.utilization(gm).flops
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))
    assert result.changed
    assert nrfx.verify(gm, result, examples(2)) < 1e-12
    assert as_traced(result.module) is result.module
    nrfx.save(tmp_path / "net.safetensors", result.module)
    loaded = nrfx.load(tmp_path / "net.safetensors", built(last))
    assert loaded.facts.boxes == gm.facts.boxes
    assert_same(result.module, loaded)
    assert nrfx.utilization(loaded).params == result.after.params


def test_a_file_whose_boxes_are_others_is_refused(tmp_path: Path) -> None:
    nrfx.save(tmp_path / "net.safetensors", trace(built(), examples(), partial=True))
    other = built()
    other.two[1].__class__ = Decided
    with pytest.raises(CheckpointError, match=r"traced around two\.1, and now nothing cannot be traced.*partial=True"):
        nrfx.load(tmp_path / "net.safetensors", other)


def test_a_rejuvenator_trains_a_network_with_boxes() -> None:
    gm = trace(built(lambda net, y: net.chosen(y)), examples(), partial=True).train()
    optimizer = torch.optim.SGD(gm.parameters(), lr=0.01, momentum=0.9)
    nr = nrfx.Rejuvenator(gm, optimizer, nrfx.Budget.relative(gm, params=1.0), trigger=0.9, interval=2)
    events = []
    for seed in range(4):
        optimizer.zero_grad()
        nr.module(examples(seed)).square().mean().backward()
        nr.penalize()
        optimizer.step()
        events.append(type(nr.step()).__name__)
    assert "Event" in events
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert owned == {id(p) for p in nr.module.parameters()}


@pytest.mark.filterwarnings("ignore")
def test_torch_compile_runs_a_network_with_boxes() -> None:
    net = built(lambda net, y: net.chosen(y))
    gm = trace(net, examples(), partial=True).eval()
    compiled = torch.compile(gm, backend="eager")
    assert torch.equal(compiled(examples(1)), net(examples(1)))


class Runs(nn.Module):
    """A body of routers, each of a class of its own, which counts how often it runs."""

    runs: ClassVar[list[str]] = []

    def __init__(self, routers: int) -> None:
        super().__init__()
        kinds = [type(f"Router{index}", (Router,), {}) for index in range(routers)]
        self.body = nn.Sequential(unit(3, 8), *(nn.Sequential(unit(8, 8), kind()) for kind in kinds))

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(x, "node"):  # it runs, and is not recorded
            self.runs.append("run")
        return self.body(x)  # type: ignore[no-any-return]


def test_the_model_runs_as_often_for_many_boxes_as_for_few() -> None:
    runs = []
    for routers in (2, 5):
        Runs.runs.clear()
        gm = trace(Runs(routers).double().eval(), examples(), partial=True)
        assert len(gm.facts.boxes) == routers
        runs.append(len(Runs.runs))
    assert 0 < runs[0] == runs[1] <= 7
