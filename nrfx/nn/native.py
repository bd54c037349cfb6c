"""Calls of the compiled kernels for the CPU (library.py): what they are told, and the memory that they are given.

They take float32, `attend_*` bfloat16 as well, dense in one of two layouts; every address comes from a tensor that was
held against what the kernel takes it for (operands.py).

Not handled here: what suits these kernels.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from nrfx.nn.attention import Form
from nrfx.nn.library import library
from nrfx.nn.operands import checked, dense, described, layout_of

_BAND_BYTES = 400_000  # of what one band of rows keeps in the cache: less than a core's level 2, often 1 MB
_CPU = torch.device("cpu")
_DTYPES = (torch.float32, torch.bfloat16)  # of the attention alone; the direct kernels take the first
_ROWS = range(4, 513)  # positions of a row that the direct kernels take
_ROW = 48  # positions of a row, where rows can be chosen: more than a few blocks, and small enough for level 1


def _integers(*values: int) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


def _pointer(tensor: Tensor | None, *alike: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else checked(tensor, *alike).data_ptr())


def _pointers(tensors: Sequence[Tensor], *alike: Any) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*[checked(tensor, *alike).data_ptr() for tensor in tensors])


# The attention alone


def _maps(y: Tensor, form: Form, inputs: int, layout: torch.memory_format) -> ctypes.Array[ctypes.c_int64]:
    """The maps as [outer, out, inner]: inner is 1 where channels are the fastest dim in memory."""
    out = form.weight_shape[0]
    inner = math.prod(y.shape[-len(form.kernel) :]) if form.kernel and layout is torch.contiguous_format else 1
    outer = y.numel() // (out * inner)
    threads = min(torch.get_num_threads(), outer)
    return _integers(outer, out, inner, inputs, len(form.rows), threads, int(y.dtype == torch.bfloat16))


def attend_forward(ys: Sequence[Tensor], form: Form, layout: torch.memory_format) -> Tensor:
    """attention.attend of maps that are all dense in this layout."""
    alike = described(ys, form, layout, _CPU, _DTYPES)
    out = torch.empty_like(ys[0])
    _library().attend_forward(
        *(_maps(out, form, len(ys), layout), _integers(*form.rows), _integers(*form.own)),
        *(_pointers(ys, *alike), _pointer(out, *alike)),
    )
    return out


def attend_backward(grad: Tensor, ys: Sequence[Tensor], form: Form, layout: torch.memory_format) -> list[Tensor]:
    """The gradients of the maps; grad is dense in their layout."""
    alike = described(ys, form, layout, _CPU, _DTYPES)
    grads = [torch.empty_like(y) for y in ys]
    _library().attend_backward(
        *(_maps(grad, form, len(ys), layout), _integers(*form.rows), _integers(*form.own)),
        *(_pointers(ys, *alike), _pointer(grad, *alike), _pointers(grads, *alike)),
    )
    return grads


def _library() -> ctypes.CDLL:
    compiled = library()
    assert compiled is not None
    return compiled


# The whole convolution


@lru_cache(maxsize=1024)
def row_length(positions: int) -> int | None:
    """How to cut the positions of a map into equal rows for a kernel of one; None where no cut is good.

    >>> row_length(56 * 56), row_length(7 * 7), row_length(97)
    (49, 49, None)
    """
    fitting = [length for length in range(12, 97) if positions % length == 0]
    return min(fitting, key=lambda length: abs(length - _ROW), default=None)


class Direct:
    """One call of the direct kernels (kernels/direct.h says what they do).

    x: [batch, in, h, w], float32, contiguous or channels_last; so is the output. form and x: as `takes` wants them.
    """

    def __init__(self, x: Tensor, form: Form) -> None:
        if not takes(x.shape, form):
            raise RuntimeError(f"The direct kernels do not take an input of shape {list(x.shape)} for {form}.")
        self.layout = layout_of(x, form)
        self.x_shape, self.form = x.shape, form
        self.out_shape, rows = shapes(x.shape, form)
        sizes = (len(x), x.shape[1], sum(form.rows), *rows, *form.kernel, *(form.pads or ()), *form.dilation)
        band = _band_rows(rows, x.shape[1] + len(form.inputs) * sum(form.rows))
        threads = min(torch.get_num_threads(), len(x) * -(-rows[0] // band))
        last = int(self.layout is not torch.contiguous_format)
        self._runs, self._own = _runs_and_own(form)
        self._shape = _integers(*sizes, last, len(form.inputs), len(form.runs), threads, band)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, keep: bool) -> tuple[Tensor, Tensor | None]:
        """The output, and what the backward needs, [2, batch, h * w * out], where it should not compute that again."""
        out = torch.empty(self.out_shape, dtype=x.dtype, device=x.device, memory_format=self.layout)
        kept = x.new_empty((2, *self.out_shape)) if keep else None
        bias = None if bias is None else dense(bias)
        self._run(
            "direct_forward",
            (dense(x, self.layout), self.x_shape, self.layout),
            (dense(weight), self.form.weight_shape),
            (bias, self.form.weight_shape[:1]),
            (out, self.out_shape, self.layout),
            *self._halves(kept),
        )
        return out, kept

    def backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, kept: Tensor | None, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of x and of the weight, None where they are not needed."""
        x, weight = dense(x, self.layout), dense(weight)
        grad_x = torch.empty_like(x) if needs[0] else None
        grad_weight = torch.empty_like(weight) if needs[1] else None
        self._run(
            "direct_backward",
            (x, self.x_shape, self.layout),
            (weight, self.form.weight_shape),
            (dense(grad, self.layout), self.out_shape, self.layout),
            *self._halves(None if kept is None else dense(kept)),
            (grad_x, self.x_shape, self.layout),
            (grad_weight, self.form.weight_shape),
        )
        return grad_x, grad_weight

    def _halves(self, kept: Tensor | None) -> list[tuple[Any, ...]]:
        return [(half, self.out_shape) for half in ((None, None) if kept is None else kept)]

    def _run(self, name: str, *operands: tuple[Any, ...]) -> None:
        """Calls a kernel with the addresses of (tensor, its shape[, its layout])."""
        pointers = [_pointer(x, shape, torch.float32, _CPU, *layout) for x, shape, *layout in operands]
        if getattr(_library(), name)(ctypes.byref(self._shape), self._runs, self._own, *pointers):
            raise MemoryError("There was no memory for the scratch space of a cross convolution.")


@lru_cache(maxsize=1024)
def _runs_and_own(form: Form) -> tuple[ctypes.Array[ctypes.c_int64], ctypes.Array[ctypes.c_int32]]:
    """(width, input) of each run, and the own input of each output channel, as direct.h wants them."""
    runs = [value for generation, width in form.runs for value in (width, form.inputs.index(generation))]
    own = [slot for width, slot in zip(form.rows, form.own, strict=True) for _ in range(width)]
    return _integers(*runs), (ctypes.c_int32 * len(own))(*own)


def takes(x: Sequence[int], form: Form) -> bool:
    """Whether the kernels can do an x of this shape, [batch, in, h, w].

    They know stride 1, at most 64 input generations (the bits of a set in C), and rows that are long enough for blocks.

    A kernel that reaches farther than the map is large is left to others: the scratch space grows with its reach.
    """
    if len(x) != 4 or x[1] != form.weight_shape[1] or len(form.inputs) > 64:
        return False
    if len(form.kernel) != 2 or set(form.stride) != {1} or form.pads is None:
        return False
    if any(not pad <= far <= size for pad, far, size in zip(form.pads, _reach(form), x[2:], strict=True)):
        return False
    out, (_, in_w, out_h, out_w) = shapes(x, form)
    return min(out) > 0 and out_h > 0 and in_w in _ROWS and out_w in _ROWS


def _reach(form: Form) -> list[int]:
    """How far apart the first and the last tap of the kernel lie, in each dim."""
    return [(size - 1) * step for size, step in zip(form.kernel, form.dilation, strict=True)]


def shapes(x: Sequence[int], form: Form) -> tuple[tuple[int, ...], tuple[int, int, int, int]]:
    """The output's shape, and (height, width) of the rows of input and output that the kernels shall see."""
    assert form.pads is not None
    area = [size + 2 * pad - far for size, pad, far in zip(x[2:], form.pads, _reach(form), strict=True)]
    out = (x[0], sum(form.rows), *area)
    if not form.pointwise:
        return out, (x[2], x[3], area[0], area[1])
    positions = x[2] * x[3]
    length = row_length(positions) or positions
    return out, (positions // length, length, positions // length, length)


def _band_rows(rows: tuple[int, int, int, int], channels: int) -> int:
    """Rows of a band: as many as keep x and the gradients of all accumulators, `channels` in all, in the cache."""
    height, width = rows[0], rows[1]
    fitting = _BAND_BYTES // (4 * width * channels)
    bands = -(-height // max(1, min(fitting, height)))
    return -(-height // bands)
