"""Ops that look at values: they sort, select, scatter, round, draw numbers, or make tensors of sizes alone.

None of them does multiply-adds that count. Where channels go through one, it is not known which come out: they are
pinned.
"""

import operator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrfx.labels import NONE, along, collapse, fill
from nrfx.rules.effect import Call, Effect, Family, Site, attempt, tensors, unknown
from nrfx.rules.registry import named, register, rule

ORDER = "argmax argmin argsort cumprod nonzero unique bincount"
PLACES = (
    "gather scatter scatter_add scatter_reduce take take_along_dim masked_scatter masked_select "
    "index_add index_copy index_fill index_put index_reduce"
)
BITS = "bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor logical_xor"
ROUNDING = "ceil floor nan_to_num round sign"
WRITTEN = (
    "bernoulli_ bitwise_and_ bitwise_left_shift_ bitwise_not_ bitwise_or_ bitwise_right_shift_ bitwise_xor_ ceil_ "
    "copy_ cos_ cumprod_ cumsum_ eq_ erf_ fill_ floor_ ge_ gt_ index_add_ index_copy_ index_fill_ index_put_ le_ lt_ "
    "index_reduce_ logical_and_ logical_not_ logical_or_ logical_xor_ masked_scatter_ nan_to_num_ ne_ normal_ random_ "
    "resize_ resize_as_ round_ scatter_ scatter_add_ scatter_reduce_ sign_ sin_ uniform_ zero_"
)
FACTORIES = (
    *(torch.arange, torch.linspace, torch.zeros, torch.ones, torch.empty, torch.eye, torch.tensor),
    *(torch.rand, torch.randn, torch.randint, torch.randperm, torch.tril_indices, torch.triu_indices),
)
FOURIER = tuple(getattr(torch.fft, name) for name in torch.fft.__all__ if name.endswith(("fft", "fft2", "fftn")))


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


def _filled(number: float, x: Tensor, *given: Any, **named: Any) -> Tensor:
    """The constants x, filled with the number that is given, if one is: NaN for one that varies."""
    result = torch.full_like(x, given[0] if given else named.get("fill_value", number))
    return torch.where(x.isnan() & (result != 0), x, result)


def _title(call: Call) -> str:
    target: Any = call.node.target if call.module is None else type(call.module)
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


register(not_followed, *named(ORDER), *named(PLACES), *named(BITS), workless=True)
register(not_described, *named(ROUNDING), workless=True)
register(not_followed, *named(WRITTEN), workless=True)
register(not_followed, operator.setitem, in_place=True, workless=True)
register(not_followed, F.one_hot, torch.bernoulli, "bernoulli", workless=True)
register(not_described, F.grid_sample, F.affine_grid, *named("diff cdist"), *FOURIER, workless=True)
register(not_followed, torch._assert, workless=True)
register(guard, "nrfx.tracing.graph.guards:assumed", checks=True, workless=True)
register(cast, "long", "int", "short", "bool", "cpu", "cuda", workless=True)
register(
    not_followed,
    *("torchvision.ops.roi_align:roi_align", "torchvision.ops.roi_pool:roi_pool", "torchvision.ops.boxes:nms"),
    workless=True,
)
register(made, *FACTORIES, makes=True, workless=True)
register(made, torch.full, makes=True, fill=1, workless=True)
register(made, "new_full", makes=True, fill=2, workless=True)
register(
    made,
    *("new_empty", "new_zeros", "new_ones", "new_tensor", "new_empty_strided"),
    makes=True,
    workless=True,
)
register(
    made,
    *(torch.empty_like, torch.rand_like, torch.randn_like, torch.randint_like, torch.meshgrid),
    workless=True,
)


def _embedding_widths(table: Any, _: int | None) -> dict[str, int]:
    return {"embedding_dim": table.weight.shape[1]}


@rule(nn.Embedding, widths=_embedding_widths, workless=True)
def embedding(call: Call) -> Effect:
    """Rows of a table, picked by value: its columns are channels, whichever row it is."""
    module: Any = call.module
    if module.max_norm is not None:
        return unknown(call, f"{call.path} scales each row by its norm over channels (max_norm)")
    name = call.name(f"{call.path}.weight")
    columns = call.birth(name, module.weight.shape[1])
    shape = (*call.val.shape[:-1], columns.numel())
    return Effect(Family.SOURCE, out=along(columns, len(shape) - 1, shape), sites=(Site(name, 1, columns),))


@rule(F.embedding, torch.embedding, workless=True)
def functional_embedding(call: Call) -> Effect:
    """The same, of a table that the function is given."""
    first, second = call.args[0], call.argument(1, "weight", call.kwargs.get("indices"))
    table = second if call.node.target is F.embedding else first
    if call.argument(3, "max_norm") is not None and call.node.target is F.embedding:
        return unknown(call, "it scales each row of a table by its norm over channels (max_norm)")
    return _picked(call, table, 0, call.val.dim() - 1)


@rule(torch.index_select, "index_select", workless=True)
def index_select(call: Call) -> Effect:
    """Some of the indices along a dim."""
    labels: Tensor = call.args[0]
    dim = call.argument(1, "dim") % max(labels.dim(), 1)
    return _picked(call, labels, dim, 1)


def _picked(call: Call, labels: Tensor, dim: int, own: int) -> Effect:
    """What is picked by value along a dim, in the place of which there are `own` dims."""
    small = collapse(labels)
    if small.shape[dim] > 1:
        return not_followed(call)
    small = small.reshape(*small.shape[:dim], *(1,) * own, *small.shape[dim + 1 :])
    sizes = zip(small.shape, call.val.shape, strict=True)
    return Effect(Family.MIXED, out=small.expand([whole if cut == 1 else cut for cut, whole in sizes]))


@rule(torch.full_like, fill=1, workless=True)
@rule(torch.zeros_like, torch.ones_like, workless=True)
def filled_like(call: Call) -> Effect:
    """One number for each element of another tensor: a channel of it comes and goes with that of the other."""
    labels: Tensor = call.args[0]
    if not call.val.is_floating_point() or tensors(call.args[1:]):
        return made(call)
    alike = collapse(labels).numel() == 1
    number = call.argument(1, "fill_value", 0.0 if call.node.target is torch.zeros_like else 1.0)
    return Effect(
        Family.POINTWISE,
        out=fill(NONE, labels.shape) if alike else labels,
        apply=partial(_filled, number),
        homogeneous=number == 0,
        numbers=(number,),
    )
