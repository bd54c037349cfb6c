"""The kernels for GPUs, in Triton: the attention alone, and for kernels of one and linear layers one product with two
accumulators and the attention behind it.

Imported on the first call that needs them. Block sizes are Triton's autotuner's choice among a few, for each number of
channels, kept on disk. With TRITON_INTERPRET=1 in the environment they run on the CPU, which is how they are tested.

Measured nowhere yet: there was no GPU. See docs/design.md, "The cross convolution".
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nrfx.nn.attention import Form, attention
from nrfx.nn.fused import differentiable
from nrfx.nn.generations import pieces
from nrfx.nn.operands import check_input, checked, dense, described, is_watched

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_SPAN = 1024

# The attention alone


@triton.jit
def _gate(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _place(total, width, map_size, start, BLOCK: tl.constexpr):
    """Offsets of BLOCK numbers of one generation in maps of [outer, out, inner], and which of them exist."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return index // width * map_size + start + index % width, index < total


@triton.jit
def _attend_kernel(same, other, out, total, width, map_size, start, BLOCK: tl.constexpr):
    at, exists = _place(total, width, map_size, start, BLOCK)
    y = tl.load(same + at, exists, 0).to(tl.float32)
    rest = tl.load(other + at, exists, 0).to(tl.float32)
    tl.store(out + at, (y + 2 * _gate(y) * rest).to(out.dtype.element_ty), exists)


@triton.jit
def _unattend_kernel(grad, same, other, to_same, to_other, total, width, map_size, start, BLOCK: tl.constexpr):
    at, exists = _place(total, width, map_size, start, BLOCK)
    g = tl.load(grad + at, exists, 0).to(tl.float32)
    y = tl.load(same + at, exists, 0).to(tl.float32)
    rest = tl.load(other + at, exists, 0).to(tl.float32)
    gate = _gate(y)
    twice = 2 * gate * g
    tl.store(to_same + at, (g + twice * (1 - gate) * rest).to(to_same.dtype.element_ty), exists)
    tl.store(to_other + at, twice.to(to_other.dtype.element_ty), exists)


def attend_forward(ys: Sequence[Tensor], form: Form, layout: torch.memory_format) -> Tensor:
    """attention.attend of maps that are all dense in this layout."""
    alike = described(ys, form, layout, ys[0].device, DTYPES)
    ys = [checked(y, *alike) for y in ys]
    out = checked(torch.empty_like(ys[0]), *alike)
    for i, rows in enumerate(form.rows):
        if not rows:
            continue
        other = _other(ys, form.own[i])
        if form.own[i] < 0:
            _narrow(out, form, i).copy_(_narrow(other, form, i))
            continue
        grid, sizes = _sizes(out, form, i, layout)
        with torch.cuda.device_of(out):
            _attend_kernel[grid](ys[form.own[i]], checked(other, *alike), out, *sizes, BLOCK=_SPAN)
    return out


def attend_backward(grad: Tensor, ys: Sequence[Tensor], form: Form, layout: torch.memory_format) -> list[Tensor]:
    """The gradients of the maps; grad is dense in their layout."""
    alike = described(ys, form, layout, ys[0].device, DTYPES)
    grad, ys = checked(grad, *alike), [checked(y, *alike) for y in ys]
    grads = [checked(torch.empty_like(y), *alike) for y in ys]
    for i, rows in enumerate(form.rows):
        if not rows:
            continue
        own = form.own[i]
        first, *rest = (g for j, g in enumerate(grads) if j != own)
        if own < 0:
            _narrow(first, form, i).copy_(_narrow(grad, form, i))
        else:
            grid, sizes = _sizes(grad, form, i, layout)
            other = checked(_other(ys, own), *alike)
            with torch.cuda.device_of(grad):
                _unattend_kernel[grid](grad, ys[own], other, grads[own], first, *sizes, BLOCK=_SPAN)
        for more in rest:
            _narrow(more, form, i).copy_(_narrow(first, form, i))
    return grads


def _other(ys: Sequence[Tensor], own: int) -> Tensor:
    """The sum of all maps but the own one."""
    first, *rest = (y for j, y in enumerate(ys) if j != own)
    return sum(rest, start=first)


def _narrow(x: Tensor, form: Form, i: int) -> Tensor:
    return x.narrow(form.channel_dim, sum(form.rows[:i]), form.rows[i])


def _sizes(x: Tensor, form: Form, i: int, layout: torch.memory_format) -> tuple[tuple[int], tuple[int, int, int, int]]:
    """The grid, and: how many numbers generation i has, how many lie together, how far apart, and where they start."""
    inner = math.prod(x.shape[-len(form.kernel) :]) if form.kernel and layout is torch.contiguous_format else 1
    outer = x.numel() // (x.shape[form.channel_dim] * inner)
    width = form.rows[i] * inner
    total = outer * width
    return (triton.cdiv(total, _SPAN),), (
        total,
        width,
        x.shape[form.channel_dim] * inner,
        sum(form.rows[:i]) * inner,
    )


# One product with two accumulators


@triton.jit
def _accumulate(
    x,
    w,
    own_start,
    own_end,
    columns,
    positions,
    rows,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Both accumulators of a block: x [positions, columns] times w [rows, columns], split at the own columns.

    Columns are read in whole, aligned blocks; the (at most two) blocks that hold the end of a generation are multiplied
    twice, each time with the other generation's weights at zero. WIDE: the interpreter cannot multiply bfloat16.
    """
    same = tl.full((BLOCK_P, BLOCK_O), 0, tl.float32)
    other = tl.full((BLOCK_P, BLOCK_O), 0, tl.float32)
    first = own_start // BLOCK_K * BLOCK_K
    for k in range(first, own_end, BLOCK_K):
        at = k + tl.arange(0, BLOCK_K)
        wanted = (at >= own_start) & (at < own_end)
        a = tl.load(x + at[None, :], positions[:, None] & (at < columns)[None, :], 0)
        b = tl.load(w + at[None, :], rows[:, None] & wanted[None, :], 0)
        if WIDE:
            a, b = a.to(tl.float32), b.to(tl.float32)
        same = tl.dot(a, tl.trans(b), same, input_precision=PRECISION)
    edge = tl.where(own_start % BLOCK_K == 0, first, first + BLOCK_K)
    for k in range(0, edge, BLOCK_K):
        at = k + tl.arange(0, BLOCK_K)
        wanted = (at < columns) & ((at < own_start) | (at >= own_end))
        a = tl.load(x + at[None, :], positions[:, None] & (at < columns)[None, :], 0)
        b = tl.load(w + at[None, :], rows[:, None] & wanted[None, :], 0)
        if WIDE:
            a, b = a.to(tl.float32), b.to(tl.float32)
        other = tl.dot(a, tl.trans(b), other, input_precision=PRECISION)
    for k in range(tl.maximum(own_end // BLOCK_K * BLOCK_K, edge), columns, BLOCK_K):
        at = k + tl.arange(0, BLOCK_K)
        wanted = (at < columns) & (at >= own_end)
        a = tl.load(x + at[None, :], positions[:, None] & (at < columns)[None, :], 0)
        b = tl.load(w + at[None, :], rows[:, None] & wanted[None, :], 0)
        if WIDE:
            a, b = a.to(tl.float32), b.to(tl.float32)
        other = tl.dot(a, tl.trans(b), other, input_precision=PRECISION)
    return same, other


@triton.jit
def _pointwise_kernel(
    x,
    w,
    out,
    count,
    columns,
    row_start,
    row_end,
    out_ld,
    own_start,
    own_end,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The rows of one output generation: out [count, out_ld], x [count, columns], w [rows, columns]."""
    p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    o = row_start + tl.program_id(1).to(tl.int64) * BLOCK_O + tl.arange(0, BLOCK_O)
    positions, rows = p < count, o < row_end
    same, other = _accumulate(
        x + p[:, None] * columns,
        w + o[:, None] * columns,
        own_start,
        own_end,
        columns,
        positions,
        rows,
        BLOCK_P,
        BLOCK_O,
        BLOCK_K,
        PRECISION,
        WIDE,
    )
    y = same + 2 * _gate(same) * other
    tl.store(out + p[:, None] * out_ld + o[None, :], y.to(out.dtype.element_ty), positions[:, None] & rows[None, :])


@triton.jit
def _pointwise_backward_kernel(
    x,
    w,
    grad,
    to_same,
    to_other,
    count,
    columns,
    row_start,
    row_end,
    out_ld,
    own_start,
    own_end,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The gradients of both accumulators, which are computed again: nothing but x is kept for the backward."""
    p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    o = row_start + tl.program_id(1).to(tl.int64) * BLOCK_O + tl.arange(0, BLOCK_O)
    positions, rows = p < count, o < row_end
    same, other = _accumulate(
        x + p[:, None] * columns,
        w + o[:, None] * columns,
        own_start,
        own_end,
        columns,
        positions,
        rows,
        BLOCK_P,
        BLOCK_O,
        BLOCK_K,
        PRECISION,
        WIDE,
    )
    at, exists = p[:, None] * out_ld + o[None, :], positions[:, None] & rows[None, :]
    g = tl.load(grad + at, exists, 0).to(tl.float32)
    gate = _gate(same)
    twice = 2 * gate * g
    tl.store(to_same + at, (g + twice * (1 - gate) * other).to(to_same.dtype.element_ty), exists)
    tl.store(to_other + at, twice.to(to_other.dtype.element_ty), exists)


_CHOICES = [
    triton.Config({"BLOCK_P": p, "BLOCK_O": o, "BLOCK_K": k}, num_warps=warps, num_stages=stages)
    for p, o, k, warps, stages in (
        (128, 64, 64, 4, 3),
        (128, 64, 32, 4, 4),
        (64, 64, 64, 4, 3),
        (128, 128, 32, 8, 3),
        (256, 64, 32, 8, 3),
        (64, 32, 64, 4, 4),
    )
]


def _launch(kernel: Any, count: int, rows: int, *arguments: Any) -> None:
    """Runs a kernel over blocks of positions and rows; interpreted, with small blocks that nobody tunes."""
    precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"

    def grid(meta: dict[str, int]) -> tuple[int, int]:
        return triton.cdiv(count, meta["BLOCK_P"]), triton.cdiv(rows, meta["BLOCK_O"])

    if INTERPRETED:
        kernel[grid](*arguments, BLOCK_P=32, BLOCK_O=16, BLOCK_K=16, PRECISION=precision, WIDE=INTERPRETED)
        return
    with torch.cuda.device_of(arguments[0]):  # Triton launches on the current device, wherever the arrays are
        _tuned(kernel)[grid](*arguments, PRECISION=precision, WIDE=INTERPRETED)


_TUNED: dict[Any, Any] = {}


def _tuned(kernel: Any) -> Any:
    """The kernel with Triton's autotuner: the best block sizes for each number of channels, kept on disk."""
    if kernel not in _TUNED:
        tune = triton.autotune(_CHOICES, key=["columns", "row_end", "row_start"], cache_results=True)
        _TUNED[kernel] = tune(kernel)
    return _TUNED[kernel]


def takes_pointwise(x: Tensor, form: Form) -> bool:
    """Whether the product with two accumulators can do it: channels fastest, two generations, each in one piece."""
    if not form.pointwise or set(form.stride) - {1} or len(form.inputs) != 2 or min(form.own) < 0:
        return False
    if x.dtype not in DTYPES:
        return False
    whole = all(len(pieces(form.runs, {j})) == 1 for j in form.inputs)
    return whole and x.movedim(form.channel_dim, -1).is_contiguous()


def pointwise(x: Tensor, weight: Tensor, form: Form) -> Tensor:
    """The whole layer without bias, where takes_pointwise says so; the output lies in memory as x does."""
    check_input(x, form)
    last = x.movedim(form.channel_dim, -1)
    out: Tensor = Pointwise.apply(last.reshape(-1, last.shape[-1]), weight.reshape(weight.shape[:2]), form)
    return out.view(*last.shape[:-1], -1).movedim(-1, form.channel_dim)


class Pointwise(torch.autograd.Function):
    """x [positions, in] and a weight [out, in] to [positions, out]; nothing but these two is kept for the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, form: Form) -> Tensor:
        ctx.form = form
        ctx.save_for_backward(x, weight)
        x, weight = _operands(x, weight, form)
        out = x.new_empty(len(x), len(weight))
        for i, rows in enumerate(form.rows):
            if rows:
                _launch(_pointwise_kernel, len(x), rows, x, weight, out, *_block(x, form, i))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        form: Form = ctx.form
        if torch.is_grad_enabled() or is_watched(grad, x, weight):
            return *_again(x, weight, grad, form), None
        x, weight = _operands(x, weight, form)
        grad = checked(dense(grad), (len(x), len(weight)), x.dtype, x.device)
        d = [torch.empty_like(grad) for _ in form.inputs]
        for i, rows in enumerate(form.rows):
            if rows:
                own = form.own[i]
                _launch(
                    _pointwise_backward_kernel, len(x), rows, x, weight, grad, d[own], d[1 - own], *_block(x, form, i)
                )
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        for j, part in zip(form.inputs, d, strict=True):
            ((start, width),) = pieces(form.runs, {j})
            columns = slice(start, start + width)
            if grad_x is not None:
                grad_x[:, columns] = part @ weight[:, columns]
            if grad_weight is not None:
                grad_weight[:, columns] = part.T @ x[:, columns]
        return grad_x, grad_weight, None


def _operands(x: Tensor, weight: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """Both as the kernels read them: dense, of one dtype and device, [positions, in] and [out, in]."""
    out, columns = form.weight_shape[:2]
    x = checked(dense(x), (len(x), columns), x.dtype, x.device)
    return x, checked(dense(weight), (out, columns), x.dtype, x.device)


def _block(x: Tensor, form: Form, i: int) -> tuple[int, ...]:
    """count, columns, row_start, row_end, out_ld, own_start, own_end of the rows of output generation i."""
    ((start, width),) = pieces(form.runs, {form.inputs[form.own[i]]})
    first = sum(form.rows[:i])
    return (len(x), x.shape[1], first, first + form.rows[i], sum(form.rows), start, start + width)


def _again(x: Tensor, weight: Tensor, grad: Tensor, form: Form) -> tuple[Tensor | None, ...]:
    """The gradients by plain operations, to be differentiated once more."""
    plain = Form(form.runs, form.rows)
    return differentiable(lambda x, weight: attention(x, weight, plain), (x, weight), grad)
