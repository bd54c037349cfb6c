"""WidthConstraints: what an attempt to resize teaches about the spaces of a mismatch."""

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.analysis.channels import Channels, Mismatch
from nrfx.analysis.spaces import channels_of
from nrfx.errors import RewriteError
from nrfx.plan.constraints import WidthConstraints
from tests.zoo import cbr


def analysed() -> tuple[Channels, Tensor, Tensor, Mismatch]:
    """Channels of two layers, all of them kept, and a mismatch of the labels of the first where the second is read."""
    channels = channels_of(nrfx.trace(nn.Sequential(cbr(3, 8), cbr(8, 6), nn.Conv2d(6, 2, 1)), torch.zeros(1, 3, 8, 8)))
    kept = torch.ones_like(channels.space_of, dtype=torch.bool)
    width = torch.tensor([space.width for space in channels.spaces])
    return channels, kept, width, Mismatch("_2", "8 do not meet 9", (channels.births["0.0"],))


def test_a_space_that_is_fixed_already_is_an_error() -> None:
    channels, kept, width, mismatch = analysed()
    constraints = WidthConstraints(no_change={"0.0": "once", "1.0": "once"})
    with pytest.raises(RewriteError, match=r"_2: 8 do not meet 9\. All spaces concerned keep their width already"):
        constraints.add(channels, kept, width, mismatch)


def test_a_space_that_grew_may_only_shrink() -> None:
    channels, kept, width, mismatch = analysed()
    constraints = WidthConstraints()
    constraints.add(channels, kept, width + 1, mismatch)
    assert constraints == WidthConstraints(no_growth={"0.0": "_2: 8 do not meet 9"})


def test_where_none_grew_the_width_stays() -> None:
    channels, kept, width, mismatch = analysed()
    constraints = WidthConstraints()
    constraints.add(channels, kept, width, mismatch)
    assert constraints == WidthConstraints(no_change={"0.0": "_2: 8 do not meet 9"})


def test_a_mismatch_without_labels_concerns_what_reaches_its_node() -> None:
    channels, kept, width, _ = analysed()
    constraints = WidthConstraints()
    constraints.add(channels, kept, width + 1, Mismatch("_1_1", "other sizes", ()))
    assert constraints.no_growth.keys() == {"1.0"}
