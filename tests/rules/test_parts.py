"""Parts of an axis keep their channels: what states where they end is written anew."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nrfx

IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Take = Callable[[Tensor], tuple[Tensor, ...]]


class Parts(nn.Module):
    """Two parts of eight channels, each read by a convolution of its own; a norm behind both."""

    def __init__(self, take: Take, sizes: tuple[int, int]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.take, (first, second) = take, sizes
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.first = nn.Conv2d(first, first, 3, padding=1, groups=first)
        self.second = nn.Conv2d(second, 5, 1)
        self.after, self.last = nn.BatchNorm2d(first + 5), nn.Conv2d(first + 5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.take(torch.relu(self.norm(self.conv(x))))
        return self.last(torch.relu(self.after(torch.cat([self.first(a), self.second(b)], 1))))


def prepared(take: Take, sizes: tuple[int, int], dead: list[int]) -> nn.Module:
    model = Parts(take, sizes).double().eval()
    with torch.no_grad():
        model.norm.weight[dead] = 0
        model.norm.bias.uniform_(-0.5, 0.5)
        model.norm.bias[dead] = -0.3  # behind a relu they are 0: none is held at a border
    return model


FOUR: dict[str, Take] = {
    "chunk": lambda x: x.chunk(2, 1),
    "torch.chunk": lambda x: torch.chunk(x, 2, dim=1),
    "split": lambda x: x.split(4, 1),
    "tensor_split": lambda x: torch.tensor_split(x, 2, 1),
    "slices": lambda x: (x[:, :4], x[:, 4:]),
    "slices from the end": lambda x: (x[:, 0:-4], x[:, -4:, :, :]),
    "narrow": lambda x: (x.narrow(1, 0, 4), torch.narrow(x, 1, 4, 4)),
    "a view": lambda x: x.unflatten(1, (2, -1)).unbind(1),
}
FIVE: dict[str, Take] = {
    "split by a list": lambda x: torch.split(x, [5, 3], dim=1),
    "split_with_sizes": lambda x: x.split_with_sizes((5, 3), 1),
    "tensor_split by places": lambda x: x.tensor_split((5,), 1),
    "slices": lambda x: (x[:, :5], x[:, 5:]),
}


def widths(module: nn.Module) -> tuple[int, int]:
    return module.get_submodule("first").weight.shape[0], module.get_submodule("second").weight.shape[1]


@pytest.mark.parametrize(
    ("take", "sizes", "left"),
    [
        *(pytest.param(take, (4, 4), (1, 3), id=f"{name}, halves") for name, take in FOUR.items() if name != "a view"),
        *(pytest.param(take, (5, 3), (2, 2), id=f"{name}, five and three") for name, take in FIVE.items()),
    ],
)
def test_a_part_loses_its_dead_channels_alone_and_gets_its_own_new_ones(
    take: Take, sizes: tuple[int, int], left: tuple[int, int], tmp_path: Path
) -> None:
    gm = nrfx.trace(prepared(take, sizes, [0, 1, 2, 5]), IMAGES)
    result = nrfx.compact(gm)
    # a grouped convolution with one group left would be an ordinary one: so it keeps two
    assert widths(result.module) == (max(left[0], 2), left[1])
    assert nrfx.verify(gm, result, IMAGES) < 1e-12
    nrfx.save(tmp_path / "compact.pt", result.module)
    loaded = nrfx.load(tmp_path / "compact.pt", Parts(take, sizes).double())
    assert torch.equal(loaded.eval()(IMAGES), result.module.eval()(IMAGES))
    wider = nrfx.rejuvenate(loaded, nrfx.Budget.relative(gm, params=1.5), scheme="dense")
    assert all(new > old for new, old in zip(widths(wider.module), left, strict=True))
    assert nrfx.verify(loaded, wider, IMAGES) < 1e-12


def test_halves_of_a_view_stay_halves() -> None:
    gm = nrfx.trace(prepared(FOUR["a view"], (4, 4), [0, 1, 4, 5]), IMAGES)
    result = nrfx.compact(gm)
    assert widths(result.module) == (2, 2) and nrfx.verify(gm, result, IMAGES) < 1e-12
    gm = nrfx.trace(prepared(FOUR["a view"], (4, 4), [0, 1, 5]), IMAGES)
    result = nrfx.compact(gm)
    assert widths(result.module) == (4, 4) and "it does not take another width" in " ".join(result.notes)


def test_a_size_that_the_network_computes_is_not_written_as_a_number() -> None:
    def take(x: Tensor) -> tuple[Tensor, ...]:
        return x.split(x.size(1) // 2, 1)

    gm = nrfx.trace(prepared(take, (4, 4), [0, 1, 4, 5]), IMAGES)
    result = nrfx.compact(gm)
    assert widths(result.module) == (2, 2) and nrfx.verify(gm, result, IMAGES) < 1e-12
    gm = nrfx.trace(prepared(take, (4, 4), [0, 1, 5]), IMAGES)
    assert widths(nrfx.compact(gm).module) == (4, 4)


def test_one_channel_that_is_read_apart_is_told_and_stays() -> None:
    gm = nrfx.trace(prepared(lambda x: (x[:, :7], x[:, 7:]), (7, 1), [0, 1, 7]), IMAGES)
    result = nrfx.compact(gm)
    assert widths(result.module) == (5, 1) and nrfx.verify(gm, result, IMAGES) < 1e-12
    assert any(
        "second.weight reads it apart from the other channels of its layer" in pin.reason
        for pin in nrfx.utilization(gm).pins
    )


class Gated(nn.Module):
    """A layer of twelve channels times twelve others, of which a convolution reads the last four: gate, rest, read."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into, self.conv = nn.Conv2d(3, 24, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.norm, self.last = nn.BatchNorm2d(12), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate, rest, read = torch.split(self.into(x), (12, 8, 4), dim=1)
        return self.last(self.norm(torch.nn.functional.silu(gate) * torch.cat([rest, self.conv(read)], 1)))


def test_the_gate_of_a_part_grows_beside_it() -> None:
    model = Gated().double().eval()
    with torch.no_grad():
        model.norm.weight[[1, 2, 3, 9]] = 0
    gm = nrfx.trace(model, IMAGES)
    result = nrfx.compact(gm)
    assert result.module.get_submodule("into").weight.shape[0] == 16
    assert nrfx.verify(gm, result, IMAGES) < 1e-12
    wider = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=2.0), scheme="dense")
    assert wider.module.get_submodule("into").weight.shape[0] > 24
    assert wider.module.get_submodule("conv").weight.shape[0] > 4
    assert nrfx.verify(gm, wider, IMAGES) < 1e-12
