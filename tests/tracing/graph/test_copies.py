"""Copies of graphs: one that is made later is the graph of before, whatever became of it meanwhile."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

import nrfx
from nrfx.tracing import TracedModule
from nrfx.tracing.graph.copies import KeptGraph, copied
from nrfx.tracing.graph.stated import AsBuilt


class Joining(nn.Module):
    """Calls with nests of nodes, keywords, texts and slices."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        joined = torch.cat([y, F.relu(y, inplace=False), y[:, :2]], dim=1)
        return F.interpolate(joined, size=[x.shape[2], 5], mode="nearest")


def traced() -> TracedModule:
    return nrfx.trace(Joining(), torch.zeros(1, 3, 4, 4))


def told(graph: fx.Graph) -> tuple[str, list[object]]:
    return graph.python_code("self").src, [(node.name, node.type, node.meta) for node in graph.nodes]


@pytest.mark.parametrize("twin", [copied, lambda graph: KeptGraph.of(graph).made()])
def test_a_copy_has_the_same_code_names_and_meta(twin: Callable[[fx.Graph], fx.Graph]) -> None:
    graph = traced().graph
    other = twin(graph)
    assert told(other) == told(graph)
    other.lint()
    assert all(node.graph is other for node in other.nodes)
    next(iter(other.nodes)).meta.clear()
    assert next(iter(graph.nodes)).meta


def test_what_is_kept_stays_what_it_was() -> None:
    graph = traced().graph
    before, kept = told(copied(graph)), KeptGraph.of(graph)
    relu = next(node for node in graph.nodes if node.target is F.relu)
    relu.replace_all_uses_with(relu.args[0])
    graph.erase_node(relu)
    next(iter(graph.nodes)).meta.clear()
    assert told(kept.made()) == before != told(graph)
    assert told(kept.made()) == before  # and a second time


def test_what_is_kept_keeps_no_module() -> None:
    gm = traced()
    weight, kept = weakref.ref(gm.get_parameter("conv.weight")), KeptGraph.of(gm.graph)
    del gm
    gc.collect()
    assert weight() is None
    assert kept.made().nodes


@pytest.mark.parametrize("twin", [lambda built: built, copy.deepcopy, lambda built: pickle.loads(pickle.dumps(built))])
def test_a_network_as_built_is_the_one_before_later_changes(twin: Callable[[AsBuilt], AsBuilt]) -> None:
    gm = traced()
    names, built = [node.name for node in gm.graph.nodes], AsBuilt.of(gm)
    gm.set_submodule("conv", nn.Conv2d(3, 5, 1))
    network = twin(built).network
    assert [node.name for node in network.graph.nodes] == names
    assert network.get_submodule("conv").out_channels == 8
    assert network.get_parameter("conv.weight").is_meta
    assert built.network is built.network
