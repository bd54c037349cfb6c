"""Commands run in this process, and models that they are given by name."""

import math

import pytest
import torch
from torch import Tensor, nn

from nrfx.cli.commands import main
from tests import zoo

IMAGE = ["--input", "1,3,16,16"]


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


def wasteful() -> nn.Module:
    return zoo.with_dead(zoo.resnet())


def diverged() -> nn.Module:
    model = zoo.vgg_bn()
    with torch.no_grad():
        zoo.norms(model)[1].weight[3] = math.nan
    return model


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
