"""Params by counting, flops by FlopCounterMode: what nrfx predicts from widths alone must equal both, exactly."""

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import nrfx


class Twice(nn.Module):
    """One convolution, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x))


class Positions(nn.Module):
    """A projection of positions, computed for each example from the sizes alone, or once for all."""

    def __init__(self, each: bool) -> None:
        super().__init__()
        self.each = each
        self.conv = nn.Conv2d(1, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, height, width = x.size(dim=0), x.size(dim=2), x.shape[3]
        places = torch.ones(n if self.each else 1, 1, height, width, dtype=x.dtype).cumsum(2)
        return x + self.conv(places)


def counted(model: nn.Module, image: Tensor) -> dict[str, int]:
    """Multiply-adds by module path, "Global" for all; FlopCounterMode counts each as two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    counts = counter.get_flop_counts()
    return {name.removeprefix(f"{type(model).__name__}."): sum(ops.values()) // 2 for name, ops in counts.items()}


def numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_a_module_called_twice_costs_its_params_once_and_its_flops_twice() -> None:
    usage = nrfx.utilization(nrfx.trace(Twice(), torch.zeros(1, 4, 8, 8)))
    assert (usage.params.total, usage.flops.total) == (4 * 4 * 9 + 4, 2 * 4 * 4 * 9 * 8 * 8)


def test_flops_are_those_of_one_example_whatever_the_batch() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 2))
    one, many = (nrfx.utilization(nrfx.trace(model, torch.zeros(n, 3, 8, 8))) for n in (1, 5))
    assert one.flops == many.flops
    assert one.flops.total == counted(model, torch.zeros(1, 3, 8, 8))["Global"]


@pytest.mark.parametrize("each", [True, False])
def test_what_is_computed_from_the_size_of_the_batch_costs_once_an_example(each: bool) -> None:
    model = Positions(each)
    one, many = (nrfx.utilization(nrfx.trace(model, torch.zeros(n, 4, 8, 8))) for n in (1, 4))
    assert one.flops.total == many.flops.total == counted(model, torch.zeros(1, 4, 8, 8))["Global"]


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d", "mobilenet_v3_small", "googlenet"])
def test_costs_equal_those_of_flop_counter_mode_in_all_and_per_node(name: str) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    model, image = torchvision.models.get_model(name, **options).eval(), torch.zeros(1, 3, 96, 96)
    usage = nrfx.utilization(nrfx.trace(model, image))
    by_module = counted(model, image)
    assert (usage.params.total, usage.flops.total) == (numbers(model), by_module["Global"])
    assert {row.name: row.flops for row in usage.rows} == {row.name: by_module.get(row.name, 0) for row in usage.rows}
    assert {row.name: row.params for row in usage.rows} == {
        row.name: numbers(model.get_submodule(row.name)) for row in usage.rows
    }


class Folded(nn.Module):
    """Attention by bmm, its 2 heads and the examples in one dim, and a product of sizes alone in the dtype of x."""

    def __init__(self, heads_first: bool) -> None:
        super().__init__()
        self.order = (2, 0, 1, 3) if heads_first else (0, 2, 1, 3)
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (
            part(x).view(b, n, 2, 4).permute(self.order).reshape(2 * b, n, 4) for part in (self.q, self.k, self.v)
        )
        y = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
        return y + torch.arange(n).to(x)[:, None] @ torch.ones(1, 4).to(x)


@pytest.mark.parametrize("heads_first", [True, False])
def test_the_flops_of_one_example_do_not_depend_on_the_batch_of_the_trace(heads_first: bool) -> None:
    model = Folded(heads_first).eval()
    one = counted(model, torch.zeros(1, 9, 8))["Global"]
    for batch in (1, 2, 3, 4, 6, 8):
        assert nrfx.utilization(nrfx.trace(model, torch.zeros(batch, 9, 8))).flops.total == one
