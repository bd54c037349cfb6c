"""Idx files: what is refused by the file's name, and that plain and packed ones hold the same."""

import gzip
import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nrfx.errors import UsageError
from nrfx.experiment.idx import read_idx

ARRAY = torch.arange(24, dtype=torch.uint8).view(2, 3, 4)


def idx(x: Tensor) -> bytes:
    """The content of an idx file, put together here from the format's description."""
    return struct.pack(f">4B{x.dim()}I", 0, 0, 8, x.dim(), *x.shape) + bytes(x.flatten().tolist())


WHOLE = idx(ARRAY)
PACKED = gzip.compress(WHOLE)
DAMAGED = {
    "nothing": (b"", r"file begins with 0x; expected 0x00000803"),
    "labels": (idx(ARRAY.flatten()), r"file begins with 0x00000801; expected 0x00000803, that of bytes in 3 dims"),
    "other numbers": (b"\0\0\x0d\3" + WHOLE[4:], r"file begins with 0x00000d03; expected 0x00000803"),
    "text": (b"<html>", r"file begins with 0x3c68746d; expected"),
    "head alone": (WHOLE[:10], r"file ends within its head: 10 bytes of 16"),
    "cut short": (WHOLE[:-1], r"file is to hold 2 x 3 x 4 = 24 bytes, and holds 23"),
    "too long": (WHOLE + b"\0", r"is to hold 2 x 3 x 4 = 24 bytes, and holds 25"),
    "packed and cut short": (PACKED[:-9], rf"file is damaged: {len(PACKED) - 9} bytes that gzip cannot unpack"),
    "packed and without its sum": (PACKED[:-4], r"file is damaged"),
    "packed and changed": (PACKED[:14] + b"\xff\xff" + PACKED[16:], r"file is damaged"),
    "packed with another sum": (PACKED[:-8] + bytes(4) + PACKED[-4:], r"file is damaged: .*CRC"),
    "packed and cut before": (gzip.compress(WHOLE[:-5]), r"= 24 bytes, and holds 19: it is not whole\. Get it anew"),
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_a_damaged_file_is_named_with_what_was_found_and_expected(fault: str, tmp_path: Path) -> None:
    content, words = DAMAGED[fault]
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UsageError, match=words):
        read_idx(tmp_path / "file", 3)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read \(Is a directory\)"):
        read_idx(tmp_path, 1)


@pytest.mark.parametrize("content", [WHOLE, PACKED], ids=["plain", "packed"])
def test_the_array_is_read_whatever_the_file_is_called(content: bytes, tmp_path: Path) -> None:
    for name in ("file", "file.gz"):
        (tmp_path / name).write_bytes(content)
        assert torch.equal(read_idx(tmp_path / name, 3), ARRAY)


def test_an_array_without_elements_is_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(idx(ARRAY[:0]))
    assert read_idx(tmp_path / "file", 3).shape == (0, 3, 4)
