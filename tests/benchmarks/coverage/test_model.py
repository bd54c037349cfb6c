"""Models are built from a name and options, and their inputs are drawn by shape."""

import torch

from benchmarks.coverage.model import Ids, Real, drawn, in_batch, shapes


def test_inputs_are_drawn_by_their_specs() -> None:
    specs = (Real((2, 3)), Ids((2, 4), below=7))
    real, ids = drawn(in_batch(specs, 5), 0, torch.float64)
    assert real.shape == (5, 3) and real.dtype == torch.float64
    assert ids.shape == (5, 4) and ids.dtype == torch.int64 and int(ids.max()) < 7
    assert shapes(specs) == "2x3 2x4"
