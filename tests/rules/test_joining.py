"""Labels side by side: those that do not change along a dim are joined in the memory of one, and still have a size."""

import pytest
import torch

from nrfx.labels import NONE, OPAQUE, along, fill
from nrfx.rules.joining import _cat


def test_labels_whose_other_dims_differ_do_not_fit_side_by_side() -> None:
    heads, zeros = along(torch.arange(2), 1, (2, 2, 16, 8)), fill(OPAQUE, (2, 4, 16, 24))
    for parts in ((heads, zeros), (zeros, heads), (fill(NONE, (1, 4)), fill(NONE, (3, 4)))):
        with pytest.raises(RuntimeError, match="do not fit side by side on dim"):
            _cat(parts, -1)


def test_labels_side_by_side_are_those_that_torch_gives() -> None:
    heads, zeros = along(torch.arange(4), 1, (2, 4, 16, 8)), fill(OPAQUE, (2, 4, 16, 24))
    assert torch.equal(_cat((heads, zeros), -1), torch.cat((heads, zeros), -1))
