"""Arrays of bytes in idx files, the format of MNIST and of what was made in its likeness; plain or packed by gzip.

    0  0  8  number of dims | each dim, 4 bytes, the highest first | the bytes themselves, the last dim the fastest

Arrays of other numbers, which the third byte tells, are not handled.
"""

import gzip
import struct
import zlib
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from nrfx.errors import UsageError

PACKED = b"\x1f\x8b"
"""The first bytes of what gzip has packed, whatever the file is called."""


def read_idx(path: Path, dims: int) -> Tensor:
    """The array in a file, as uint8 of so many dims.

    Raises:
        UsageError: the file cannot be read, is damaged or cut short, or holds something else.
    """
    content = _unpacked(path)
    wanted = bytes((0, 0, 8, dims))
    if content[:4] != wanted:
        raise UsageError(
            f"{path} begins with 0x{content[:4].hex()}; expected 0x{wanted.hex()}, that of bytes in {dims} "
            f"dim{'' if dims == 1 else 's'}: it is another file, or damaged."
        )
    head = 4 + 4 * dims
    if len(content) < head:
        raise UsageError(f"{path} ends within its head: {len(content)} bytes of {head}. Get it anew.")
    shape = struct.unpack(f">{dims}I", content[4:head])
    if len(content) - head != prod(shape):
        told = " x ".join(map(str, shape))
        raise UsageError(
            f"{path} is to hold {told} = {prod(shape):,} bytes, and holds {len(content) - head:,}: it is not whole. "
            "Get it anew."
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[head:].view(shape)


def _unpacked(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error}).") from error
    if not content.startswith(PACKED):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(
            f"{path} is damaged: {len(content):,} bytes that gzip cannot unpack ({error}). Get it anew."
        ) from error
