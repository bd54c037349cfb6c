"""Products of activations with each other: matmul, einsum, attention.

What is summed over meets: the channels of both operands along a summed dim are read together. Where an axis of channels
was split into heads, a head is such a unit, and the channels of a head in queries, keys and values live and die
together. With a parameter as one operand a product is a linear layer.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from nrfx.labels import NONE, OPAQUE, alike, ascends, coalesce, collapse, layout, varying
from nrfx.rules.contraction import Layer, computed, per_example, weighted
from nrfx.rules.effect import Call, Effect, Family, Pin, Work, attempt, unknown
from nrfx.rules.reduction import summarised
from nrfx.rules.registry import gives_matrix, rule, transposes
from nrfx.rules.sizes import of_attention, of_linear_call
from nrfx.rules.ties import ties_in_units

SUMMED = "its channels are summed over without learnt weights"
CROSSED = "it multiplies channels with other channels"


@dataclass(frozen=True)
class Product:
    """Labels of a product of activations, and what comes with it. between: it may multiply examples with each other."""

    out: Tensor
    ties: tuple[tuple[Tensor, Tensor], ...]
    pins: tuple[Pin, ...]
    work: Work
    between: bool = False

    def effect(self, **more: Any) -> Effect:
        return Effect(
            Family.MIXED,
            out=self.out,
            ties=self.ties,
            pins=self.pins,
            work=(self.work,),
            between=self.between,
            **more,
        )


def product(
    call: Call, operands: Sequence[Tensor], letters: Sequence[str], out: str, work: Work | None = None
) -> Product:
    """The product of `operands` whose dims have `letters`, summed over those that `out` lacks.

    work: where it is not that of one sum over all dims.
    """
    sizes: dict[str, int] = {}
    for labels, names in zip(operands, letters, strict=True):
        for name, size in zip(names, labels.shape, strict=True):
            sizes[name] = max(size, sizes.get(name, 1))
    ties: list[tuple[Tensor, Tensor]] = []
    pins: list[Pin] = []
    parts = []
    for labels, names in zip(operands, letters, strict=True):
        summed = {dim for dim, name in enumerate(names) if name not in out}
        lead, tied, pinned = summarised(call, labels, summed, SUMMED)
        ties += tied
        pins += pinned
        parts.append(placed(lead, names, out))
    along = [varying(part) for part in parts]
    for index, part in enumerate(parts[1:], start=1):
        if _weighs(parts[0], part) or _weighs(part, parts[0]):
            continue
        nested = along[0] <= along[index] or along[index] <= along[0]
        if nested:
            ties.append((collapse(parts[0]), collapse(part)))
        else:
            pins += [call.pin(collapse(parts[0]), CROSSED), call.pin(collapse(part), CROSSED)]
    shape = [sizes[name] for name in out]
    small = [collapse(part) for part in parts]
    merged = small[0]
    if not (ascends(merged) and merged.numel()):  # else the first carries a channel everywhere
        merged = coalesce([collapse(part) for part in torch.broadcast_tensors(*small)])
    work = work_of(call, operands, letters, sizes) if work is None else work
    return Product(
        alike(merged, merged.expand(shape)), tuple(ties), tuple(pins), work, _between(call.batch, letters, out, sizes)
    )


def _between(batch: int, letters: Sequence[str], out: str, sizes: dict[str, int]) -> bool:
    """Whether two operands may each have the examples on a letter of its own: where they share none of that size."""
    if batch == 1 or len(letters) != 2:
        return False
    left, right = ({name for name in names if name in out and sizes[name] % batch == 0} for names in letters)
    return bool(left and right) and not left & right


def _weighs(own: Tensor, other: Tensor) -> bool:
    """Whether fixed values meet whole maps of the other operand, all channels alike."""
    small = collapse(own)
    return small.numel() == 1 and int(small) <= OPAQUE and all(own.shape[dim] == 1 for dim in varying(other))


def placed(labels: Tensor, names: str, out: str) -> Tensor:
    """The labels with their dims in the order of `out`, size 1 where they have none, summed dims dropped."""
    read = dict(zip(names, zip(labels.shape, labels.stride(), strict=True), strict=True))
    sizes, strides = zip(*(read.get(name, (1, 0)) for name in out), strict=True) if out else ((), ())
    return alike(labels, labels.as_strided(sizes, strides))


def work_of(call: Call, operands: Sequence[Tensor], letters: Sequence[str], sizes: dict[str, int]) -> Work:
    """The product of all sizes, as times * the labels that vary: of one operand, and of another on other letters."""
    ranked = sorted(zip(operands, letters, strict=True), key=lambda pair: -collapse(pair[0]).numel())
    rows, cols = None, None
    counted: set[str] = set()
    batch = call.batch
    for labels, names in ranked:
        here = {names[dim] for dim in varying(labels)} - counted
        if not here or cols is not None:
            continue
        flat = placed(labels, names, "".join(name for name in names if name in here))
        counted |= here
        one = _of_one_example(flat, batch)
        batch = batch if one is flat else 1  # the examples are taken out already
        axis = _with_borders(one).reshape(-1)
        rows, cols = (axis, None) if rows is None else (rows, axis)
    times = prod(size for name, size in sizes.items() if name not in counted)
    return Work(per_example(times, batch), rows, cols)


def _with_borders(labels: Tensor) -> Tensor:
    """The labels, with those of their neighbours in the place of padded zeros, which come and go with them."""
    if ascends(labels):
        return labels
    for dim in range(labels.dim()):
        known = labels.amax(dim, keepdim=True)
        alone = ((labels == known) | (labels == NONE)).all(dim, keepdim=True)
        labels = torch.where(alone, known, labels)
    return labels


def _of_one_example(labels: Tensor, batch: int) -> Tensor:
    """The labels of the first example where a dim holds the examples beside the heads ([batch * heads, ...] or [heads *
    batch, ...]), which repeats the labels of the heads; else all.
    """
    if batch == 1 or not labels.dim():
        return labels
    dim = min(varying(labels), default=0)
    if labels.shape[dim] % batch:
        return labels
    for sizes, examples in ([batch, -1], dim), ([-1, batch], dim + 1):
        split: Tensor = labels.unflatten(dim, sizes)
        first = split.narrow(examples, 0, 1)
        if bool((split == first).all()):
            return first.flatten(dim, dim + 1)
    return labels


LETTERS = "abcdefghijklmnopqrstuvw"


@rule(
    *(torch.matmul, operator.matmul, "matmul", "__matmul__", torch.bmm, "bmm", torch.mm, "mm"),
    weights=(0, 1, "other", "mat2"),
)
def matmul(call: Call) -> Effect:
    left, right = call.args[0], call.argument(1, "other", call.kwargs.get("mat2"))
    given = [weight(call, index) for index in (0, 1)]
    if any(given) and not all(given):
        return _linear(call, given.index(next(filter(None, given))), next(filter(None, given)))
    batch = LETTERS[: max(left.dim(), right.dim(), 2) - 2]
    rows, columns = ("x" if x.dim() > 1 else "" for x in (left, right))  # a vector has no rows, or no columns
    columns = columns.replace("x", "z")
    letters = [f"{_last(batch, left.dim() - 2)}{rows}y", f"{_last(batch, right.dim() - 2)}y{columns}"]
    return product(call, (left, right), letters, f"{batch}{rows}{columns}").effect()


def _last(text: str, count: int) -> str:
    return text[len(text) - max(count, 0) :]


@rule(torch.baddbmm, "baddbmm", torch.addmm, "addmm", weights=(0, 1, 2, "batch1", "batch2", "mat1", "mat2"))
def added_matmul(call: Call) -> Effect:
    """The product of the last two operands plus the first; a linear layer, if the first and the last are parameters."""
    if len(call.args) < 3:
        return unknown(call, "a product and an addition in one, with operands by name")
    added, left, right = call.args[:3]
    given = [weight(call, index) for index in (0, 1, 2)]
    if given[2] is not None and not given[1]:
        return _biased_linear(call, left, given[2])
    if given[1] or given[2]:
        return unknown(call, "a product with a parameter and an addition in one")
    letters = ["axy", "ayz"] if left.dim() == 3 else ["xy", "yz"]
    product_of = product(call, (left, right), letters, "axz" if left.dim() == 3 else "xz")
    return _plus(product_of, added).effect()


def _biased_linear(call: Call, labels: Tensor, given: tuple[str, bool]) -> Effect:
    """b + x @ W, where b is a vector of parameters."""
    bias = call.attribute(0, "input")
    scaled = any(call.kwargs.get(name, 1) != 1 for name in ("alpha", "beta"))
    if bias is None or scaled or len(call.parameter(bias).shape) != 1 or labels.dim() != 2:
        return unknown(call, "a product with a parameter, and an addition of more than a bias")
    return reads(call, 2, given, labels, axis=1, out_axis=1, cols=0, bias=bias)


def _plus(summand: Product, added: Tensor) -> Product:
    """The product with something added element by element; a mask that all heads share leaves them apart."""
    small = collapse(added.reshape((1,) * (summand.out.dim() - added.dim()) + added.shape))
    if small.numel() == 1 and int(small) <= OPAQUE:
        missing = summand.out.dim() - added.dim()
        units = ties_in_units(summand.out, {dim + missing for dim, size in enumerate(added.shape) if size > 1})
        if units is not None:
            return replace(summand, ties=(*summand.ties, *units))
    merged = coalesce(torch.broadcast_tensors(collapse(summand.out), small))
    return replace(summand, out=merged.expand(summand.out.shape), ties=(*summand.ties, (collapse(summand.out), small)))


@rule(F.linear, weights=(1, 2, "weight", "bias"), gives=of_linear_call)
def functional_linear(call: Call) -> Effect:
    """x W^T + b."""
    labels, matrix = call.args[0], call.argument(1, "weight")
    node = call.node.args[1] if len(call.node.args) > 1 else call.node.kwargs["weight"]
    given, bias = _given(call, node), call.attribute(2, "bias")
    if given is None or matrix.dim() != 2 or (bias is None and call.argument(2, "bias") is not None):
        return computed(call, prod(call.val.shape) * matrix.shape[-1])
    axis = labels.dim() - 1
    return reads(call, 1, given, labels, axis, axis, 1, bias)


def weight(call: Call, index: int) -> tuple[str, bool] | None:
    """(name, whether transposed) of a parameter given at `index`, None for others."""
    if len(call.node.args) <= index and not isinstance(call.node.args[-1], tuple | list):
        return None
    args = call.node.args if len(call.node.args) > index else (call.node.args[0], *call.node.args[1])  # type: ignore[misc]
    return _given(call, args[index])


def _given(call: Call, node: Any) -> tuple[str, bool] | None:
    """(name, whether transposed) of a parameter, None for any other node.

    Transpositions and the view of a kernel as a matrix may lie between: [rows, columns, *kernel] to [rows, the rest].
    """
    flipped = False
    while isinstance(node, fx.Node) and transposes(node):
        node, flipped = node.args[0], not flipped
    if isinstance(node, fx.Node) and gives_matrix(node):
        node = node.args[0]
    if not (isinstance(node, fx.Node) and node.op == "get_attr"):
        return None
    return call.name(str(node.target)), flipped


def _linear(call: Call, at: int, given: Any) -> Effect:
    """x @ W or W @ x."""
    labels, matrix = call.args[1 - at], call.args[at]
    if matrix.dim() != 2 or labels.dim() < 2:
        return unknown(call, "a product with a parameter that is no matrix")
    axis = labels.dim() - 1 if at == 1 else labels.dim() - 2
    return reads(call, at, given, labels, axis, axis, 0 if at == 1 else 1)


def reads(
    call: Call,
    at: int,
    given: tuple[str, bool],
    labels: Tensor,
    axis: int,
    out_axis: int,
    cols: int,
    bias: str | None = None,
) -> Effect:
    """A linear layer with the matrix `given`, whose dim `cols` (as the call sees it) meets `axis` of the input."""
    name, flipped = given
    shape = call.parameter(name).shape
    rows_dim = cols if flipped else 1 - cols
    kernel = tuple(shape[2:])
    layer = Layer(
        path=name.rpartition(".")[0],
        weight=name,
        bias=bias,
        shape=tuple(shape) if rows_dim == 0 else (shape[1], shape[0]),
        kernel=kernel,
        flat=bool(kernel),
        functional=True,
        transposed=rows_dim == 1,
        operand=at - 1 if at else 1,  # in front of the matrix, or behind it
    )
    if not isinstance(call.parameter(name), nn.Parameter) or len(shape) < 2 or (kernel and rows_dim != 0):
        return unknown(call, f"it multiplies with {name}, which is no matrix of parameters")
    if kernel and not _fills(layout(labels, axis), prod(kernel)):
        return unknown(call, f"a column of {name}, read as a matrix, is a kernel that meets several channels")
    if axis != out_axis:
        return unknown(call, "its product with a parameter moves dims: let the new dim take the place of the summed")
    return weighted(call, layer, labels, axis)


def _fills(cols: Tensor, places: int) -> bool:
    """Whether each channel fills so many places side by side."""
    return cols.numel() % places == 0 and bool((cols.view(-1, places) == cols[::places, None]).all())


@rule(F.scaled_dot_product_attention, noise=(4, "dropout_p"))
def attention(call: Call) -> Effect:
    """softmax(q k^T) v: heads, where the axis before the tokens holds some, come and go as units."""
    query, key, value = (call.argument(index, name) for index, name in enumerate(("query", "key", "value")))
    mask = call.argument(3, "attn_mask")
    if call.argument(7, "enable_gqa", False) and query.dim() > 3:  # each head of keys serves several of queries
        key, value = (attempt(_each_served, query, labels) for labels in (key, value))
    if query.dim() < 3 or query.shape[:-2] != key.shape[:-2]:
        return unknown(call, "attention with queries and keys of other numbers of heads")
    batch = LETTERS[: query.dim() - 2]
    scores = product(call, (query, key), (f"{batch}xd", f"{batch}yd"), f"{batch}xy")
    if isinstance(mask, Tensor):
        scores = _plus(scores, mask)
    mixed = product(call, (scores.out, value), (f"{batch}xy", f"{batch}yz"), f"{batch}xz")
    return Effect(
        Family.MIXED,
        out=mixed.out,
        ties=(*scores.ties, *mixed.ties),
        pins=(*scores.pins, *mixed.pins),
        work=(scores.work, mixed.work),
        numbers=(query.shape[-1], call.argument(6, "scale")),
    )


def _each_served(query: Tensor, labels: Tensor) -> Tensor:
    """Keys or values [..., heads, tokens, width], each head as often as there are heads of queries for it."""
    heads, served = labels.shape[-3], query.shape[-3]
    if served % heads:
        raise ValueError(f"{served} heads of queries do not share {heads} heads of keys")
    return labels.repeat_interleave(served // heads, dim=-3)


@rule(nn.MultiheadAttention, gives=of_attention)
def packed_attention(call: Call) -> Effect:
    """nn.MultiheadAttention keeps its widths, for its class has none for fewer heads; its work is counted.

    Keys of its own, learnt or zeros, stand beside those that it projects.
    """
    module: Any = call.module
    query, key, value = (call.argument(index, name) for index, name in enumerate(("query", "key", "value")))
    sequences, tokens, others = _lengths(query, key, module.batch_first)
    width, kdim, vdim = module.embed_dim, module.kdim, module.vdim
    keys = others + (module.bias_k is not None) + bool(module.add_zero_attn)
    each = 2 * tokens * width * width + others * width * (kdim + vdim) + 2 * tokens * keys * width
    times = each if query.dim() == 2 else per_example(sequences * each, call.batch)
    reason = "nn.MultiheadAttention has one width for all its heads"
    pins = [call.pin(labels, reason) for labels in (query, key, value)]
    out = call.opaque_like(call.val, f"what {call.path} gives")
    return Effect(Family.MIXED, out=out, pins=tuple(pins), work=(Work(times, None, None),))


def _lengths(query: Tensor, key: Tensor, batch_first: bool) -> tuple[int, int, int]:
    """The sequences, of which an example may have several, the queries of each, and its keys."""
    if query.dim() == 2:
        return 1, query.shape[0], key.shape[0]
    of_sequences = 0 if batch_first else 1
    return query.shape[of_sequences], query.shape[1 - of_sequences], key.shape[1 - of_sequences]
