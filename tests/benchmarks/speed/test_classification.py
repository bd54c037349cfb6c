"""Counts by module are compared where a module is called."""

import torch
from torch import nn

import nrfx
from benchmarks import count
from benchmarks.speed.classification import equal, names, network


class OfAnother(nn.Module):
    """Calls one layer, and reads the weight of another itself."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.read = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.called(x), self.read.weight)


def test_a_layer_that_is_not_called_is_not_compared() -> None:
    model, x = OfAnother().eval(), torch.zeros(1, 8)
    usage = nrfx.utilization(nrfx.trace(model, x))
    by_module = count.flops_by_module(model, x)
    assert [row.name for row in usage.rows] == ["called", "read"] and usage.flops.total == by_module[""]
    assert equal(usage.rows, by_module) == "1 of 1"
    assert equal(usage.rows, {**by_module, "called": 1}) == "0 of 1"


class OfItsOwn(nn.Module):
    """A block that has a parameter beside its layers, two levels below."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))
        self.block = nn.Sequential(nn.Linear(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.block(x) * self.scale
        return out


def test_a_module_around_others_is_not_compared_for_its_own_parameter() -> None:
    model, x = nn.Sequential(OfItsOwn()).eval(), torch.zeros(1, 8)
    usage = nrfx.utilization(nrfx.trace(model, x))
    assert {row.name for row in usage.rows} == {"0", "0.block.0"}
    assert equal(usage.rows, count.flops_by_module(model, x)) == "1 of 1"


def test_all_classification_models_are_taken_and_built_without_drawing_weights() -> None:
    assert len(names()) == 80 and {"resnet50", "vit_h_14", "swin_v2_b"} <= set(names())
    state = torch.random.get_rng_state()
    network("resnet18")
    network("convnext_tiny")  # draws again what is out of bounds
    assert torch.equal(torch.random.get_rng_state(), state)
