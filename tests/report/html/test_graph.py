"""The picture: every layer is in it, norms in the row of their layer, and additions join what they add."""

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.report.html.graph import Graph, graph
from nrfx.report.layer_tree import lines
from tests import zoo
from tests.report.networks import measured


def pictured(u: nrfx.Utilization) -> Graph:
    return graph(u.stops, lines(u.rows))


def of(model: nn.Module) -> tuple[Graph, list[str]]:
    u = nrfx.utilization(nrfx.trace(model, torch.zeros(zoo.IMAGE)))
    return pictured(u), [line.label for line in lines(u.rows)]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = zoo.cbr(3, 8), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(torch.relu(self.conv(self.stem(x))))
        return y


class Shared(nn.Module):
    """What a norm gives is read by two layers: it is not a part of either."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.a, self.b = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.a(y) + self.b(y)


@pytest.mark.parametrize("name", zoo.SMALL)
def test_every_line_is_in_the_picture(name: str) -> None:
    u = measured(name)
    shown = {place.line for place in pictured(u).places}
    assert shown - {None} == set(range(len(lines(u.rows))))


def test_a_norm_stands_in_the_row_of_its_layer_and_an_addition_reads_both_arms() -> None:
    drawn, labels = of(zoo.resnet())
    rows = [labels[place.line] if place.line is not None else place.stop.op for place in drawn.places]
    assert rows[:5] == ["input", "conv1+bn1", "conv1+bn1", "conv2+bn2", "iadd"]
    assert drawn.places[4].reads == ("layer1.0.conv2+bn2", "conv1+bn1") and drawn.places[4].stop.adds


def test_a_layer_that_is_called_twice_has_two_rows() -> None:
    drawn, labels = of(Twice())
    assert [labels[place.line] for place in drawn.places if place.line is not None] == ["0+1", "conv", "conv"]


def test_a_norm_that_two_layers_read_has_a_row_of_its_own() -> None:
    drawn, _ = of(Shared())
    names = [place.stop.layers for place in drawn.places]
    assert ("norm",) in names and ("a",) in names and ("b",) in names
