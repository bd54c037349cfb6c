"""Products between the examples of a batch are counted as the share of one, and the report says so."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import nrfx


class Mixed(nn.Module):
    """Two layers, and between them whatever `mix` makes of maps [examples, 8, positions]."""

    def __init__(self, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.mix = nn.Linear(6, 6), mix

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.one(x))


def each_with_each(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    return (flat @ flat.T).softmax(-1) @ flat


def positions(x: Tensor) -> Tensor:
    return (x @ x.mT).softmax(-1) @ x


def heads(x: Tensor) -> Tensor:
    y = x.unflatten(1, (2, 4))
    return torch.einsum("nhcp,nhdp->nhcd", y, y)


@pytest.mark.parametrize("examples", [2, 4])
def test_all_examples_together_make_the_multiply_adds_of_the_batch(examples: int) -> None:
    x = torch.randn(examples, 8, 6)
    usage = nrfx.utilization(nrfx.trace(Mixed(each_with_each), x))
    with FlopCounterMode(display=False) as counter:
        Mixed(each_with_each)(x)
    assert usage.flops.total * examples == counter.get_total_flops() // 2
    (note,) = usage.notes
    assert note.startswith("matmul: examples of the batch are multiplied with each other.")
    assert f"those of the {examples} examples of the trace, divided by {examples}" in note


@pytest.mark.parametrize("mix", [positions, heads])
@pytest.mark.parametrize("examples", [1, 2, 4, 8])
def test_products_within_an_example_are_none(mix: Callable[[Tensor], Tensor], examples: int) -> None:
    assert not nrfx.utilization(nrfx.trace(Mixed(mix), torch.randn(examples, 8, 6))).notes


def test_one_example_has_no_other() -> None:
    assert not nrfx.utilization(nrfx.trace(Mixed(each_with_each), torch.randn(1, 8, 6))).notes


class Loud(nn.Module):
    """Halves what is loud, by its values, so that its own code runs around its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        if y.mean() > 10:
            y = y / 2
        return self.two(y)


@pytest.mark.parametrize("examples", [1, 3])
def test_of_a_model_in_parts_the_report_says_that_multiply_adds_are_those_of_a_run(examples: int) -> None:
    gm = nrfx.trace(Loud(), torch.zeros(examples, 3, 4, 4), partial=True)
    usage = nrfx.utilization(gm)
    assert gm.facts.parts and usage.flops.total == examples * 16 * (3 * 8 + 8 * 2)
    assert usage.notes[0].startswith("The model is traced in parts: multiply-adds are those of its run on the example")
