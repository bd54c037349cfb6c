"""Ops that look at values: they sort, select, scatter, round, draw numbers, or make tensors of sizes alone.

None of them does multiply-adds that count. Where channels go through one, it is not known which come out: they are
pinned.
"""

import operator
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrfx.rules.effect import Call, Effect, Family, attempt, unknown
from nrfx.rules.registry import register

ORDER = "argmax argmin argsort cummax cummin cumprod nonzero sort topk unique bincount"
PLACES = (
    "gather scatter scatter_add scatter_reduce take take_along_dim masked_scatter masked_select "
    "index_add index_copy index_fill index_put index_reduce index_select"
)
BITS = "bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor logical_xor"
ROUNDING = "ceil cos erf floor nan_to_num round sign sin"
WRITTEN = (
    "bernoulli_ bitwise_and_ bitwise_left_shift_ bitwise_not_ bitwise_or_ bitwise_right_shift_ bitwise_xor_ ceil_ "
    "copy_ cos_ cumprod_ cumsum_ eq_ erf_ fill_ floor_ ge_ gt_ index_add_ index_copy_ index_fill_ index_put_ le_ lt_ "
    "index_reduce_ logical_and_ logical_not_ logical_or_ logical_xor_ masked_scatter_ nan_to_num_ ne_ normal_ random_ "
    "requires_grad_ resize_ resize_as_ round_ scatter_ scatter_add_ scatter_reduce_ sign_ sin_ uniform_ zero_"
)
FACTORIES = (
    *(torch.arange, torch.linspace, torch.zeros, torch.ones, torch.empty, torch.full, torch.eye, torch.tensor),
    *(torch.rand, torch.randn, torch.randint, torch.randperm, torch.tril_indices, torch.triu_indices),
)


def not_followed(call: Call) -> Effect:
    return unknown(call, f"{_title(call)} looks at values, so that nrfx cannot follow the channels through it")


def not_described(call: Call) -> Effect:
    """What could be followed, and is not yet; that it does no multiply-adds is known."""
    return unknown(call, f"nrfx has no rule for {_title(call)}")


def cast(call: Call) -> Effect:
    return unknown(call, f"{call.node.target}() gives another type, or moves it to another device")


def made(call: Call) -> Effect:
    """A tensor that has no more than its dtype and device from an operand; its values are its own."""
    return Effect(Family.SOURCE, out=call.opaque_like(call.val, f"the tensor that {_title(call)} makes"))


def guard(call: Call) -> Effect:
    """A decision that was taken in the trace ties nothing. The width that a plain number comes from must stay."""
    if not isinstance(call.argument(1, "expected"), bool):
        attempt(call.function, *call.args, **call.kwargs)
    return Effect(Family.VALUE, out=None)


def _title(call: Call) -> str:
    target: Any = call.node.target if call.module is None else type(call.module)
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def _named(names: str) -> Iterator[Any]:
    """The functions of torch and the methods of tensors with these names."""
    for name in names.split():
        yield from [getattr(torch, name)] if hasattr(torch, name) else []
        yield from [name] if hasattr(Tensor, name) else []


register(not_followed, *_named(ORDER), *_named(PLACES), *_named(BITS), workless=True)
register(not_described, *_named(ROUNDING), workless=True)
register(not_followed, *_named(WRITTEN), workless=True)
register(not_followed, operator.setitem, in_place=True, workless=True)
register(
    not_followed, torch.embedding, F.embedding, nn.Embedding, F.one_hot, torch.bernoulli, "bernoulli", workless=True
)
register(not_described, F.grid_sample, F.affine_grid, workless=True)
register(not_followed, torch._assert, workless=True)
register(guard, "nrfx.tracing.guards:assumed", checks=True, workless=True)
register(cast, "long", "int", "short", "bool", "cpu", "cuda", workless=True)
register(
    not_followed,
    *("torchvision.ops.roi_align:roi_align", "torchvision.ops.roi_pool:roi_pool", "torchvision.ops.boxes:nms"),
    workless=True,
)
register(made, *FACTORIES, makes=True, workless=True)
register(made, "new_empty", "new_zeros", "new_ones", "new_full", "new_tensor", "new_empty_strided", workless=True)
register(
    made,
    *(torch.zeros_like, torch.ones_like, torch.empty_like, torch.full_like, torch.rand_like, torch.randn_like),
    *(torch.randint_like, torch.meshgrid),
    workless=True,
)
