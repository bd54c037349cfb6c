"""Sums, extrema, softmax and other statistics along dims.

Over positions each channel is summarised alone. Over a part of a channel axis that was split (maxout, heads) whole
parts come and go together. Over a channel axis itself the result changes with every channel that goes, so none may.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from nrfx.labels import alike, collapse, highest, varying
from nrfx.nests import with_tensors
from nrfx.rules.effect import Call, Effect, Family, Pin, attempt, tensors, unknown
from nrfx.rules.registry import register, rule
from nrfx.rules.sizes import of_normalize, of_softmax

ORDER = (torch.amax, "amax", torch.amin, "amin", torch.median, "median")
"""As a mean does, of a constant they give the constant itself, and of s x they give s times what they give of x."""
OTHER = (
    *(torch.sum, "sum", torch.prod, "prod", torch.std, "std", torch.var, "var", torch.logsumexp, "logsumexp"),
    *(torch.linalg.norm, torch.linalg.vector_norm),
)
ORDERED = (torch.sort, "sort", torch.cummax, "cummax", torch.cummin, "cummin", torch.mode, "mode")
CHOSEN = (torch.topk, "topk", torch.kthvalue, "kthvalue")
"""As those, with the dim behind a number."""
EXTREMUM = (torch.max, "max", torch.min, "min")
ALONG = (
    *(torch.softmax, "softmax", torch.log_softmax, "log_softmax", F.softmax, F.log_softmax, F.softmin),
    *(torch.cumsum, "cumsum"),
)
MODULES = (nn.Softmax, nn.LogSoftmax, nn.Softmin)

ALL = "it summarises over all dims, channels included"
OVER = "it summarises over channels"


def summarised(
    call: Call, labels: Tensor, dims: set[int], reason: str
) -> tuple[Tensor, tuple[tuple[Tensor, Tensor], ...], tuple[Pin, ...]]:
    """The labels with one for all along each of `dims`, of the same shape; and ties, or a pin, for channels that are
    read together along them: parts of an axis are units, a whole one not.
    """
    varies = varying(labels)
    over = varies & dims
    if not over:
        return labels, (), ()
    small = collapse(labels)
    one = highest(small, over)
    lead = alike(one, one.expand(labels.shape))
    if varies == over:
        return lead, (), (call.pin(labels, reason),)
    return lead, ((alike(one, one.expand_as(small)), small),), ()


def _dims(call: Call, default: Any = None, at: int = 1) -> set[int] | None:
    """The dims that the call names, as its argument `at` or as `dim`; None for all."""
    labels: Tensor = call.args[0]
    given = getattr(call.module, "dim", None) if call.module is not None else None
    if given is None:
        given = call.argument(at, "dim", call.kwargs.get("axis", default))
    if given is None or given == ():
        return None
    return {dim % labels.dim() for dim in ([given] if isinstance(given, int) else given)}


def reduced(call: Call, family: Family = Family.MIXED, *, homogeneous: bool = False, at: int = 1) -> Effect:
    """The effect of an op that leaves one value for all along the dims it names, as its argument `at`."""
    labels: Tensor = call.args[0]
    if not isinstance(labels, Tensor):
        return Effect(Family.VALUE, out=_plain(call))
    dims = _dims(call, at=at)
    if dims is None:
        every = (call.pin(labels, ALL),) if varying(labels) else ()
        return Effect(Family.MIXED, out=call.opaque_like(call.val, "a summary over all dims"), pins=every)
    out, ties, pins = summarised(call, labels, dims, OVER)
    if pins:
        return Effect(Family.MIXED, out=call.opaque_like(call.val, "a summary over channels"), pins=pins)
    keep = tensors(call.val)[0].dim() == labels.dim()
    for dim in sorted(dims, reverse=True):
        out = out.narrow(dim, 0, 1) if keep else out.select(dim, 0)
    mixes = bool(ties) or not isinstance(call.val, Tensor)  # with indices beside the values it is no plain pool
    return Effect(
        Family.MIXED if mixes else family,
        out=with_tensors(call.val, lambda _: out),
        ties=ties,
        apply=None if ties else partial(of_values if mixes else at_any_size, sorted(dims), call.function),
        homogeneous=homogeneous and not mixes,
    )


def _plain(call: Call) -> Any:
    if isinstance(call.node.target, str):
        return getattr(call.args[0], call.node.target)(*call.args[1:], **call.kwargs)
    return call.node.target(*call.args, **call.kwargs)


def order(call: Call) -> Effect:
    """As a mean, but for negative factors: the largest of -x is not minus the largest of x."""
    return replace(reduced(call, Family.POOL, homogeneous=True), positive_only=True)


register(partial(reduced, family=Family.POOL, homogeneous=True), torch.mean, "mean", workless=True)
register(order, *ORDER, workless=True)
register(reduced, *OTHER, workless=True)
register(reduced, torch.var_mean, torch.std_mean, workless=True)
register(partial(reduced, at=2), torch.norm, "norm", workless=True)


@rule(*EXTREMUM, workless=True)
def extremum(call: Call) -> Effect:
    """max(x, dim) reduces, and so does max(x); max(x, y) is element-wise."""
    from nrfx.rules.pointwise import elementwise  # noqa: PLC0415 (families do not depend on each other)

    if len(tensors((call.args, call.kwargs))) > 1:
        return elementwise(call, homogeneous=True, positive_only=True)
    return reduced(call)


def ordered(call: Call, default: int | None = -1, at: int = 1) -> Effect:
    """Values with their indices, of what lies along the dim that is the argument `at`.

    Over channels the largest come first, whichever these are; over positions each channel is treated alone.
    """
    labels: Tensor = call.args[0]
    dims = _dims(call, default, at)
    if dims is None or varying(labels) & dims:
        return unknown(call, f"{call.node.name} puts channels in the order of their values")
    (dim,) = dims

    def part(leaf: Tensor) -> Tensor:
        return labels.select(dim, 0) if leaf.dim() < labels.dim() else _of_size(labels, dim, leaf.shape[dim])

    out = torch.utils._pytree.tree_map(part, call.val)
    return Effect(Family.MIXED, out=out, apply=partial(of_values, [dim], call.function))


def _of_size(labels: Tensor, dim: int, size: int) -> Tensor:
    """The labels, which do not vary along the dim, with that size there."""
    shape = list(labels.shape)
    shape[dim] = size
    return labels.narrow(dim, 0, 1).expand(shape)


def of_values(dims: list[int], op: Callable[..., Any], x: Tensor, /, *args: Any, **kwargs: Any) -> Any:
    """What an op that picks some of the values along the dims makes of constants: NaN unless all of them are one
    constant, for which of several it picks may depend on their number; and for indices.
    """
    x = one_along(dims, x)
    varies = x.isnan()
    for dim in dims:
        varies = varies.narrow(dim, 0, 1)

    def of(leaf: Tensor) -> Tensor:
        gone = varies if leaf.dim() == x.dim() else varies.squeeze(dims)
        return torch.where(gone | (not leaf.is_floating_point()), float("nan"), leaf.double())

    # contiguous: of a tensor that repeats by stride 0, torch.median gives what lies behind it in memory
    return torch.utils._pytree.tree_map(of, attempt(op, torch.where(x.isnan(), 0.0, x).contiguous(), *args, **kwargs))


def at_any_size(dims: list[int], op: Callable[..., Any], x: Tensor, /, *args: Any, **kwargs: Any) -> Any:
    """What an op makes of constants where this is the same for two elements along each of the dims as for three; NaN
    elsewhere. The sum of n elements c is n c, and n may be another number at other sizes of the input.
    """
    lengths = x.shape
    x = one_along(dims, x)
    for dim in dims:
        x = x.narrow(dim, 0, 1)

    def agreed(two: Tensor, three: Tensor) -> Tensor:
        if two.dim() < x.dim():
            return torch.where(two == three, two, float("nan")).double()
        sizes = [length if dim in dims and three.shape[dim] > 1 else -1 for dim, length in enumerate(lengths)]
        one, other = (one_along(dims, values) for values in (two, three))
        for dim in dims:
            one, other = one.narrow(dim, 0, 1), other.narrow(dim, 0, 1)
        return torch.where(one == other, one, float("nan")).double().expand(sizes)

    tried = [attempt(op, _of_size_along(dims, x, size), *args, **kwargs) for size in (2, 3)]
    return torch.utils._pytree.tree_map(agreed, *tried)


def _of_size_along(dims: list[int], x: Tensor, size: int) -> Tensor:
    return x.expand([size if dim in dims else -1 for dim in range(x.dim())]).contiguous()


def one_along(dims: list[int], x: Tensor) -> Tensor:
    """The constants, NaN where those along the dims are not one."""
    for dim in dims:
        alike = (x == x.narrow(dim, 0, 1)).all(dim, keepdim=True)
        x = torch.where(alike, x, float("nan"))
    return x


register(ordered, *ORDERED, workless=True)
register(partial(ordered, at=2), *CHOSEN, workless=True)
register(partial(ordered, default=None), torch.aminmax, "aminmax", workless=True)


def along(call: Call, default: int | None = None, at: int = 1) -> Effect:
    """An op that keeps the shape and mixes what lies along the dim that is its argument `at`."""
    dims = _dims(call, default, at)
    if dims is None:
        return unknown(call, "its dim is not stated")
    return _normalised(call, dims)


def _normalised(call: Call, dims: set[int]) -> Effect:
    labels: Tensor = call.args[0]
    name = call.path if call.module is not None else call.node.name
    lead, ties, pins = summarised(call, labels, dims, f"{name} normalises over its channels")
    learnt = bool(pins) and _of_parameters(call.node)  # numbers to mix several maps by: no channels, as a rule
    return Effect(
        Family.MIXED,
        out=call.opaque_like(call.val, f"what {name} makes of a parameter") if learnt else lead,
        ties=ties,
        pins=pins,
        apply=None if ties or pins else partial(at_any_size, sorted(dims), call.function),
    )


def _of_parameters(node: fx.Node) -> bool:
    """Whether the node is computed from parameters and buffers alone."""
    queue, seen = [node], {node}
    while queue:
        source = queue.pop()
        if source.op != "get_attr" and not source.all_input_nodes:  # an input of the network, or numbers
            return False
        further = [] if source.op == "get_attr" else [each for each in source.all_input_nodes if each not in seen]
        queue += further
        seen.update(further)
    return True


register(along, *ALONG, gives=of_softmax, workless=True)
register(along, *MODULES, keeps_shape=True, workless=True)
register(partial(along, default=1, at=2), F.normalize, gives=of_normalize, workless=True)


@rule(nn.Softmax2d, keeps_shape=True, workless=True)
def over_dim_one(call: Call) -> Effect:
    """A softmax over the channels of [N, C, H, W] or [C, H, W]."""
    return _normalised(call, {call.args[0].dim() - 3})


@rule(F.glu, nn.GLU, workless=True)
def glu(call: Call) -> Effect:
    """Half of the channels times the sigmoid of the other half: each gate lives and dies with what it gates."""
    labels: Tensor = call.args[0]
    dim = getattr(call.module, "dim", None) if call.module is not None else call.argument(1, "dim", -1)
    left, right = labels.chunk(2, -1 if dim is None else dim)
    return Effect(Family.MIXED, out=left, ties=((collapse(left), collapse(right)),), apply=None)
