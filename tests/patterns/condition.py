"""Channels that a condition scales and shifts, a table of embeddings, and parameters that weigh whole maps."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.patterns.pattern import Op, Pattern, parameter
from tests.zoo import cbr


def classes(x: Tensor) -> Tensor:
    """A class for each image, [N] int64 below 4."""
    return torch.arange(x.size(0), device=x.device) % 4


def shown(m: Op, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The maps of a norm, scaled and shifted: [N, 8] each."""
    return torch.relu(m.norm(m.conv(x)) * (1 + scale[:, :, None, None]) + shift[..., None, None])


def layers(**more: Any) -> dict[str, Any]:
    return {"conv": nn.Conv2d(8, 8, 3, padding=1), "norm": nn.BatchNorm2d(8, affine=False)} | more


def table() -> dict[str, Any]:
    return layers(table=nn.Embedding(4, 16))


def rows_of(pick: Any) -> Pattern:
    """The scale and shift are halves of a picked row."""
    return Pattern(lambda m, x: shown(m, x, *pick(m, classes(x)).chunk(2, 1)), table, free="before.0 op.conv")


def modulated(m: Op, x: Tensor) -> Tensor:
    return shown(m, x, *m.fc(F.silu(x.mean((2, 3)))).unflatten(1, (2, -1)).unbind(1))


def positions(m: Op, x: Tensor) -> Tensor:
    x = x.flatten(2).mT
    return x + m.table(torch.arange(x.size(1), device=x.device))


def tied_table(m: Op, x: Tensor) -> Tensor:
    """What a row of the table says is read by the same table."""
    return F.linear(m.conv(x).mean((2, 3)) + m.table(classes(x)), m.table.weight)


def mixed(weighted: Any) -> Pattern:
    """Two maps, [2, N, 8, 8, 8], and the softmax of two learnt numbers."""
    return Pattern(
        lambda m, x: weighted(m.mix.softmax(0), torch.stack([x, m.body(x)])),
        lambda: {"mix": parameter(2), "body": cbr(8, 8)},
        free="before.0 op.body.0",
    )


CONDITION = {
    "condition by a linear layer": Pattern(
        modulated, lambda: layers(fc=nn.Linear(8, 16)), free="before.0 op.conv op.fc"
    ),
    "condition by an embedding": rows_of(lambda m, at: m.table(at)),
    "condition by F.embedding": rows_of(lambda m, at: F.embedding(at, m.table.weight)),
    "condition by index_select": rows_of(lambda m, at: m.table.weight.index_select(0, at)),
    "condition by an index": rows_of(lambda m, at: m.table.weight[at]),
    "condition by both ways to a table": Pattern(
        lambda m, x: shown(m, x, *(m.table(classes(x)) + m.table.weight[classes(x)]).chunk(2, 1)),
        table,
        free="before.0",
        pinned="op.conv",
    ),
    "condition by an embedding with max_norm": Pattern(
        lambda m, x: shown(m, x, *m.table(classes(x)).chunk(2, 1)),
        lambda: layers(table=nn.Embedding(4, 16, max_norm=1.0)),
        free="before.0",
        pinned="op.conv",
        trains=False,
    ),
    "condition by two embeddings": Pattern(
        lambda m, x: shown(m, x, m.scale(classes(x)), m.shift(classes(x))),
        lambda: layers(scale=nn.Embedding(4, 8), shift=nn.Embedding(4, 8, padding_idx=0)),
        free="before.0 op.conv",
    ),
    "embedding of positions": Pattern(positions, lambda: {"table": nn.Embedding(64, 8)}, free="before.0 op.table"),
    "embedding that a layer shares": Pattern(
        tied_table, lambda: {"conv": nn.Sequential(nn.Conv2d(8, 6, 1)), "table": nn.Embedding(4, 6)}, free="before.0"
    ),
    "index_select of positions": Pattern(
        lambda m, x: x.index_select(2, torch.tensor([5, 1, 1, 0])).flatten(2).mT, free="before.0"
    ),
    "maps weighed by a stack": mixed(lambda weights, maps: (weights[:, None, None, None, None] * maps).sum(0)),
    "maps weighed along the last dim": mixed(lambda weights, maps: (maps.movedim(0, -1) * weights).sum(-1)),
    "maps weighed by an einsum": mixed(lambda weights, maps: torch.einsum("k,knchw->nchw", weights, maps)),
    "maps weighed by tensordot": mixed(lambda weights, maps: torch.tensordot(weights, maps, dims=([0], [0]))),
    "maps weighed by a product": mixed(lambda weights, maps: maps.movedim(0, -1) @ weights),
    "softmax over a parameter of channels": Pattern(
        lambda m, x: x * m.scale.softmax(0)[:, None, None], lambda: {"scale": parameter(8)}, pinned="before.0"
    ),
    "columns of a parameter": Pattern(
        lambda m, x: x * m.both.t()[0][:, None, None] + m.both[:, 1][:, None, None],
        lambda: {"both": parameter(8, 2)},
        free="before.0",
    ),
}
