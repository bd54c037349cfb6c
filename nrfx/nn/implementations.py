"""Which implementation of the attention a call takes: one formulation, chosen by device, shape and what is installed.

    reference   plain torch operations (attention.py). Also under torch.compile, torch.export, torch.func, forward-mode
                differentiation and dispatch modes (FlopCounterMode, fake tensors), which shall see every operation
    attend      one contraction for each input generation, and a kernel for the attention: C on the CPU, Triton on GPUs
    direct      one kernel for all of it: C on the CPU, for kernels of one and small layers; Triton on GPUs, for kernels
                of one and linear layers

The choice is a fixed rule, from measurements (`python -m benchmarks cross`); small layers never compile anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cache, lru_cache
from importlib import import_module
from importlib.util import find_spec
from math import prod
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nrfx.errors import RewriteError
from nrfx.nn import native
from nrfx.nn.attention import Form, attend, attention, by_generation
from nrfx.nn.fused import Attend, DirectConvolution
from nrfx.nn.library import library
from nrfx.nn.operands import channels_last, check_call, is_watched

IMPLEMENTATIONS = ("auto", "reference", "attend", "direct")

_wanted: ContextVar[str] = ContextVar("nrfx_cross_implementation", default="auto")

_LEAST_WORK = 1 << 22  # multiply-adds from which a kernel pays for its call, a fraction of a millisecond
_LEAST_POSITIONS = 1 << 7  # below, direct kernels take up to 15 times as long as contractions (2048->512 1x1 at 4x4)
_LEAST_OUTPUT = 1 << 16  # numbers of output, the same for the attention alone
_MOST_WEIGHTS = 1 << 17  # weights of a block of 64 output channels that stay in a core's level 2 cache
_RECOMPUTE = 128  # input channels up to which computing the accumulators again costs less than keeping them


@contextmanager
def implementation(name: str) -> Iterator[None]:
    """Makes cross layers use one implementation, wherever it can do the call; "auto" is the ordinary choice.

    For tests and measurements. Raises RewriteError for a name that does not exist.

    >>> with implementation("reference"):
    ...     pass
    """
    if name not in IMPLEMENTATIONS:
        raise RewriteError(f"There is no implementation {name!r} of the cross layers: it is one of {IMPLEMENTATIONS}.")
    token = _wanted.set(name)
    try:
        yield
    finally:
        _wanted.reset(token)


def cross_attention(x: Tensor, weight: Tensor, bias: Tensor | None, form: Form) -> Tensor:
    """The attention scheme's output, bias included, by the implementation that suits the call.

    Raises:
        RuntimeError: x, weight or bias does not fit the form, as nn.Conv*d and nn.Linear raise it.
    """
    check_call(x, weight, bias, form)
    chosen = choice(x, weight, form, bias)
    if chosen == "reference":
        return with_bias(attention(x, weight, form), bias, form)
    x, weight = _autocast(x), _autocast(weight)
    if chosen == "direct":
        return _direct(x, weight, bias if bias is None else bias.to(x.dtype), form)
    return with_bias(_attended(x, weight, form), bias, form)


def choice(x: Tensor, weight: Tensor, form: Form, bias: Tensor | None = None) -> str:
    """The implementation that a call takes: "reference", "attend" or "direct"."""
    # whoever compiles the call sees no further than the first of these: torch 2.11 cannot follow a ContextVar
    if is_watched(x, weight, bias) or not _can_be_read(x) or _wanted.get() == "reference":
        return "reference"
    x, weight = _autocast(x), _autocast(weight)
    if _takes_direct(x, weight, form):
        return "direct"
    return "attend" if _takes_attend(x, weight, form) else "reference"


def with_bias(out: Tensor, bias: Tensor | None, form: Form) -> Tensor:
    """out + bias; in the precision of out, for a float32 bias would promote what autocast computed in 16 bits."""
    return out if bias is None else out + bias.to(out.dtype).reshape(-1, *[1] * len(form.kernel))


# What can take a call, and what should


def _can_be_read(x: Tensor) -> bool:
    """Whether there are numbers in a memory for which there are kernels."""
    return x.device.type in ("cpu", "cuda") and x.numel() > 0


def _autocast(tensor: Tensor) -> Tensor:
    device = tensor.device.type
    if not torch.is_autocast_enabled(device) or not tensor.is_floating_point() or tensor.dtype is torch.float64:
        return tensor
    return tensor.to(torch.get_autocast_dtype(device))


@cache
def triton_kernels() -> ModuleType | None:
    """The Triton kernels; None where Triton is not installed."""
    if find_spec("triton") is None:
        return None
    return import_module("nrfx.nn.triton_kernels")  # slow to import, and only GPUs need it


def _kernels(x: Tensor) -> ModuleType | None:
    """The kernels for the device of x: a module with attend_forward and attend_backward."""
    if x.device.type == "cuda":
        return triton_kernels()
    return native if x.device.type == "cpu" and library() is not None else None


def _takes_attend(x: Tensor, weight: Tensor, form: Form) -> bool:
    dtypes = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.float32, torch.bfloat16, torch.float16)}
    if x.dtype != weight.dtype or x.dtype not in dtypes.get(x.device.type, ()) or len(form.inputs) < 2:
        return False
    outputs = x.numel() // x.shape[form.channel_dim] * sum(form.rows) // prod(form.stride)
    suits = outputs >= _LEAST_OUTPUT and not _is_light(x, form)
    return (_wanted.get() != "auto" or suits) and _kernels(x) is not None


def _is_light(x: Tensor, form: Form) -> bool:
    """Whether the contractions take so little time that the kernels of attend, whose maps must be made first, cost more
    than they save: kernels of one in bfloat16 on a CPU, where the channels do not come last.
    """
    on_cpu = x.device.type == "cpu" and x.dtype == torch.bfloat16
    return on_cpu and form.pointwise and x.stride(form.channel_dim) != 1


def _takes_direct(x: Tensor, weight: Tensor, form: Form) -> bool:
    if _wanted.get() == "attend" or x.dtype != weight.dtype or len(form.inputs) < 2:
        return False
    if x.device.type == "cuda":
        kernels = triton_kernels()
        return kernels is not None and kernels.takes_pointwise(x, form)
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    wanted = _wanted.get() == "direct" or _suits_direct(x, weight, form)
    return wanted and _fits_direct(x, form) and library() is not None


def _suits_direct(x: Tensor, weight: Tensor, form: Form) -> bool:
    positions = x.numel() // x.shape[form.channel_dim] // prod(form.stride)
    block = weight.numel() // len(weight) * 64
    pays = positions >= _LEAST_POSITIONS and positions * weight.numel() >= _LEAST_WORK
    return pays and (form.pointwise or block <= _MOST_WEIGHTS)


def _fits_direct(x: Tensor, form: Form) -> bool:
    """Whether the direct kernels can do it: stride 1 (or a kernel of one), and long enough rows."""
    flat = _flat_form(form)
    return flat is not None and native.takes(_flat_shape(x, form), flat)


# The calls


def _attended(x: Tensor, weight: Tensor, form: Form) -> Tensor:
    """One contraction for each input generation, and the attention in one pass.

    On the CPU a convolution costs less with channels fastest: 1.07 of the dense one and not 1.11 (256->256 3x3 at 14),
    the two changes of layout included. The parts are copied anyway.
    """
    columns = by_generation(weight, form.runs, 1)
    # A contraction copies a strided part whenever it reads it, in the backward again: one copy is kept instead.
    parts = {j: _dense(part, x, form) for j, part in by_generation(x, form.runs, form.channel_dim).items()}
    ys = [form.contract(part, columns[j]) for j, part in parts.items()]
    kernels = _kernels(x)
    assert kernels is not None
    out: Tensor = Attend.apply(kernels, form, *ys) if ys[0].numel() else attend(ys, form)
    return out.contiguous() if x.is_contiguous() else out


def _dense(part: Tensor, x: Tensor, form: Form) -> Tensor:
    if x.dim() != len(form.kernel) + 2 or len(form.kernel) == 1:
        return part.contiguous()
    faster = x.device.type == "cpu" and len(form.kernel) == 2
    last = faster or (not x.is_contiguous() and x.stride(1) == 1)
    return part.contiguous(memory_format=channels_last(form)) if last else part.contiguous()


def _direct(x: Tensor, weight: Tensor, bias: Tensor | None, form: Form) -> Tensor:
    """The layer by the direct kernels, which know two spatial dims and a batch: others are views of these."""
    if x.device.type == "cuda":
        kernels = triton_kernels()
        assert kernels is not None
        return with_bias(kernels.pointwise(x, weight, form), bias, form)
    flat = _flat_form(form)
    assert flat is not None
    rows, channels = _flat(x, form), weight.shape[:2]
    keep = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad) and not _recomputes(channels[1], flat)
    out: Tensor = DirectConvolution.apply(rows, weight.reshape(*channels, *flat.kernel), bias, flat, keep)
    return _unflat(out, x, form)


def _recomputes(channels: int, flat: Form) -> bool:
    return flat.pointwise and channels <= _RECOMPUTE


@lru_cache(maxsize=1024)
def _flat_form(form: Form) -> Form | None:
    """The form with two spatial dims; None where there is none."""
    if form.pointwise:
        return replace(form, kernel=(1, 1), stride=(1, 1), padding=(0, 0), dilation=(1, 1))
    if len(form.kernel) not in (1, 2) or form.pads is None:
        return None
    more = 2 - len(form.kernel)
    ones, zeros = (1,) * more, (0,) * more
    return replace(
        form,
        kernel=ones + form.kernel,
        stride=ones + form.stride,
        padding=zeros + form.pads,
        dilation=ones + form.dilation,
    )


def _strided(x: Tensor, form: Form) -> Tensor:
    """A kernel of one reads only every stride-th position."""
    if set(form.stride) <= {1}:
        return x
    steps: tuple[Any, ...] = (..., *[slice(None, None, step) for step in form.stride])
    return x[steps]


def _flat_shape(x: Tensor, form: Form) -> tuple[int, int, int, int]:
    """The shape of _flat(x, form), from x's alone."""
    if not form.kernel:
        return (1, x.shape[-1], 1, x.numel() // x.shape[-1])
    spatial = [-(-size // step) for size, step in zip(x.shape[-len(form.kernel) :], form.stride, strict=True)]
    batch = x.shape[0] if x.dim() == len(form.kernel) + 2 else 1
    return (batch, x.shape[form.channel_dim], prod(spatial[:-1]), spatial[-1])


def _flat(x: Tensor, form: Form) -> Tensor:
    """x as [batch, in, h, w], contiguous or channels_last; a linear layer's positions are one row of a map."""
    if not form.kernel:
        return x.contiguous().view(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    if form.pointwise:
        x = _strided(x, form)
    batched = x if x.dim() == len(form.kernel) + 2 else x.unsqueeze(0)
    rows = batched.unsqueeze(2) if len(form.kernel) == 1 else batched.flatten(2, -2)
    last = not rows.is_contiguous() and rows.stride(1) == 1
    return rows.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _unflat(out: Tensor, x: Tensor, form: Form) -> Tensor:
    """The output in the dims of x."""
    if not form.kernel:
        return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)
    rows = out.squeeze(2) if len(form.kernel) == 1 else out
    if len(form.kernel) == 3:
        sizes = [-(-size // step) for size, step in zip(x.shape[-3:-1], form.stride[:2], strict=True)]
        rows = out.unflatten(2, sizes)
    return rows if x.dim() == len(form.kernel) + 2 else rows.squeeze(0)
