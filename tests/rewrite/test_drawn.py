"""The comparison of outputs on drawn inputs: in channels_last first, and as traced where that does not agree."""

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.rewrite import drawn
from tests.zoo import with_dead


def small(head: nn.Module) -> nn.Module:
    return with_dead(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), head), 0.4)


class Viewed(nn.Module):
    """A view of a map, which images in channels_last refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.view(x.size(0), -1))


def refused(*_: object) -> str:
    raise AssertionError("compared as traced")


def test_what_agrees_in_channels_last_is_not_compared_again(monkeypatch: pytest.MonkeyPatch) -> None:
    gm = nrfx.trace(small(nn.Conv2d(8, 4, 1)), torch.zeros(1, 3, 6, 6))
    monkeypatch.setattr(drawn, "_compared", refused)
    assert not any("not compared" in note for note in nrfx.compact(gm).notes)


def test_a_view_that_channels_last_refuses_is_compared_as_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    gm = nrfx.trace(small(Viewed()), torch.zeros(1, 3, 6, 6))
    assert not any("not compared" in note for note in nrfx.compact(gm).notes)
    monkeypatch.setattr(drawn, "_compared", refused)
    with pytest.raises(AssertionError, match="compared as traced"):
        nrfx.compact(gm)


def test_images_in_channels_last_have_the_same_numbers() -> None:
    specs = (((2, 3, 4, 5), torch.float32), ((2, 3), torch.int64))
    usual = drawn.drawn(specs, torch.device("cpu"))
    other = drawn.drawn(specs, torch.device("cpu"), layout=torch.channels_last)
    assert all(torch.equal(one, two) for one, two in zip(usual, other, strict=True))
    assert other[0].is_contiguous(memory_format=torch.channels_last) and not other[0].is_contiguous()
