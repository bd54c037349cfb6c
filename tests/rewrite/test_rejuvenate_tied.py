"""Labels that an op ties, or that occur several times, with different constants, gammas or offsets: none of them may
stand for the others.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nrfx
from tests.rewrite.rewriting import SCHEMES, images

EXACT = 1e-12
Run = Callable[[nn.Module, Tensor], Tensor]


class Tied(nn.Module):
    """run(self, x) between a norm whose first channels are dead and a last convolution, all of odd numbers."""

    def __init__(self, run: Run, width: int, dead: int, reads: int, kernel: int = 1, **parts: nn.Module) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.norm = nn.Conv2d(3, width, 1), nn.BatchNorm2d(width)
            self.read = nn.Conv2d(reads, 4, kernel, padding=kernel // 2)
            for name, part in parts.items():
                self.add_module(name, part)
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.weight, 0.05, 1.5), nn.init.normal_(module.bias)
                    module.running_mean.normal_()
        nn.init.zeros_(self.norm.weight[:dead])
        self.run = run
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.run(self, self.norm(self.conv(x))))


def worst(model: nn.Module, x: Tensor) -> tuple[float, int]:
    """(the largest relative difference of the outputs after any rewrite, the most gammas that one removed)."""
    gm = nrfx.trace(model, x)
    budget = nrfx.Budget.relative(gm, params=1.0)
    results = [nrfx.compact(gm), *(nrfx.rejuvenate(gm, budget, scheme=scheme) for scheme in SCHEMES)]
    with torch.no_grad():
        expected = model(x)
        gaps = [float((result.module(x) - expected).abs().max() / expected.abs().max()) for result in results]
    return max(gaps), max(sum(int(dead.sum()) for dead in result.removed.values()) for result in results)


def shuffled(x: Tensor) -> Tensor:
    return F.pixel_shuffle(x, 2)


@pytest.mark.parametrize("run", [
    lambda m, x: F.adaptive_avg_pool2d(shuffled(x), 1), lambda m, x: F.max_pool2d(shuffled(x), 2),
    lambda m, x: F.interpolate(shuffled(x), scale_factor=2), lambda m, x: F.avg_pool2d(shuffled(x), 3, 1, 1),
    lambda m, x: F.max_pool2d(x.view(x.shape[0], 3, 32, 32), 2), lambda m, x: shuffled(x).mean((2, 3), keepdim=True),
])  # fmt: skip
@pytest.mark.parametrize("dead", [1, 4, 7])
def test_a_pool_over_several_labels_of_a_channel_keeps_them_all_unless_all_are_one_constant(
    run: Run, dead: int
) -> None:
    gap, removed = worst(Tied(run, 12, dead, 3), images())
    assert gap < EXACT and removed == 0  # the four betas of a channel differ


def test_a_pool_over_several_labels_with_one_constant_lets_them_go() -> None:
    model = Tied(lambda m, x: F.max_pool2d(shuffled(torch.relu(x)), 2), 12, 5, 3)
    nn.init.zeros_(model.norm.bias)
    gap, removed = worst(model, images())
    assert gap < EXACT and removed == 4


def test_gammas_that_a_pool_reads_as_one_channel_are_not_rescaled_apart() -> None:
    model = Tied(lambda m, x: F.avg_pool2d(shuffled(torch.relu(x)), 2), 16, 4, 4)
    with torch.no_grad():
        model.norm.weight[4:] = torch.linspace(0.1, 1.5, 12)
    gap, removed = worst(model, images())
    assert gap < EXACT and removed == 0


@pytest.mark.parametrize(("run", "width"), [
    (shuffled, 4), (lambda y: F.avg_pool2d(shuffled(y), 2), 4), (lambda y: torch.cat([y[:, ::2], y[:, 1::2]], 2), 8),
])  # fmt: skip
def test_rows_with_offsets_of_their_own_do_not_share_a_running_mean(
    run: Callable[[Tensor], Tensor], width: int
) -> None:
    parts = {"wide": nn.Conv2d(8, 16, 1, bias=False), "after": nn.BatchNorm2d(width)}
    model = Tied(lambda m, x: F.relu(m.after(run(m.wide(F.softplus(x))))), 8, 3, width, **parts)
    gap, removed = worst(model, images())
    assert gap < EXACT and removed == 3


@pytest.mark.parametrize("run", [
    lambda y: torch.cat([y, y], 1), lambda y: y.repeat(1, 2, 1, 1), lambda y: y.repeat_interleave(2, 1),
    lambda y: y[:, None].expand(-1, 2, -1, -1, -1).flatten(1, 2),
])  # fmt: skip
def test_a_running_mean_takes_the_offset_of_a_row_wherever_the_row_occurs(run: Callable[[Tensor], Tensor]) -> None:
    parts = {"wide": nn.Conv2d(8, 8, 1, bias=False), "after": nn.BatchNorm2d(16)}
    model = Tied(lambda m, x: F.relu(m.after(run(m.wide(F.softplus(x))))), 8, 3, 16, **parts)
    gap, removed = worst(model, images())
    assert gap < EXACT and removed == 3


@pytest.mark.parametrize("signs", [(1, -1), (-1, 1)])
def test_a_carrier_must_have_a_constant_in_each_column_that_it_stands_for(signs: tuple[int, int]) -> None:
    # relu(1) = 1 and relu(-1) = 0: a carrier's beta of 1 reaches one of its two columns alone
    model = Tied(lambda m, x: torch.relu(torch.cat([sign * x for sign in signs], 1)), 8, 4, 16, kernel=3)
    with torch.no_grad():
        model.norm.bias[:4] = torch.tensor([-0.5, 0.5, -0.7, 0.3])
    gap, removed = worst(model, images())
    assert gap < EXACT and removed == 2  # those whose constants are in the column that a carrier reaches


def test_zeros_around_a_map_without_a_batch_dim_are_averaged_in() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.read = nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.Conv1d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = F.softplus(self.norm(self.conv(x).t()).t())
            return self.read(F.avg_pool1d(F.pad(y, (1, 1)), 3, 1))

    model = Single().double().eval()
    nn.init.zeros_(model.norm.weight[:3])
    gap, removed = worst(model, images()[0, :, 0])
    assert gap < EXACT and removed == 0
