"""Residual streams: the values that an addition joins, and the value at which its arms part."""

import networkx
import pytest
import torch
from torch import nn

import nrfx
from nrfx.analysis.residual import _Dominators, on_streams
from nrfx.analysis.spaces import channels_of
from tests.zoo import IMAGE, SMALL, Add, cbr


def test_a_network_without_additions_has_no_value_on_a_stream() -> None:
    gm = nrfx.trace(SMALL["densenet_preact"](), torch.zeros(IMAGE))
    assert not list(on_streams(gm, channels_of(gm).steps))


def test_the_sum_and_the_value_that_enters_the_block_lie_on_the_stream() -> None:
    gm = nrfx.trace(nn.Sequential(cbr(3, 8), Add(cbr(8, 8), nn.Conv2d(8, 8, 1))), torch.zeros(IMAGE))
    channels = channels_of(gm)
    outs = {step.node.name: step.effect.out for step in channels.steps}
    (first, total), (second, entry) = on_streams(gm, channels.steps)
    assert first == second == "add"
    assert torch.equal(total, outs["add"]) and torch.equal(entry, outs["_0_2"])


@pytest.mark.parametrize("name", ["resnet", "mobilenet_se", "densenet_postact", "inception", "aux_net"])
def test_the_nearest_node_on_every_path_is_the_immediate_dominator(name: str) -> None:
    """networkx computes it by the algorithm of Cooper, Harvey and Kennedy, from an entry above all nodes."""
    gm = nrfx.trace(SMALL[name](), torch.zeros(IMAGE))
    for graph in gm.graphs.values():
        arrows = networkx.DiGraph((source, node) for node in graph.nodes for source in node.all_input_nodes)
        arrows.add_edges_from(("entry", node) for node in graph.nodes if not node.all_input_nodes)
        above = networkx.immediate_dominators(arrows, "entry")
        tree = _Dominators(graph)
        for node in graph.nodes:
            assert (tree.above[node] or "entry") == above[node], node


def test_a_bias_that_is_a_parameter_makes_no_stream_and_its_channels_may_go() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 3, padding=1)
            self.bias = nn.Parameter(torch.randn(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.norm(self.conv(x)) + self.bias.view(-1, 1, 1)))

    model, x = Biased().double().eval(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        model.norm.weight[:4] = 0
        model.norm.bias.normal_()
    gm = nrfx.trace(model, x)
    assert nrfx.utilization(gm).streams == () and nrfx.utilization(gm).held == ()
    result = nrfx.compact(gm)
    assert result.changed and nrfx.verify(gm, result, x) < 1e-12
