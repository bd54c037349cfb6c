"""Graphs without anything of nrfx: what reads graphs can work with them."""

import copy
import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import nrfx
from nrfx.deploy.plain import plain
from nrfx.errors import ExportError
from tests import zoo
from tests.deploy.test_export import SCHEMES, Function, Routed, rewritten, small, traced

X = torch.randn(zoo.IMAGE, generator=torch.Generator().manual_seed(0))


def classes(module: nn.Module) -> set[str]:
    return {type(part).__module__.partition(".")[0] for part in module.modules() if part is not module}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:The TorchScript type system")
def test_a_rewritten_network_is_scripted_and_traced(scheme: str) -> None:
    module = rewritten(scheme, zoo.resnet((1,)), X)
    graph = plain(module)
    assert type(graph).__mro__[1] is fx.GraphModule and classes(graph) == {"torch"}
    assert {id(p) for p in graph.parameters()} == {id(p) for p in module.parameters()}
    for runs in (graph, torch.jit.script(graph), torch.jit.trace(module, X, check_trace=False)):
        torch.testing.assert_close(runs(X), module(X))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_rewritten_network_goes_through_fx_quantization(scheme: str) -> None:
    """The 8-bit network is near the one it was made of, and in its plain form no convolution is left in floats."""
    from torch.ao.quantization import get_default_qconfig_mapping  # noqa: PLC0415  (slow)
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx  # noqa: PLC0415

    module = small(scheme)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = module(x)
    for floats in (module, plain(module)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.ao.quantization is deprecated in favour of a package of its own
            prepared = prepare_fx(copy.deepcopy(floats), get_default_qconfig_mapping("onednn"), (x,))
            prepared(x)
            quantized = convert_fx(prepared)
            actual = quantized(x)
        error = (actual - expected).norm() / expected.norm()
        assert 0 < error < 0.1  # processors without dot products of 8 bits saturate in between: 0.074, else below 0.05
    assert not [node for node in quantized.graph.nodes if node.target is F.conv2d]
    assert not [part for part in quantized.modules() if type(part) is nn.Conv2d]


class Modes(nn.Module):
    """Another constant in each mode, a decision on the size, and a region."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 2 if x.shape[0] < 3 else x
        with torch.no_grad():
            y = self.layer(x)
        return F.dropout(y, 0.5, self.training)


def test_guards_modes_and_regions_are_gone() -> None:
    module = nrfx.trace(Modes(), torch.zeros(2, 4)).eval()
    graph = plain(module)
    x = torch.randn(2, 4)
    assert torch.equal(graph(x), module(x)) and not graph.training
    assert [node.target for node in graph.graph.nodes][1:-1] == [operator.mul, "layer", F.dropout]
    assert graph(torch.zeros(5, 4)).shape == (5, 4), "nobody refuses other sizes"
    with pytest.raises(nrfx.TraceError):
        module(torch.zeros(5, 4))


def test_scales_are_products() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    scaled = nrfx.insert_scales(nrfx.trace(model, torch.zeros(2, 4)))
    with torch.no_grad():
        for parameter in scaled.parameters():
            parameter.uniform_(0.5, 2)
    x = torch.randn(3, 4)
    assert classes(plain(scaled)) == {"torch"}
    torch.testing.assert_close(plain(scaled)(x), scaled(x))
    symbolic = fx.symbolic_trace(scaled)
    assert "ChannelScale" in {type(symbolic.get_submodule(str(n.target))).__name__ for n in symbolic.graph.nodes
                              if n.op == "call_module"}  # fmt: skip
    torch.testing.assert_close(symbolic(x), scaled(x))


@dataclass
class Out:
    logits: Tensor


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.graph = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.graph(x)
        return y


def under_autocast(y: Tensor, _: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return y * 2


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a class": (lambda: traced(lambda y, _: Out(y)), "makes a Out, a class that only the model's package knows"),
    "autocast": (lambda: traced(under_autocast), "autocast begins a region of autocast"),
    "a region in training": (lambda: nrfx.trace(Modes(), torch.zeros(2, 4)), "matters in training"),
    "a box": (lambda: nrfx.trace(Routed(), torch.zeros(2, 4), partial=True), r"pick \(Routed\.pick\) is a box"),
    "a name": (lambda: nrfx.trace(Named(), torch.zeros(2, 4)), "a graph module has a 'graph' of its own"),
    "no inputs": (lambda: Function(lambda y, _: y), "pass example_inputs="),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_plain_form_is_named(case: str) -> None:
    make, words = REFUSED[case]
    with pytest.raises(ExportError if case != "no inputs" else nrfx.TraceError, match=words):
        plain(make())


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:The TorchScript type system")
def test_a_torchscript_module_inside_is_itself_again() -> None:
    inner = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    module = nrfx.trace(nn.Sequential(nn.Linear(4, 4), inner), torch.zeros(2, 4)).eval()
    x = torch.randn(3, 4)
    torch.testing.assert_close(torch.jit.script(plain(module))(x), module(x))
