"""The faster implementations as autograd functions: what they keep for the backward, and their gradients.

Each keeps as little as it can and computes the sigmoid again. A gradient that shall itself be differentiated is that
of the plain operations in attention.py.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from nrfx.nn.attention import Form, attend, attention
from nrfx.nn.native import Direct


class Attention(Protocol):
    """A module of kernels for the attention alone: attend_forward and attend_backward."""

    def attend_forward(self, ys: Any, form: Form) -> Tensor: ...

    def attend_backward(self, grad: Tensor, ys: Any, form: Form) -> list[Tensor]: ...


class Attend(torch.autograd.Function):
    """attention.attend in one pass over the maps, and one back."""

    @staticmethod
    def forward(ctx: Any, kernels: Attention, form: Form, *ys: Tensor) -> Tensor:
        ctx.kernels, ctx.form = kernels, form
        ctx.save_for_backward(*ys)
        return kernels.attend_forward(ys, form)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        ys = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, None, *differentiable(lambda *maps: attend(list(maps), ctx.form), ys, grad)
        return None, None, *ctx.kernels.attend_backward(laid_out_as(grad, ys[0]), ys, ctx.form)


class DirectConvolution(torch.autograd.Function):
    """The whole layer by the kernels in direct.c. See native.Direct."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, form: Form, keep: bool) -> Tensor:
        call = Direct(x, form)
        out, kept = call.forward(x, weight.contiguous(), bias, keep)
        ctx.call, ctx.form = call, form
        ctx.save_for_backward(x, weight, kept)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, kept = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        grad_bias = grad.sum([dim for dim in range(grad.dim()) if dim != 1]) if needs_bias else None
        if torch.is_grad_enabled():
            found = differentiable(lambda x, weight: attention(x, weight, ctx.form), (x, weight), grad)
            return *found, grad_bias, None, None
        layout = torch.channels_last if ctx.call.last else torch.contiguous_format
        grad_x, grad_weight = ctx.call.backward(
            grad.contiguous(memory_format=layout), x, weight.contiguous(), kept, (needs_x, needs_weight)
        )
        return grad_x, grad_weight, grad_bias, None, None


def laid_out_as(x: Tensor, like: Tensor) -> Tensor:
    """x with the strides of `like`, which has its shape."""
    return x if x.stride() == like.stride() else torch.empty_like(like).copy_(x)


def differentiable(function: Any, inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor | None, ...]:
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    found = iter(torch.autograd.grad(function(*inputs), wanted, grad, create_graph=True))
    return tuple(next(found) if tensor.requires_grad else None for tensor in inputs)
