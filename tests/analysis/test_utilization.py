"""utilization: params and flops of one example, live and total."""

import copy
import pickle

import pytest
import torch
from torch import nn

import nrfx


def test_a_network_that_is_one_layer_is_understood() -> None:
    u = nrfx.utilization(nrfx.trace(nn.Linear(3, 5), torch.zeros(2, 3)))
    assert (u.params.total, u.flops.total, u.uncounted) == (20, 15, ())


@pytest.mark.parametrize("batch", [1, 3])
def test_flops_are_those_of_one_example_whatever_the_batch_and_also_without_one(batch: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 2, 1))
    flops = 4 * 3 * 9 * 36 + 2 * 4 * 9
    assert nrfx.utilization(nrfx.trace(model, torch.zeros(batch, 3, 8, 8))).flops.total == flops
    assert nrfx.utilization(nrfx.trace(model, torch.zeros(3, 8, 8))).flops.total == flops


def dying() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Tanhshrink())
    with torch.no_grad():
        net[1].weight[:3] = 0.0
    return net


def test_what_is_asked_for_later_tells_of_the_network_as_it_was() -> None:
    gm = nrfx.trace(dying(), torch.zeros(1, 3, 9, 9))
    at_once, later = nrfx.utilization(gm), nrfx.utilization(gm)
    expected = at_once.to_json()
    with torch.no_grad():
        gm.get_submodule("1").weight.fill_(1.0)
    gm.get_submodule("0").weight = nn.Parameter(torch.zeros(2, 3, 1, 1))
    gm.set_submodule("1", nn.Identity())
    del gm.get_submodule("3").bias
    assert later.to_json() == expected
    assert later == at_once


def test_a_copy_and_a_pickle_have_all_that_can_be_asked_for() -> None:
    u = nrfx.utilization(nrfx.trace(dying(), torch.zeros(1, 3, 9, 9)))
    for twin in (copy.deepcopy(u), pickle.loads(pickle.dumps(u))):
        assert twin == u
        assert hash(twin) == hash(u)
        assert twin.rows == u.rows
        assert twin != nrfx.utilization(nrfx.trace(nn.Linear(3, 5), torch.zeros(2, 3)))


def test_what_is_not_understood_is_that_of_the_graph_as_it_was() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.eye(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ torch.linalg.qr(self.weight)[0]

    gm = nrfx.trace(Turned(), torch.zeros(2, 4))
    at_once, later = nrfx.utilization(gm), nrfx.utilization(gm)
    expected = at_once.not_understood
    assert sum(entry.params for entry in expected) == 16
    for node in gm.graph.nodes:
        node.args = ()
    assert later.not_understood == expected
    with pytest.raises(AttributeError, match="cannot assign"):
        later.params = at_once.flops  # type: ignore[misc]
