"""The names of tensors, tied ones and buffers included."""

import torch
from torch import nn

from nrfx.analysis.names import first_names, named_tensors


def test_a_tied_tensor_has_all_its_names_and_the_first_is_that_of_its_first_module() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3))
    net[1].weight = net[0].weight
    named = named_tensors(net)
    assert named["0.weight"] is named["1.weight"] is net[0].weight
    assert first_names(named)["1.weight"] == "0.weight" == first_names(named)["0.weight"]
    assert {name for name in named if name.startswith("2.")} == {
        "2.weight", "2.bias", "2.running_mean", "2.running_var", "2.num_batches_tracked"
    }  # fmt: skip
    assert list(named)[:2] == ["0.weight", "0.bias"] and "1.bias" not in named


def test_a_parameter_of_the_root_has_no_dot() -> None:
    root = nn.Module()
    root.scale = nn.Parameter(torch.ones(2))
    assert list(named_tensors(root)) == ["scale"]
