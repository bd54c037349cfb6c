"""Commands run in this process, and models that they are given by name."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nrfx.cli.commands import main
from tests import zoo

IMAGE = ["--input", "1,3,16,16"]


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


class Sized(nn.Module):
    """A convolution and a norm, whose output depends on the height in the way given."""

    def __init__(self, sign: Callable[[Tensor], int]) -> None:
        super().__init__()
        self.conv, self.norm, self.sign = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), sign

    def forward(self, x: Tensor) -> Tensor:
        return self.sign(x) * self.norm(self.conv(x)).mean((2, 3))


def keyed() -> nn.Module:
    """A graph does not see the height in a text: at other heights it is not what its model is."""
    return Sized(lambda x: {"16": 1}.get(f"{x.shape[2]}", -1))


def branching() -> nn.Module:
    return Sized(lambda x: 1 if x.shape[2] == 16 else -1)


def wasteful() -> nn.Module:
    return zoo.with_dead(zoo.resnet())


def diverged() -> nn.Module:
    model = zoo.vgg_bn()
    with torch.no_grad():
        zoo.norms(model)[1].weight[3] = math.nan
    return model


def gammaless() -> nn.Module:
    """Of images of the digits."""
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def without_gamma() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 2))


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line on stderr of a command that must exit 2 and print nothing else."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("nrfx: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out
