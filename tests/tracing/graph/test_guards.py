"""What a trace took for granted: at other sizes a graph equals its model, or raises the error that says why."""

import copy
import math
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, fx, nn

import nrfx
from nrfx.errors import SizeError, TraceError
from nrfx.tracing.graph.guards import is_guard
from tests.tracing.models import Function, assert_behaves_like

Shape = tuple[int, ...]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def unit(in_channels: int, out_channels: int) -> nn.Module:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


def guards(module: nn.Module) -> list[fx.Node]:
    return [node for node in module.graph.nodes if is_guard(node)]


def equal_or_refused(model: nn.Module, shape: Shape, others: Iterable[Shape]) -> list[bool]:
    """Whether the graph of `model`, traced at a shape, runs at each of the others, where it must equal the model."""
    gm = nrfx.trace(model, torch.zeros(shape)).eval()
    model.eval()
    runs = []
    for other in (shape, *others):
        x = torch.randn(other)
        try:
            y = gm(x)
        except SizeError as error:
            assert "Trace the model again" in str(error)
            runs.append(False)
        else:
            assert torch.equal(y, model(x)), other
            runs.append(True)
    assert runs[0]
    return runs[1:]


class Positions(nn.Module):
    """A position embedding that is resized where the map has another size than it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(1, 3, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        added = self.embedding
        if added.shape[-2:] != x.shape[-2:]:
            added = F.interpolate(added, size=x.shape[-2:], mode="bilinear")
        return x + added


class Anchors(nn.Module):
    """Anchors that are kept until another size comes."""

    def __init__(self) -> None:
        super().__init__()
        self.size: Any = None
        self.anchors: Any = None

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self.size != (height, width):
            self.size, self.anchors = (height, width), torch.arange(height * width).view(height, width)
        return x + self.anchors + self.anchors.shape[0]


def padded(m: nn.Module, x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    if height % 4 or width % 4:
        x = F.pad(x, (0, -width % 4, 0, -height % 4))
    return x.unflatten(-1, (-1, 4)).mean(-1)


def of_frames(m: nn.Module, clip: Tensor) -> Tensor:
    return torch.stack([frame * 2 for frame in clip.unbind(1)], 1).mean(1)


def of_chunks(m: nn.Module, x: Tensor) -> Tensor:
    first, second, third = x.split(2, dim=1)
    return first * second + third


def of_examples(m: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([(example[None] * 2)[0] for example in x])


def ranged(m: nn.Module, x: Tensor) -> Tensor:
    return sum(x[:, index] for index in range(x.shape[1]))


def sized(m: nn.Module, x: Tensor) -> Tensor:
    return x * 2 if x.shape[0] > 1 else x


def listed(m: nn.Module, x: Tensor) -> Tensor:
    return x * 2 if x.size(-1) in (8, 16) else x


SIZES: dict[str, tuple[Callable[[], nn.Module], Shape, dict[Shape, bool]]] = {
    "positions": (Positions, (2, 3, 8, 8), {(2, 3, 12, 8): False, (5, 3, 8, 8): True}),
    "resized positions": (Positions, (2, 3, 12, 12), {(2, 3, 8, 8): False, (2, 3, 12, 16): True}),
    "anchors": (Anchors, (2, 3, 8, 6), {(1, 3, 8, 6): True, (2, 3, 4, 9): True}),
    "no padding": (lambda: Function(padded), (2, 3, 8, 8), {(2, 3, 12, 16): True, (2, 3, 9, 8): False}),
    "padding": (lambda: Function(padded), (2, 3, 8, 9), {(2, 3, 8, 11): True, (2, 3, 8, 8): False}),
    "frames": (lambda: Function(of_frames), (2, 3, 4), {(3, 3, 4): True, (2, 5, 4): False, (2, 2, 4): False}),
    "chunks": (lambda: Function(of_chunks), (2, 6), {(3, 6): True, (2, 8): False}),
    "examples": (lambda: Function(of_examples), (2, 6), {(2, 7): True, (3, 6): False}),
    "range": (lambda: Function(ranged), (2, 3), {(4, 3): True, (2, 4): False}),
    "batch": (lambda: Function(sized), (2, 3), {(3, 3): True, (1, 3): False}),
    "one of several": (lambda: Function(listed), (2, 8), {(3, 8): True, (2, 16): False, (2, 9): False}),
}


@pytest.mark.parametrize("name", SIZES)
def test_at_another_size_a_graph_equals_its_model_or_says_that_it_cannot(name: str) -> None:
    build, shape, others = SIZES[name]
    assert equal_or_refused(build(), shape, others) == list(others.values())


def test_swin_runs_where_no_other_padding_or_shift_is_needed_and_says_so_elsewhere() -> None:
    model = torchvision.models.swin_t(num_classes=4)
    gm = nrfx.trace(model, torch.zeros(2, 3, 224, 224)).eval()
    model.eval()
    for shape in ((3, 3, 224, 224), (1, 3, 256, 256), (1, 3, 288, 288)):
        x = torch.randn(shape)
        try:
            y = gm(x)
        except SizeError as error:
            assert "swin_transformer.py" in str(error)
            assert shape[2] != 224
        else:
            torch.testing.assert_close(y, model(x))


# The error, and where it holds


def conditional() -> nn.Module:
    return Function(lambda m, x: m.a(x) * 2 if x.shape[-1] % 2 else m.a(x), a=nn.Conv2d(3, 4, 1))


def test_the_error_names_the_line_and_what_it_met() -> None:
    gm = nrfx.trace(Function(sized), torch.zeros(2, 3))
    with pytest.raises(SizeError) as raised:
        gm(torch.zeros(1, 3))
    text = str(raised.value)
    assert f"{Path(__file__)}:" in text
    assert "in sized (`return x * 2 if x.shape[0] > 1 else x`)" in text
    assert "on inputs of shapes [2, 3], met True, and these inputs give False" in text


FORMS: dict[str, Callable[[Any, Tensor], Any]] = {
    "itself": lambda gm, x: gm,
    "copy": lambda gm, x: copy.deepcopy(gm),
    "pickle": lambda gm, x: pickle.loads(pickle.dumps(gm)),
    "fx": lambda gm, x: fx.symbolic_trace(gm.eval()),
    "nrfx": nrfx.trace,
    "without dead code": lambda gm, x: _without_dead_code(gm),
}


def _without_dead_code(gm: Any) -> Any:
    gm.graph.eliminate_dead_code()
    gm.recompile()
    return gm


@pytest.mark.parametrize("form", FORMS)
def test_a_guard_stays_in_whatever_a_graph_becomes(form: str) -> None:
    x = torch.randn(2, 3, 8, 8)
    other = FORMS[form](nrfx.trace(conditional(), x), x)
    assert other(torch.randn(2, 3, 6, 6)).shape == (2, 4, 6, 6)
    with pytest.raises(SizeError, match=r"test_guards\.py:\d+, in <lambda>"):
        other(torch.randn(2, 3, 8, 7))


def test_a_graph_with_guards_compiles_whole_and_exports() -> None:
    x = torch.randn(2, 3, 8, 8)
    gm = nrfx.trace(conditional(), x).eval()
    compiled = torch.compile(copy.deepcopy(gm), backend="eager", fullgraph=True)
    for size in (8, 10):
        y = torch.randn(2, 3, 8, size)
        assert torch.equal(compiled(y), gm(y))
    assert torch.equal(torch.export.export(gm, (x,)).module()(x), gm(x))


def test_both_modes_share_one_graph_with_its_guards() -> None:
    gm = nrfx.trace(Function(lambda m, x: m.d(padded(m, x)), d=nn.Dropout()), torch.zeros(2, 3, 8, 8))
    assert gm.graphs["train"] is gm.graphs["eval"]
    for mode in (True, False):
        with pytest.raises(SizeError):
            gm.train(mode)(torch.zeros(2, 3, 8, 9))


def test_one_condition_has_one_guard() -> None:
    gm = nrfx.trace(Function(lambda m, x: sized(m, sized(m, x) + sized(m, x))), torch.zeros(2, 3))
    assert len(guards(gm)) == 2  # of x, and of the sum


def test_sizes_of_parameters_are_no_assumptions() -> None:
    gm = nrfx.trace(
        Function(lambda m, x: m.a(x) if m.a.weight.shape[0] == 4 else x, a=nn.Linear(3, 4)), torch.zeros(2, 3)
    )
    assert guards(gm) == []


def test_a_type_or_a_rank_that_the_forward_asks_for_is_an_assumption() -> None:
    gm = nrfx.trace(Function(lambda m, x: x * 2 if x.dtype == torch.float32 else x), torch.zeros(2, 3))
    with pytest.raises(SizeError, match="met True, and these inputs give False"):
        gm(torch.zeros(2, 3).double())
    gm = nrfx.trace(Function(lambda m, x: x * 2 if x.dim() == 2 else x), torch.zeros(2, 3))
    with pytest.raises(SizeError):
        gm(torch.zeros(2, 3, 1))


# A rewrite changes widths


class Decided(nn.Module):
    """It decides on its own width, on that of its input, and on the size of the map."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = unit(3, 8), unit(8, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = self.b(y)
        if y.shape[1] == 8 and z.shape != x.shape:
            z = z + 1
        return self.head(F.pad(z, (0, 1)) if x.shape[-1] % 2 else z)


def rewritten(model: nn.Module, x: Tensor) -> tuple[Any, Tensor]:
    with torch.no_grad():
        model.a[1].weight[:3] = 0
        model.b[1].weight[:2] = 0
        nn.init.normal_(model.a[1].bias)
    gm = nrfx.trace(model, x)
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme="dense")
    assert result.module.get_submodule("a.0").weight.shape[0] != 8
    return result, model(x)


def test_a_decision_on_the_own_width_is_taken_and_one_on_the_input_still_checked(tmp_path: Path) -> None:
    model, x = Decided().double().eval(), torch.randn(2, 3, 8, 8).double()
    result, expected = rewritten(model, x)
    nrfx.save(tmp_path / "net.nrfx", result.module)
    loaded = nrfx.load(tmp_path / "net.nrfx", Decided().double())
    for module in (result.module, getattr(loaded, "module", loaded).eval()):
        torch.testing.assert_close(module(x), expected)
        torch.testing.assert_close(module(x[:1]), expected[:1])
        with pytest.raises(SizeError, match=r"x\.shape\[-1\] % 2"):
            module(x[..., :7])
        again = nrfx.compact(module).module
        torch.testing.assert_close(again(x), expected)


def test_a_loop_over_channels_keeps_their_number() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.c(torch.stack([y * 2 for y in m.a(x).unbind(1)], 1))

    model = Function(forward, a=unit(3, 8), c=nn.Conv2d(8, 2, 1)).eval()
    with torch.no_grad():
        model.a[1].weight[:3] = 0
    gm = nrfx.trace(model, torch.zeros(2, 3, 8, 8))
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme="dense")
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(result.module.eval()(x), model(x))
    assert result.module.get_submodule("a.0").weight.shape[0] == 8


# What stays symbolic


def windows(m: nn.Module, x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    parts = x.unflatten(-2, (-1, 4)).unflatten(-1, (-1, 4)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    count = int(parts.shape[0] / (height * width / 4 / 4))
    return parts.view(count, height // 4, width // 4, -1).sum(-1)


def per_example(m: nn.Module, x: Tensor) -> Tensor:
    count, channels, height, width = x.shape
    kernels = x.mean((2, 3)).view(count, channels, 1, 1).repeat(1, 2, 1, 1).view(-1, 1, 1, 1)
    y = F.conv2d(x.reshape(1, -1, height, width), kernels.repeat(1, channels, 1, 1), groups=count)
    return y.view(count, -1, height, width)


def pooled(m: nn.Module, x: Tensor) -> Tensor:
    return F.avg_pool2d(x, kernel_size=(x.shape[2], x.shape[3])) + torch.roll(x, x.shape[3] // 2, 3)


def numbers(m: nn.Module, x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    y = x * max(height, width) + min(x.shape) - len(x) + float(height) / round(width / 3) + max(height, 3)
    return y + math.sqrt(height) + np.sqrt(width) + np.float64(2.0) * x + math.ceil(width / 3) + divmod(width, 3)[1]


@pytest.mark.parametrize("forward", [windows, per_example, pooled, numbers])
def test_a_number_that_is_only_computed_with_stays_symbolic(forward: Callable[..., Any]) -> None:
    gm = nrfx.trace(Function(forward), torch.zeros(2, 3, 8, 8))
    for shape in ((2, 3, 8, 8), (5, 3, 8, 8), (1, 3, 12, 8), (2, 3, 8, 16)):
        assert_behaves_like(gm, Function(forward), torch.randn(shape))


def test_a_mixture_of_ways_needs_no_number() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return sum(share * way(x) for share, way in zip(m.alpha.softmax(0), m.ways, strict=True))

    model = Function(forward, ways=nn.ModuleList([nn.Linear(3, 3), nn.Identity()]))
    model.alpha = nn.Parameter(torch.randn(2))
    assert_behaves_like(nrfx.trace(model, torch.zeros(2, 3)), model, torch.randn(5, 3))


def test_a_counter_that_is_a_buffer_goes_on_counting() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        if m.training:
            m.step += 1
        return x.mean(tuple(range(2, x.dim())))

    model = Function(forward)
    model.register_buffer("step", torch.zeros((), dtype=torch.int64))
    gm = nrfx.trace(copy.deepcopy(model), torch.zeros(2, 3, 8, 8))
    for _ in range(2):
        gm.train()(torch.zeros(2, 3, 8, 8))
    assert int(gm.step) == 2
    assert_behaves_like(nrfx.trace(model, torch.zeros(2, 3, 8, 8)), model, torch.randn(2, 3, 4, 4))


# Questions that a graph cannot answer

QUESTIONS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "requires_grad": lambda m, x: x * 2 if x.requires_grad else x,
    "is_grad_enabled": lambda m, x: x * 2 if torch.is_grad_enabled() else x,
    "is_contiguous": lambda m, x: x * 2 if x.is_contiguous() else x,
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_way_that_depends_on_the_run_is_refused(name: str) -> None:
    with pytest.raises(TraceError, match=rf"test_guards\.py:\d+, in <lambda>, the forward asks {name}"):
        nrfx.trace(Function(QUESTIONS[name]), torch.zeros(2, 3))


def test_a_question_that_changes_nothing_may_be_asked() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        if not x.is_contiguous():
            x = x.contiguous()
        asked.append(torch.is_grad_enabled() and x.requires_grad)
        return x.view(-1) * 2

    asked: list[Any] = []
    gm = nrfx.trace(Function(forward), torch.zeros(2, 3))
    for x in (torch.randn(2, 3), torch.randn(3, 2).t()):
        assert torch.equal(gm(x), forward(gm, x))


def test_fx_does_not_trace_for_the_forward() -> None:
    model = Function(lambda m, x: x * 2 if fx._symbolic_trace.is_fx_symbolic_tracing() else x)
    assert_behaves_like(nrfx.trace(model, torch.zeros(2, 3)), model, torch.randn(2, 3))
