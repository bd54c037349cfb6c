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
from nrfx.nn.operands import dense, is_watched, layout_of


class Attention(Protocol):
    """A module of kernels for the attention alone, of maps that all have one layout."""

    def attend_forward(self, ys: Any, form: Form, layout: torch.memory_format) -> Tensor: ...

    def attend_backward(self, grad: Tensor, ys: Any, form: Form, layout: torch.memory_format) -> list[Tensor]: ...


class Attend(torch.autograd.Function):
    """attention.attend in one pass over the maps, and one back."""

    @staticmethod
    def forward(ctx: Any, kernels: Attention, form: Form, *ys: Tensor) -> Tensor:
        ctx.kernels, ctx.form, ctx.layout = kernels, form, layout_of(ys[0], form)
        ctx.save_for_backward(*ys)
        return kernels.attend_forward([dense(y, ctx.layout) for y in ys], form, ctx.layout)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        ys = ctx.saved_tensors
        if torch.is_grad_enabled() or is_watched(grad, *ys):
            return None, None, *differentiable(lambda *maps: attend(list(maps), ctx.form), ys, grad)
        # Whoever packed the saved maps (torch.autograd.graph.saved_tensors_hooks) may have lost their layout.
        maps = [dense(y, ctx.layout) for y in ys]
        return None, None, *ctx.kernels.attend_backward(dense(grad, ctx.layout), maps, ctx.form, ctx.layout)


class DirectConvolution(torch.autograd.Function):
    """The whole layer by the direct kernels. See native.Direct."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, form: Form, keep: bool) -> Tensor:
        call = Direct(x, form)
        out, kept = call.forward(x, weight, bias, keep)
        ctx.call, ctx.form = call, form
        ctx.save_for_backward(x, weight, kept)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, kept = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        grad_bias = grad.sum([dim for dim in range(grad.dim()) if dim != 1]) if needs_bias else None
        if torch.is_grad_enabled() or is_watched(grad, x, weight, kept):
            gradients = differentiable(lambda x, weight: attention(x, weight, ctx.form), (x, weight), grad)
            return *gradients, grad_bias, None, None
        return *ctx.call.backward(grad, x, weight, kept, (needs_x, needs_weight)), grad_bias, None, None


def differentiable(function: Any, inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients by plain operations: for who wants to see or to differentiate them."""
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        gradients = iter(torch.autograd.grad(function(*inputs), wanted, grad, create_graph=again))
    return tuple(next(gradients) if tensor.requires_grad else None for tensor in inputs)
