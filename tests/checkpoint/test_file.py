"""The bytes of a file: safetensors reads them, and nothing is held in memory twice."""

import tracemalloc

import pytest
import torch
from safetensors.torch import load

from nrfx.checkpoint.file import serialized
from nrfx.errors import CheckpointError

DTYPES = (torch.bool, torch.uint8, torch.int16, torch.int64, torch.bfloat16, torch.float8_e4m3fn, torch.float64)


def test_safetensors_reads_every_dtype_and_shape_and_what_shares_its_memory() -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"row": whole[1], "turned": whole.T, "one": torch.tensor(2.5), "none": torch.zeros(0, 3), "whole": whole}
    tensors |= {str(dtype): torch.arange(5).to(dtype) for dtype in DTYPES}
    known = load(b"".join(serialized(tensors, '{"é": "\\n"}')))
    assert known.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert known[name].dtype == tensor.dtype and known[name].shape == tensor.shape
        assert torch.equal(known[name].double(), tensor.double()), name


def test_a_file_depends_on_what_it_holds_and_on_no_order() -> None:
    tensors = {"b": torch.ones(3), "a": torch.zeros(2, dtype=torch.int64)}
    one, other = (b"".join(serialized(dict(order), "{}")) for order in (tensors.items(), reversed(tensors.items())))
    assert one == other


def test_the_numbers_are_written_from_where_they_are() -> None:
    tensors = {f"weight{index}": torch.zeros(1000, 250) for index in range(4)}
    serialized(tensors, "{}")
    tracemalloc.start()
    try:
        pieces = serialized(tensors, "{}")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(map(len, pieces)) > 4_000_000
    assert peak < 100_000


def test_a_dtype_that_the_format_has_not_is_refused() -> None:
    with pytest.raises(CheckpointError, match="cannot be written to a safetensors file"):
        serialized({"odd": torch.zeros(2, dtype=torch.complex128)}, "{}")


@pytest.mark.skipif(not hasattr(torch, "float4_e2m1fn_x2"), reason="this torch has no numbers of four bits")
def test_numbers_of_four_bits_are_refused_by_name() -> None:
    packed = torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    with pytest.raises(CheckpointError, match="float4_e2m1fn_x2 cannot be written"):
        serialized({"weight": packed}, "{}")
