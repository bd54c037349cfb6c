"""Code of a graph that is made when somebody asks for it."""

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.package
from torch import nn

from nrfx import TracedModule, trace

X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


def traced() -> TracedModule:
    torch.manual_seed(0)
    return trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), X).eval()


EXPECTED = traced()(X)


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = traced()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


WAYS: dict[str, Callable[[TracedModule], Callable[[torch.Tensor], torch.Tensor]]] = {
    "a call": lambda gm: gm,
    "its forward": lambda gm: gm.forward,
    "the forward of its class": lambda gm: lambda x: type(gm).forward(gm, x),
    "a deepcopy": copy.deepcopy,
    "a pickle": lambda gm: pickle.loads(pickle.dumps(gm)),
    "another trace": torch.fx.symbolic_trace,
    "compiled": lambda gm: torch.compile(gm, backend="eager", fullgraph=True),
    "compiled inside another module": lambda _: torch.compile(Around(), backend="eager", fullgraph=True),
    "exported": lambda gm: torch.export.export(gm, (X,)).module(),
}


@pytest.mark.parametrize("way", WAYS)
def test_whoever_asks_first_finds_the_code(way: str) -> None:
    gm = traced()
    assert "_code" not in vars(gm)
    torch.testing.assert_close(WAYS[way](gm)(X), EXPECTED)


@pytest.mark.parametrize("show", [str, lambda gm: gm.code], ids=["str", "code"])
def test_the_code_can_be_read_before_the_first_call(show: Callable[[TracedModule], str]) -> None:
    assert "return _2" in show(traced())


@pytest.mark.parametrize("called", [False, True])
def test_a_change_of_the_graph_counts_before_and_after_the_first_call(called: bool) -> None:
    gm = traced()
    if called:
        gm(X)
    relu = next(node for node in gm.graph.nodes if node.target == "2")
    relu.replace_all_uses_with(relu.args[0])
    gm.graph.erase_node(relu)
    gm.recompile()
    assert bool((gm(X) < 0).any())


@pytest.mark.filterwarnings("ignore:TypedStorage")  # torch.package itself
def test_a_package_takes_the_code() -> None:
    buffer = io.BytesIO()
    with torch.package.PackageExporter(buffer) as exporter:
        exporter.extern("**")
        exporter.save_pickle("model", "gm.pkl", traced())
    assert buffer.getbuffer().nbytes > 0
