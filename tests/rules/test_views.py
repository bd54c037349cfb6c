"""Views by sizes."""

import pytest
import torch

from nrfx.rules.views import _shaped


@pytest.mark.parametrize("seed", range(30))
def test_a_view_that_reads_dims_that_repeat_once_is_what_reshape_gives(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    shape = [2, 3, 2, 3]
    repeats = [draw(3) > 0 for _ in shape]
    x = torch.arange(36).view(shape)
    for dim, once in enumerate(repeats):
        x = x.narrow(dim, 0, 1).expand_as(x) if once else x
    for sizes in ([2, 3, 6], [2, 3, -1], [6, 6], [2, 18], [2, 3, 3, 2], [2, 9, 2], [-1], [2, 3, 2, 3], [2, 3, 2, 1, 3]):
        assert torch.equal(_shaped(sizes, x), x.reshape(sizes))
    with pytest.raises(RuntimeError, match=r"shape '\[2, 3, 5\]' is invalid for input of size 36"):
        _shaped([2, 3, 5], x)
