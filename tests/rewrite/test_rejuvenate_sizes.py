"""Inputs of other sizes than the traced one: no constant that depends on a size may go into a bias, mean or carrier."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nrfx

EXACT = 1e-10
SIZES = ((2, 3, 8, 8), (3, 3, 9, 11), (1, 3, 14, 12), (2, 3, 5, 7))
Run = Callable[[Tensor], Tensor]


class Sized(nn.Module):
    """run(x) between a norm, of which two dead channels give constants and one gives 0, and a biased layer."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
            self.read, self.head = nn.Conv2d(6, 5, 1), nn.Linear(5, 4)
            nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        nn.init.zeros_(self.norm.weight[:3]), nn.init.uniform_(self.norm.bias, 0.2, 0.8)
        nn.init.zeros_(self.norm.bias[2:3])
        self.run = run
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        y = self.run(self.norm(self.conv(x)).relu())
        return self.head(self.read(y.reshape(*y.shape, *(1,) * (4 - y.dim()))).tanh().mean((2, 3)))


def removed_by_sound_rewrites(
    run: Run, model: nn.Module | None = None, sizes: Sequence[tuple[int, ...]] = SIZES
) -> int:
    """How many of the dead channels go, once all rewrites give what the model gives at every size that it takes."""
    model = model or Sized(run)
    gm = nrfx.trace(model, torch.randn(sizes[0]).double())
    ways = (("dense", 1.0), ("dense", 1.5), ("attention", 1.5))
    results = [nrfx.compact(gm)]
    results += [nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=params), scheme=scheme) for scheme, params in ways]
    for shape in sizes:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()
        with torch.no_grad():
            try:
                expected = model(x)
            except IndexError:
                continue
            gaps = [float((result.module(x) - expected).abs().max()) for result in results]
        assert max(gaps) < EXACT * max(1, float(expected.abs().max())), (shape, gaps)
    return max(int(result.removed["norm.weight"].sum()) if result.changed else 0 for result in results)


@pytest.mark.parametrize("run", [
    lambda x: x.flatten(2).softmax(2), lambda x: F.log_softmax(x, -1), lambda x: x.logsumexp((2, 3)),
    lambda x: (x + 0.5).prod(3), lambda x: x - x.shape[2], lambda x: x.shape[2] / (x + 2),
    lambda x: F.leaky_relu(x - 2, 1 / x.shape[2]), lambda x: F.celu(x - 2, alpha=x.shape[2] / 8),
])  # fmt: skip
def test_what_depends_on_a_size_for_every_constant_is_held(run: Run) -> None:
    assert removed_by_sound_rewrites(run) == 0


@pytest.mark.parametrize("run", [
    lambda x: x.sum(2), lambda x: x.sum((2, 3)) / (x.shape[2] * x.shape[3]), lambda x: x.norm(dim=(2, 3)),
    lambda x: x.cumsum(2)[:, :, -1], lambda x: F.normalize(x.flatten(2), dim=2), lambda x: x * x.shape[2],
    lambda x: x / x.shape[2], lambda x: x / x.shape[0], lambda x: x * math.log(x.shape[2]),
    lambda x: x * torch.full_like(x, 1 / x.shape[2]), lambda x: x.tril(), lambda x: x.triu(1),
    lambda x: F.avg_pool2d(x, 3, 1, x.shape[2] % 2), lambda x: F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2)),
    lambda x: F.fold(F.unfold(x, 2, stride=2), x.shape[2:], 2, stride=2), lambda x: F.pad(x, (1, 1))[..., 1:9],
    lambda x: torch.cat([x, 2 * x], 3)[..., 9 % x.shape[3] + 8], lambda x: torch.cat([x, 2 * x], 3)[..., :8],
    lambda x: torch.cat([x, 2 * x], 3).std(3), lambda x: torch.cat([x, 2 * x], 3).kthvalue(9, 3)[0],
    lambda x: x.reshape(x.shape[0], x.shape[1], -1, x.shape[3]).expand(-1, -1, -1, -1).sum(2),
    lambda x: F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4)).unflatten(3, (-1, 4))[..., -1],
    lambda x: torch.cat([F.pad(x, (1, 1)), 2 * x], 3)[..., 7], lambda x: torch.cat([x, torch.zeros_like(x)])[1:3],
])  # fmt: skip
def test_what_depends_on_a_size_for_all_constants_but_0_lets_0_go(run: Run) -> None:
    assert removed_by_sound_rewrites(run) == 1


@pytest.mark.parametrize("run", [
    lambda x: x.mean((2, 3)), lambda x: x.amax(2), lambda x: x.max(2).values, lambda x: x.median(3)[0],
    lambda x: x.var((2, 3)), lambda x: x.norm(p=float("inf"), dim=3), lambda x: x.flatten(2).topk(4)[0],
    lambda x: x.cummax(2)[0], lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    lambda x: F.adaptive_avg_pool2d(x, 3), lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"),
    lambda x: x[..., 1:-1], lambda x: x.roll(x.shape[2] // 2, 2), lambda x: F.unfold(x, 1), lambda x: x / 7,
])  # fmt: skip
def test_what_is_the_same_at_every_size_lets_all_go(run: Run) -> None:
    assert removed_by_sound_rewrites(run) == 3


AT_THE_BORDER = {  # what index 9 or 4 of the padded width, 8 in the trace, meets at no other size of SIZES
    "an index": lambda x: F.pad(x, (1, 1))[..., 9],
    "a slice": lambda x: F.pad(x, (0, 4))[..., 8:10],
    "select": lambda x: F.pad(x, (1, 1)).select(3, 9)[..., None],
    "narrow": lambda x: F.pad(x, (0, 3)).narrow(3, 8, 2),
    "unbind": lambda x: F.pad(x, (1, 1)).unbind(3)[9],
    "split": lambda x: F.pad(x, (0, 9)).split(8, 3)[1],
    "tensor_split": lambda x: F.pad(x, (0, 9)).tensor_split((9, 14), 3)[1],
    "a negative index": lambda x: F.pad(x, (8, 0))[..., -9],
    "flip": lambda x: F.pad(x, (0, 4)).flip(3)[..., 3],
    "roll": lambda x: F.pad(x, (1, 1)).roll(3, 3)[..., 2],
    "rot90": lambda x: torch.rot90(F.pad(x, (1, 1)), 1, (2, 3))[:, :, 0],
    "repeat": lambda x: F.pad(x, (1, 1)).repeat(1, 1, 1, 3)[..., 19],
    "windows": lambda x: F.pad(x, (0, 3)).unfold(3, 2, 2)[..., 4, :],
    "windows that leave the end out": lambda x: F.pad(x, (0, 1)).unfold(3, 4, 3).flatten(3),
    "F.unfold": lambda x: F.unfold(x, (1, 3), padding=(0, 1)).unflatten(1, (-1, 3))[:, :, 2, 7],
    "a view": lambda x: F.pad(x, (0, 4)).flatten(2)[..., 9],
    "another sign": lambda x: (2 * F.pad(x, (1, 1)))[..., 8:9],
    "a value of its own": lambda x: F.pad(x, (0, 2), value=0.0)[..., 8:9].relu(),
    "a pad to a length": lambda x: F.pad(x, (0, 20 - x.shape[3]))[..., 10],
    "the batch": lambda x: F.pad(x, (0, 0, 0, 0, 0, 0, 0, 2))[2:3],
    "a crop": lambda x: F.pad(F.pad(x, (0, 9)), (-8, 0)),
    "beside others": lambda x: torch.cat([F.pad(x, (1, 1)), F.pad(x, (2, 0))], 3)[..., 9:10],
}


@pytest.mark.parametrize("run", AT_THE_BORDER.values(), ids=AT_THE_BORDER)
def test_a_place_that_is_padded_at_one_size_alone_holds_all_constants_but_0(run: Run) -> None:
    assert removed_by_sound_rewrites(run) == 1


@pytest.mark.parametrize("run", [
    lambda x: F.pad(x, (1, 1), value=2.0)[..., 8:9], lambda x: torch.cat([x, x.new_ones(x.shape)], 3)[..., 8:9],
    lambda x: torch.cat([x, x.new_ones(x.shape)], 3)[..., 7:8],
    lambda x: torch.cat([x.new_ones(x.shape), x], 3)[..., 7:8],
    lambda x: torch.cat([x.new_ones(x.shape), x], 3)[..., 8:9],
])  # fmt: skip
def test_a_place_that_something_else_takes_at_another_size_holds_all(run: Run) -> None:
    assert removed_by_sound_rewrites(run) == 0


@pytest.mark.parametrize("run", [
    lambda x: F.pad(x, (1, 1))[..., 1:], lambda x: F.pad(x, (0, 9))[..., 3:9], lambda x: F.pad(x, (1, 1)).roll(1, 3),
    lambda x: torch.cat([x, x], 3)[..., 9:10], lambda x: F.pad(x, (1, 1, 0, 0), mode="replicate")[..., 8],
])  # fmt: skip
def test_zeros_that_a_weight_reads_beside_the_channel_let_all_go(run: Run) -> None:
    assert removed_by_sound_rewrites(run) == 3


class Flat(Sized):
    """A linear layer reads run(x), of 6 channels and 144 positions, as one row: what is where depends on the size."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.read = nn.Linear(6 * 144, 5).double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(self.run(self.norm(self.conv(x)).relu()).flatten(1)))


@pytest.mark.parametrize("run", [
    lambda x: F.pad(x, (0, 12 - x.shape[3], 0, 12 - x.shape[2])),
    lambda x: F.pad(x, (12 - x.shape[3], 0, 12 - x.shape[2], 0)).transpose(2, 3),
    lambda x: F.pad(x.flatten(2), (0, 144 - x.shape[2] * x.shape[3])),
    lambda x: F.pad(torch.cat([x, 2 * x], 2), (0, 18 - x.shape[3]))[:, :, :8],
])  # fmt: skip
def test_a_flat_map_whose_border_another_size_moves_holds_all_constants_but_0(run: Run) -> None:
    assert removed_by_sound_rewrites(run, Flat(run), (*SIZES[:2], (2, 3, 4, 12), (2, 3, 12, 6))) == 1


class Row(Sized):
    """A linear layer reads 96 numbers that run takes from all channels and positions as one row."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.read = nn.Linear(96, 5).double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(self.run(self.norm(self.conv(x)).relu().flatten(1))))


@pytest.mark.parametrize("run", [
    lambda x: x[:, :96], lambda x: x[:, -192:-96], lambda x: x.narrow(1, 20, 96), lambda x: x.split(96, 1)[1],
    lambda x: x.split([96, x.shape[1] - 96], 1)[0], lambda x: torch.tensor_split(x, [96], 1)[0],
    lambda x: x.unfold(1, 96, 32)[:, 1], lambda x: x.roll(10, 1).unflatten(1, (6, -1))[:, :, :16].flatten(1),
    lambda x: torch.cat([x.select(1, i)[:, None] for i in range(96)], 1),
])  # fmt: skip
def test_places_of_a_flat_map_by_number_hold_all(run: Run) -> None:
    assert removed_by_sound_rewrites(run, Row(run)) == 0


@pytest.mark.parametrize("run", [
    lambda x: x.flip(1).unflatten(1, (6, -1)), lambda x: torch.stack([p.unflatten(1, (2, -1)) for p in x.chunk(3, 1)]),
    lambda x: torch.cat(x[:, :].chunk(2, 1)[::-1], 1).unflatten(1, (6, -1)),
])  # fmt: skip
def test_equal_parts_of_a_flat_map_are_no_places_by_number(run: Run) -> None:
    class Parts(Sized):
        def forward(self, x: Tensor) -> Tensor:
            y = self.run(self.norm(self.conv(x)).relu().flatten(1))
            y = y.mean(-1) if y.dim() == 3 else y.mean(-1).transpose(0, 1).flatten(1)
            return self.head(self.read(y[..., None, None]).flatten(1))

    removed_by_sound_rewrites(run, Parts(run))
    pins = nrfx.utilization(nrfx.trace(Parts(run), torch.randn(SIZES[0]).double())).pins
    assert not any("flat map" in pin.reason for pin in pins)


def test_gammas_are_not_scaled_where_another_size_takes_the_values_of_others() -> None:
    class Two(Sized):
        def __init__(self) -> None:
            super().__init__(torch.tanh)
            self.other = nn.BatchNorm2d(6).double().eval()
            nn.init.constant_(self.norm.weight, 0.1), nn.init.constant_(self.other.weight, 0.2)
            with torch.no_grad():
                self.norm.weight[:2] = self.other.weight[:2] = 0

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            both = torch.cat([self.norm(y).relu(), self.other(y).relu()], 3)
            return self.head(self.read(both[..., 8:9]).mean((2, 3)))

    removed_by_sound_rewrites(torch.tanh, Two())


def test_a_channel_that_a_size_holds_says_so() -> None:
    for run, reason in (
        (lambda x: x / x.shape[2], "combines its constant with a size of the input"),
        (lambda x: x.sum(2), "makes of its constant what depends on the number of positions"),
        (lambda x: torch.cat([x, 2 * x], 3)[..., :8], "its constant is not the same at all of them"),
    ):
        usage = nrfx.utilization(nrfx.trace(Sized(run), torch.randn(SIZES[0]).double()))
        assert any(reason in text for text, _ in usage.held), usage.held
