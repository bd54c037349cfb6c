"""Attention as one call: two products, with a softmax over positions between them, which changes no channel."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from nrfx.labels import layout
from nrfx.rules.contraction import per_example
from nrfx.rules.effect import Call, Effect, Family, Work, attempt, unknown
from nrfx.rules.product import LETTERS, plus, product
from nrfx.rules.registry import rule


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
        scores = plus(scores, mask)
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


@rule(nn.MultiheadAttention)
def packed_attention(call: Call) -> Effect:
    """nn.MultiheadAttention keeps its widths, for its class has none for fewer heads; its work is counted."""
    module: Any = call.module
    query, key, value = (call.argument(index, name) for index, name in enumerate(("query", "key", "value")))
    tokens, others = (_tokens(labels, module.batch_first, call.batch) for labels in (query, key))
    width, kdim, vdim = module.embed_dim, module.kdim, module.vdim
    times = 2 * tokens * width * width + others * width * (kdim + vdim) + 2 * tokens * others * width
    reason = "nn.MultiheadAttention has one width for all its heads"
    pins = [call.pin(labels, reason) for labels in (query, key, value)]
    out = call.opaque_like(call.val, f"what {call.path} gives")
    return Effect(Family.MIXED, out=out, pins=tuple(pins), work=(Work(times, None, None),))


def _tokens(labels: Tensor, batch_first: bool, batch: int) -> int:
    """Positions of one example."""
    if labels.dim() == 2:
        return labels.shape[0]
    return per_example(labels.shape[0] * labels.shape[1], batch) if labels.dim() == 3 else layout(labels, 0).numel()
