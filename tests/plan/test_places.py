from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nrfx
from tests.rewrite.rewriting import difference
from tests.tracing.models import Function
from tests.zoo import calibrated, cbr, with_dead

MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "roll of positions": lambda x: x.roll(x.shape[1] // 2, 2),
    "pad of positions": lambda x: F.pad(x, (x.shape[1] // 4, 0, 0, 0)),
    "pad to one size": lambda x: F.pad(x, (x.shape[1] // 4, 4 - x.shape[1] // 4)),
    "narrow positions": lambda x: x.narrow(2, 0, x.shape[1] // 2),
    "slice of positions": lambda x: x[..., : x.shape[1] // 2],
    "positions again": lambda x: x.repeat(1, 1, 1, x.shape[1] // 4),
    "windows of positions": lambda x: x.unfold(2, x.shape[1] // 4, 1).mean(-1),
    "parts by a number of channels": lambda x: torch.cat(x.split(x.shape[1] // 2, 1)[::-1], 1),
}


def network(op: Callable[[Tensor], Tensor], width: int = 8) -> nn.Module:
    return nn.Sequential(*cbr(3, width), Function(lambda _, x: op(x)), *cbr(width, 4), nn.Conv2d(4, 2, 1))


@pytest.mark.parametrize("times", [None, 1.0, 2.5])
@pytest.mark.parametrize("name", MOVES)
def test_a_movement_by_a_number_of_channels_keeps_that_number(name: str, times: float | None) -> None:
    model = with_dead(calibrated(network(MOVES[name])))
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gm = nrfx.trace(model, x)
    result = nrfx.compact(gm) if times is None else nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=times))
    assert result.changed and difference(model, result.module) < 1e-12
    if times != 1.0:
        conv = result.module.get_submodule("0")
        assert conv.out_channels == 8 and any("0" in note for note in result.notes)


def test_a_movement_of_channels_by_a_share_of_them_leaves_them_free() -> None:
    model = with_dead(calibrated(network(lambda x: x.roll(x.shape[1] // 2, 1))))
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    result = nrfx.compact(nrfx.trace(model, x))
    assert result.module.get_submodule("0").out_channels < 8
    assert difference(model, result.module) < 1e-12
