"""Inputs of other sizes than the traced one: no constant that depends on a size may go into a bias, mean or carrier."""

import math
from collections.abc import Callable

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


def removed_by_sound_rewrites(run: Run) -> int:
    """How many of the dead channels go, once all rewrites give what the model gives at every size."""
    model = Sized(run)
    gm = nrfx.trace(model, torch.randn(SIZES[0]).double())
    budget = nrfx.Budget.relative(gm, params=1.5)
    results = [nrfx.compact(gm), *(nrfx.rejuvenate(gm, budget, scheme=scheme) for scheme in ("dense", "attention"))]
    for shape in SIZES:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()
        with torch.no_grad():
            expected = model(x)
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


def test_a_channel_that_a_size_holds_says_so() -> None:
    for run, reason in (
        (lambda x: x / x.shape[2], "combines its constant with a size of the input"),
        (lambda x: x.sum(2), "makes of its constant what depends on the number of positions"),
        (lambda x: torch.cat([x, 2 * x], 3)[..., :8], "its constant is not the same at all of them"),
    ):
        usage = nrfx.utilization(nrfx.trace(Sized(run), torch.randn(SIZES[0]).double()))
        assert any(reason in text for text, _ in usage.held), usage.held
