"""Channels: labels, channels and spaces, and the parameters that more than one place reads."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nrfx
from nrfx.analysis.channels import Channels, first_readings
from nrfx.analysis.spaces import channels_of
from nrfx.labels import NONE, OPAQUE
from tests.zoo import IMAGE, cbr, vgg_bn


class ReadTwice(nn.Module):
    """A convolution called twice, and once more as a function of its weight; a tied pair of linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = cbr(3, 8), nn.Conv2d(8, 8, 1)
        self.head, self.tied = nn.Linear(8, 8), nn.Linear(8, 8)
        self.tied.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.conv(self.stem(x)))
        return self.tied(self.head((y + F.conv2d(y, 2 * self.conv.weight)).mean((2, 3))))


def analysed(model: nn.Module) -> Channels:
    return channels_of(nrfx.trace(model, torch.zeros(IMAGE)))


def test_parameters_that_are_tied_or_read_by_a_node_itself_are_shared() -> None:
    assert analysed(ReadTwice()).shared == {"conv.weight", "head.weight"}
    assert not analysed(vgg_bn()).shared


def test_negative_labels_lead_to_no_channel_and_no_space() -> None:
    channels = analysed(vgg_bn())
    labels = torch.cat([torch.tensor([NONE, OPAQUE]), channels.births["4"][:2]])
    second = next(space for space in channels.spaces if "4" in space.births)
    assert channels.spaces_along(labels).tolist() == [NONE, OPAQUE, second.index, second.index]
    assert channels.channels_along(labels)[:2].tolist() == [NONE, OPAQUE]
    assert channels.space_of[channels.channels_along(labels)[2:]].tolist() == [second.index] * 2


def test_readings_are_those_of_the_first_visit() -> None:
    channels = analysed(ReadTwice())
    reading = first_readings(channels.steps)["conv"]
    assert torch.equal(reading.cols, channels.births["stem.0"])
    assert torch.equal(reading.rows, channels.births["conv"])
