"""Which weights can change width, and what holds the rest."""

import torch
from torch import nn

import nrfx
from benchmarks.coverage.shares import general, shares
from nrfx.analysis.spaces import channels_of


def test_shares_count_weights_with_their_bias_and_name_what_holds_the_rest() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1), nn.Softmax(1), nn.Conv2d(6, 4, 1))
    channels = channels_of(nrfx.trace(net, torch.zeros(2, 3, 4, 4)))
    got = shares(net, channels)
    first, second, third = 3 * 8 + 8, 8 * 6 + 6, 6 * 4 + 4
    assert got.mortal == got.free == (first + second) / (first + second + third)
    assert got.pins == (f"{third / (first + second + third):.1%} the network's output",)


def test_like_reasons_count_together() -> None:
    assert general("layer1.0.conv2 reads only some") == general("layer2.1.conv2 reads only some")
    assert general("meets the network's input") == "meets the network's input"
