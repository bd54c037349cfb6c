"""Digests: of dtype, shape and every bit."""

import pytest
import torch

from nrfx.checkpoint.digests import Digests, digest
from nrfx.errors import CheckpointError

DTYPES = (torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float64, torch.complex64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 2)])
def test_a_digest_changes_with_dtype_shape_and_every_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.zeros(shape, dtype=dtype)
    known = {digest(tensor), digest(tensor[None]), digest(torch.zeros(shape, dtype=torch.float16))}
    for place in range(tensor.nbytes):
        for bit in range(8):
            changed = tensor.clone()
            changed.reshape(-1).view(torch.uint8)[place] ^= 1 << bit
            known.add(digest(changed))
    assert len(known) == 3 + 8 * tensor.nbytes


def test_what_is_missing_or_more_is_named_too() -> None:
    a, b = torch.zeros(2), torch.ones(2)
    digests = Digests.of("{}", {"a": a, "b": b})
    digests.check("it", "{}", {"a": a, "b": b})
    with pytest.raises(CheckpointError, match=r"it is damaged: b, c, the plan are not as nrfx\.save wrote"):
        digests.check("it", "[]", {"a": a, "c": b})
