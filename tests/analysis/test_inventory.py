"""What a network registers: classes and shapes under all names."""

import torch
from torch import nn

import nrfx
from nrfx.analysis.inventory import Inventory


def test_tied_modules_and_tensors_stand_under_all_paths_and_count_once() -> None:
    layer = nn.Linear(2, 3)
    net = nn.Sequential(layer, nn.Linear(3, 2), layer, nn.Linear(3, 2, bias=False))
    net[3].weight = net[1].weight
    inventory = Inventory.of(nrfx.trace(net, torch.zeros(1, 2)))
    assert [(each.path, each.first) for each in inventory.modules if each.kind is nn.Linear] == [
        *(("0", True), ("1", True), ("2", False), ("3", True))
    ]
    assert {name: tuple(shape) for name, shape in inventory.parameters.items()} == {
        **{"0.weight": (3, 2), "0.bias": (3,), "1.weight": (2, 3), "1.bias": (2,)}
    }
    assert list(inventory.names_below("3")) == ["3.weight"]
    assert len(list(inventory.names_below(""))) == 7
