"""Attention by hand and by module, gates, and what else multiplies activations with each other."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.patterns.pattern import Op, Pattern, parameter
from tests.zoo import cbr, conv_bn


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def by_hand(m: Op, x: Tensor) -> Tensor:
    x = tokens(x)
    n, t, c = x.shape
    q, k, v = m.qkv(x).view(n, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-2, -1) * (c // 2) ** -0.5).softmax(-1)
    return m.proj((weights @ v).transpose(1, 2).reshape(n, t, c))


def literal_heads(m: Op, x: Tensor) -> Tensor:
    x = tokens(x)
    q, k, v = (part.view(-1, 64, 2, 4).transpose(1, 2) for part in m.qkv(x).chunk(3, dim=-1))
    weights = F.softmax(torch.matmul(q, k.transpose(2, 3)) / 2.0, dim=-1)
    return m.proj(torch.matmul(weights, v).transpose(1, 2).reshape(-1, 64, 8))


def three_layers(m: Op, x: Tensor) -> Tensor:
    x = tokens(x)
    n, t, _ = x.shape
    q, k, v = (layer(x).view(n, t, 2, -1).transpose(1, 2) for layer in (m.q, m.k, m.v))
    return m.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def with_dropout(m: Op, x: Tensor) -> Tensor:
    x = tokens(x)
    q, k, v = (layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (m.q, m.k, m.v))
    given = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if m.training else 0.0)
    return m.proj(given.transpose(1, 2).flatten(2))


def three_operands(m: Op, x: Tensor) -> Tensor:
    x = tokens(x)
    q, k, v = (layer(x).unflatten(-1, (2, -1)) for layer in (m.q, m.k, m.v))
    return m.proj(torch.einsum("nthd,nshd,nshe->nthe", q, k, v).flatten(2) / 64)


def masked(m: Op, x: Tensor) -> Tensor:
    """The mask has the least number of its dtype where a key is hidden."""
    x = tokens(x)
    n, t, c = x.shape
    q, k, v = m.qkv(x).view(n, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
    hidden = torch.zeros(t, t, dtype=x.dtype).masked_fill(torch.ones(t, t).triu(1) > 0, torch.finfo(x.dtype).min)
    return m.proj(((q @ k.transpose(-2, -1) + hidden).softmax(-1) @ v).transpose(1, 2).reshape(n, t, c))


def hidden_for_all(m: Op, x: Tensor) -> Tensor:
    x = tokens(x)
    n, t, _ = x.shape
    q, k, v = (layer(x).view(n, t, 2, -1).transpose(1, 2) for layer in (m.q, m.k, m.v))
    seen = x.new_ones(1, 1, t, t).tril().bool()
    return m.proj(F.scaled_dot_product_attention(q, k, v, seen).transpose(1, 2).flatten(2))


class Turned(nn.Module):
    """Rotary positions: each pair of channels of a head turns by an angle that its table and the position give."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("speeds", 0.5 ** torch.arange(width // 2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[-2], device=x.device)
        angles = torch.outer(positions.to(x.dtype), self.get_buffer("speeds"))
        angles = torch.cat([angles, angles], -1)
        left, right = x.chunk(2, -1)
        return x * angles.cos() + torch.cat([-right, left], -1) * angles.sin()


def rotary(m: Op, x: Tensor) -> Tensor:
    x = tokens(x)
    n, t, _ = x.shape
    q, k, v = (layer(x).view(n, t, 2, -1).transpose(1, 2) for layer in (m.q, m.k, m.v))
    return m.proj(F.scaled_dot_product_attention(m.turn(q), m.turn(k), v).transpose(1, 2).flatten(2))


def span_convolution(m: Op, x: Tensor) -> Tensor:
    """A kernel of three for each token and head, over values that are padded with zeros."""
    n, t, _ = tokens(x).shape
    kernels = m.k(tokens(x)).reshape(-1, 3, 1).softmax(1)
    values = F.unfold(m.v(x).flatten(2).unsqueeze(-1), (3, 1), padding=(1, 0)).transpose(1, 2).reshape(-1, 4, 3)
    return m.proj((values @ kernels).reshape(n, t, -1))


def shared_keys(m: Op, x: Tensor) -> Tensor:
    """Two heads of queries for each head of keys and values, which are repeated."""
    x = tokens(x)
    n, t, _ = x.shape
    q = m.q(x).view(n, t, -1, 2).transpose(1, 2)
    k, v = (layer(x).view(n, t, -1, 2).transpose(1, 2) for layer in (m.k, m.v))
    k, v = (part[:, :, None].expand(n, 2, 2, t, 2).reshape(n, 4, t, 2) for part in (k, v))
    return m.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def grouped_queries(m: Op, x: Tensor) -> Tensor:
    """The same, where the attention itself repeats keys and values."""
    x = tokens(x)
    n, t, _ = x.shape
    q, k, v = (layer(x).view(n, t, -1, 2).transpose(1, 2) for layer in (m.q, m.k, m.v))
    return m.proj(F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2))


def one_head(m: Op, x: Tensor) -> Tensor:
    x = tokens(x)
    return m.proj(F.scaled_dot_product_attention(m.q(x), m.k(x), m.v(x)))


def einsum_heads(m: Op, x: Tensor) -> Tensor:
    x = tokens(x)
    q, k, v = (layer(x).unflatten(-1, (2, -1)) for layer in (m.q, m.k, m.v))
    weights = torch.einsum("nthd,nshd->nhts", q, k).softmax(-1)
    return m.proj(torch.einsum("nhts,nshd->nthd", weights, v).flatten(2))


def non_local(m: Op, x: Tensor) -> Tensor:
    q, k, v = m.q(x).flatten(2), m.k(x).flatten(2), m.v(x).flatten(2)
    weights = torch.bmm(q.transpose(1, 2), k).softmax(-1)
    return x + m.proj(torch.bmm(v, weights.transpose(1, 2)).view(x.size(0), -1, *x.shape[2:]))


def cross_covariance(m: Op, x: Tensor) -> Tensor:
    q, k, v = m.qkv(tokens(x)).chunk(3, dim=-1)
    return m.proj(v @ (q.transpose(1, 2) @ k).softmax(-1))


def multi_head(m: Op, x: Tensor) -> Tensor:
    x = tokens(x)
    return m.attention(x, x, x, need_weights=False)[0]


def multi_head_of_weights(m: Op, x: Tensor) -> Tensor:
    x = tokens(x)
    given, weights = m.attention(x, x, x)
    return given + weights.mean()


def multi_head_of_rows(m: Op, x: Tensor) -> Tensor:
    """Each row of an image is a sequence; the tokens come first in the first layer, then the rows."""
    rows = x.permute(3, 0, 2, 1).flatten(1, 2)
    rows = m.first(rows, rows, rows, need_weights=False)[0].transpose(0, 1)
    return m.second(rows, rows[:, ::2], rows[:, ::2], need_weights=False)[0].unflatten(0, (-1, x.shape[2])).mean(1)


def cross_attention(m: Op, x: Tensor) -> Tensor:
    return m.attention(tokens(F.max_pool2d(x, 2)), tokens(x), tokens(x), need_weights=False)[0]


def attention(**options: object) -> dict[str, nn.Module]:
    return {"attention": nn.MultiheadAttention(8, 2, batch_first=True, **options)}  # type: ignore[arg-type]


def qkv() -> dict[str, nn.Module]:
    return {"qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 6)}


def layers(width: int = 8) -> dict[str, nn.Module]:
    return {name: nn.Linear(8, width) for name in "qkv"} | {"proj": nn.Linear(width, 6)}


def shared() -> dict[str, nn.Module]:
    return layers() | {name: nn.Linear(8, 4) for name in "kv"}


def excited(m: Op, x: Tensor) -> Tensor:
    return x * m.gate(x.mean((2, 3), keepdim=True)).sigmoid()


def linear_excited(m: Op, x: Tensor) -> Tensor:
    n, c, _, _ = x.size()
    return x * m.up(torch.relu(m.down(F.adaptive_avg_pool2d(x, 1).view(n, c)))).sigmoid().view(n, c, 1, 1).expand_as(x)


def efficient_channel(m: Op, x: Tensor) -> Tensor:
    return x * m.conv(x.mean((2, 3)).unsqueeze(1)).sigmoid().squeeze(1)[:, :, None, None]


def spatial(m: Op, x: Tensor) -> Tensor:
    return x * m.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()


def selective(m: Op, x: Tensor) -> Tensor:
    both = torch.stack([m.a(x), m.b(x)], 1)
    weights = m.fc(both.sum(1).mean((2, 3))).view(x.size(0), 2, -1, 1, 1).softmax(1)
    return (both * weights).sum(1)


def masks(m: Op, x: Tensor) -> Tensor:
    """Of two sources, [N, 2, C, H, W]."""
    return m.conv(x).unflatten(1, (2, -1))


def split_excited(m: Op, x: Tensor) -> Tensor:
    a, b = m.conv(x).chunk(2, dim=1)
    return a.tanh() * b.sigmoid()


def simple_gate(m: Op, x: Tensor) -> Tensor:
    a, b = m.conv(x).chunk(2, dim=1)
    return a * b


def gate(squeezed: int = 4) -> dict[str, nn.Module]:
    return {"gate": nn.Sequential(nn.Conv2d(8, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, 8, 1))}


def encoder() -> dict[str, nn.Module]:
    return {"layer": nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)}


ATTENTION = {
    "attention by hand": Pattern(by_hand, qkv, free="before.0 op.qkv op.proj"),
    "attention of literal heads": Pattern(literal_heads, qkv, free="before.0 op.proj"),
    "attention of three layers": Pattern(three_layers, layers, free="before.0 op.q op.k op.v op.proj"),
    "attention with dropout": Pattern(with_dropout, layers, free="before.0 op.q op.k op.v op.proj"),
    "attention by an einsum of three": Pattern(three_operands, layers, free="before.0 op.q op.k op.v op.proj"),
    "attention behind a mask": Pattern(masked, qkv, free="before.0 op.qkv op.proj"),
    "attention with keys that all heads hide": Pattern(hidden_for_all, layers, free="before.0 op.q op.k op.v op.proj"),
    "attention with rotary positions": Pattern(
        rotary, lambda: layers() | {"turn": Turned(4)}, free="before.0 op.q op.k op.v op.proj"
    ),
    "rotary positions of one head": Pattern(
        lambda m, x: m.turn(m.q(tokens(x))),
        lambda: {"q": nn.Linear(8, 6), "turn": Turned(6)},
        free="before.0",
        pinned="op.q",
    ),
    "attention that sees what came before": Pattern(
        lambda m, x: m.proj((m.q(tokens(x)) @ m.k(tokens(x)).mT).tril() @ m.v(tokens(x)) / 64),
        layers,
        free="before.0 op.proj",
    ),
    "half of the products of channels": Pattern(
        lambda m, x: torch.triu(m.q(tokens(x)).mT @ m.k(tokens(x))), layers, free="before.0", pinned="op.q"
    ),
    "convolution of a span": Pattern(
        span_convolution,
        lambda: {"k": nn.Linear(8, 6), "v": cbr(8, 8), "proj": nn.Linear(8, 6)},
        free="before.0 op.v.0",
    ),
    "attention with shared keys": Pattern(shared_keys, shared, free="before.0 op.q op.k op.v op.proj"),
    "attention with grouped queries": Pattern(grouped_queries, shared, free="before.0 op.q op.k op.v op.proj"),
    "attention of one head": Pattern(one_head, lambda: layers(6), free="before.0 op.proj"),
    "attention by einsum": Pattern(einsum_heads, layers, free="before.0 op.q op.k op.v op.proj"),
    "non-local block": Pattern(
        non_local,
        lambda: {n: nn.Conv2d(8, 4, 1) for n in "qkv"} | {"proj": nn.Sequential(*conv_bn(4, 8, 1))},
        free="before.0 op.proj.0",
    ),
    "cross-covariance attention": Pattern(cross_covariance, qkv, free="before.0 op.proj"),
    "MultiheadAttention": Pattern(multi_head, attention, free="op.attention"),
    "MultiheadAttention with a learnt key": Pattern(multi_head, lambda: attention(add_bias_kv=True)),
    "MultiheadAttention with a key of zeros": Pattern(multi_head, lambda: attention(add_zero_attn=True)),
    "MultiheadAttention without bias": Pattern(multi_head, lambda: attention(bias=False)),
    "MultiheadAttention with its weights": Pattern(multi_head_of_weights, attention),
    "MultiheadAttention of rows": Pattern(
        multi_head_of_rows,
        lambda: {
            "first": nn.MultiheadAttention(8, 2),
            "second": nn.MultiheadAttention(8, 2, batch_first=True, add_zero_attn=True),
        },
    ),
    "MultiheadAttention of another width": Pattern(
        lambda m, x: m.attention(m.q(tokens(x)), tokens(x), tokens(x), need_weights=False)[0],
        lambda: {"q": nn.Linear(8, 12), "attention": nn.MultiheadAttention(12, 3, kdim=8, vdim=8, batch_first=True)},
    ),
    "cross attention": Pattern(cross_attention, attention),
    "transformer encoder layer": Pattern(lambda m, x: m.layer(tokens(x)), encoder, free="op.layer.linear1"),
    "squeeze and excite": Pattern(excited, gate, free="before.0 op.gate.0 op.gate.2"),
    "squeeze and excite of linear layers": Pattern(
        linear_excited, lambda: {"down": nn.Linear(8, 4), "up": nn.Linear(4, 8)}, free="before.0 op.down op.up"
    ),
    "squeeze and excite with a norm": Pattern(
        excited,
        lambda: {"gate": nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 1))},
        free="before.0 op.gate.0 op.gate.3",
    ),
    "efficient channel attention": Pattern(efficient_channel, lambda: {"conv": nn.Conv1d(1, 1, 3, padding=1)}),
    "spatial attention": Pattern(spatial, lambda: {"conv": nn.Conv2d(2, 1, 3, padding=1)}),
    "spatial gate": Pattern(
        lambda m, x: x * m.gate(x).sigmoid(), lambda: {"gate": nn.Conv2d(8, 1, 1)}, free="before.0"
    ),
    "selective kernel": Pattern(
        selective, lambda: {"a": cbr(8, 8), "b": cbr(8, 8, 1), "fc": nn.Linear(8, 16)}, free="before.0 op.a.0 op.b.0"
    ),
    "masks of two sources": Pattern(
        lambda m, x: (x[:, None] * masks(m, x)).flatten(0, 1), lambda: {"conv": cbr(8, 16)}, free="before.0 op.conv.0"
    ),
    "masks of two sources, added": Pattern(
        lambda m, x: torch.maximum(masks(m, x), x[:, None]).sum(1), lambda: {"conv": cbr(8, 16)}, free="op.conv.0"
    ),
    "masks times a vector": Pattern(
        lambda m, x: (masks(m, x) * m.vector).mean(1),
        lambda: {"conv": cbr(8, 16), "vector": parameter(8, 1, 1)},
        free="op.conv.0",
    ),
    "masks times their positions": Pattern(
        lambda m, x: (masks(m, x) * torch.arange(8.0)[:, None, None]).mean(1),
        lambda: {"conv": cbr(8, 16)},
    ),
    "gated activation": Pattern(
        split_excited, lambda: {"conv": nn.Sequential(*conv_bn(8, 12))}, free="before.0 op.conv.0"
    ),
    "simple gate": Pattern(simple_gate, lambda: {"conv": nn.Sequential(*conv_bn(8, 12))}, free="before.0 op.conv.0"),
    "linear attention": Pattern(
        lambda m, x: (m.q(tokens(x)).relu() @ (m.k(tokens(x)).relu().mT @ m.v(tokens(x)))) / 64,
        lambda: {name: nn.Linear(8, 6) for name in "qkv"},
        free="before.0",
    ),
    "einsum element by element": Pattern(
        lambda m, x: torch.einsum("nchw,nc->nchw", x, m.fc(x.mean((2, 3))).sigmoid()),
        lambda: {"fc": nn.Linear(8, 8)},
        free="before.0 op.fc",
    ),
    "einsum of sums and a product": Pattern(
        lambda m, x: torch.einsum("nct,nds->ncd", x.flatten(2), x.flatten(2)).flatten(1) / 64
    ),
    "einsum that permutes": Pattern(lambda m, x: torch.einsum("nc...->n...c", x).flatten(1, 2), free="before.0"),
    "product with a vector": Pattern(
        lambda m, x: x.flatten(2) @ m.conv(x).mean((0, 1)).flatten(),
        lambda: {"conv": nn.Conv2d(8, 1, 1)},
        free="before.0",
    ),
    "bilinear pooling": Pattern(
        lambda m, x: torch.einsum("ncp,ndp->ncd", m.conv(x).flatten(2), x.flatten(2)).flatten(1),
        lambda: {"conv": cbr(8, 4)},
    ),
    "outer product": Pattern(lambda m, x: x.mean((2, 3)).unsqueeze(2) * x.amax((2, 3)).unsqueeze(1)),
    "dynamic convolution": Pattern(
        lambda m, x: torch.einsum("nchw,ncd->ndhw", x, m.fc(x.mean((2, 3))).view(x.size(0), -1, 3)),
        lambda: {"fc": nn.Linear(8, 24)},
    ),
    "relative position bias": Pattern(
        lambda m, x: ((tokens(x) @ x.flatten(2) + m.table[m.index]).softmax(-1)) @ tokens(x),
        lambda: {"table": parameter(127), "index": torch.arange(64)[:, None] - torch.arange(64) + 63},
    ),
}
