"""What is special about the graph, not about an op: sharing, branches, inputs and outputs, modes, dtypes, memory."""

from collections import namedtuple
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from tests.patterns.pattern import Last, Op, Pattern, Two, parameter
from tests.zoo import cbr, conv_bn

Outputs = namedtuple("Outputs", ["logits", "maps"])


def body(width: int = 8) -> dict[str, nn.Module]:
    return {"body": cbr(8, width)}


def linear_body() -> dict[str, nn.Module]:
    """Without a relu: autograd needs the output of one as it was, so that no one may write to it."""
    return {"body": nn.Sequential(*conv_bn(8, 8))}


def residual(m: Op, x: Tensor) -> Tensor:
    return torch.relu(m.body(x) + x)


def in_place(m: Op, x: Tensor) -> Tensor:
    y = m.body(x)
    y += x
    return y.relu_()


def in_place_chain(m: Op, x: Tensor) -> Tensor:
    return m.body(x).mul_(0.5).add_(x).clamp_(max=2.0)


def read_after_write_to_itself(m: Op, x: Tensor) -> Tensor:
    y = m.body(x)
    y.contiguous().sigmoid_()  # no copy
    return y


def read_after_write(m: Op, x: Tensor) -> Tensor:
    y = m.body(x)
    z = y.view(x.size(0), -1)
    y.mul_(2.0)
    return y + z.view_as(y)


def written_slice(m: Op, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :3] = m.body(x)
    return y


def written_value(m: Op, x: Tensor) -> Tensor:
    y = m.body(x).clone()
    y[:, 0] = 1.0
    return y


def out_argument(m: Op, x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    torch.add(x, m.body(x), out=y)
    return y


def drop_path(m: Any, x: Tensor) -> Tensor:
    y = m.body(x)
    if not m.training:
        return x + y
    kept = y.new_empty((y.shape[0],) + (1,) * (y.ndim - 1)).bernoulli_(0.8)
    return x + y * kept.div_(0.8)


def detached(m: Op, x: Tensor) -> Tensor:
    return x + m.body(x.detach())


def without_gradient(m: Op, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = m.body(x)
    return x + y


def autocast(m: Op, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return m.body(x)


def tied(m: Op, x: Tensor) -> Tensor:
    m_b = m.b
    return torch.relu(m.a(x)) + torch.sigmoid(m_b(x))


def tied_parts() -> dict[str, nn.Module]:
    a, b = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)
    b.weight = a.weight
    return {"a": a, "b": b}


def auto_encoder(m: Op, x: Tensor) -> Tensor:
    return F.linear(torch.relu(m.linear(x.flatten(2).mT)), m.linear.weight.t())


def train_only(m: Op, x: Tensor) -> Tensor:
    return m.body(x) + x if m.training else x


def by_size(m: Op, x: Tensor) -> Tensor:
    return m.body(x) if x.shape[1] > 4 and x.size(2) == x.size(3) else x


def by_value(m: Op, x: Tensor) -> Tensor:
    return m.body(x) if x.sum() > 0 else x


def loop(m: Op, x: Tensor) -> Tensor:
    for _ in range(3):
        x = m.body(x) + x
    return x


def dense(m: Op, x: Tensor) -> Tensor:
    features = [x]
    for layer in m.layers:
        features.append(layer(torch.cat(features, 1)))
    return torch.cat(features, 1)


def pyramid(m: Op, x: Tensor) -> dict[str, Any]:
    small = m.down(x)
    return {"maps": [m.out(x + F.interpolate(m.lateral(small), size=x.shape[2:])), small], "count": 2}


def hooked(model: nn.Module) -> nn.Module:
    model.op.body[2].register_forward_hook(lambda module, args, out: out.flip(1) * 0.5)  # type: ignore[union-attr,index]
    return model


def hooked_before(model: nn.Module) -> nn.Module:
    model.op.body.register_forward_pre_hook(lambda module, args: (args[0] * 2,))  # type: ignore[union-attr]
    return model


def frozen(model: nn.Module) -> nn.Module:
    model.before.requires_grad_(False)  # type: ignore[union-attr]
    return model


def frozen_all(model: nn.Module) -> nn.Module:
    return model.requires_grad_(False)


def frozen_norm(model: nn.Module) -> nn.Module:
    model.before[1].requires_grad_(False)  # type: ignore[index]
    return model


def in_half(model: nn.Module) -> nn.Module:
    return model.half()


def in_bfloat16(model: nn.Module) -> nn.Module:
    return model.bfloat16()


def in_float(model: nn.Module) -> nn.Module:
    return model.float()


def channels_last(model: nn.Module) -> nn.Module:
    return model.to(memory_format=torch.channels_last)


def non_contiguous(model: nn.Module) -> nn.Module:
    for layer in (model.before[0], model.op.body[0]):  # type: ignore[union-attr,index]
        layer.weight = nn.Parameter(layer.weight.detach().transpose(0, 1).contiguous().transpose(0, 1))
    return model


GRAPH = {
    "residual": Pattern(residual, body, free="before.0 op.body.0"),
    "residual by projection": Pattern(
        lambda m, x: torch.relu(m.body(x) + m.short(x)),
        lambda: {"body": nn.Sequential(*conv_bn(8, 12, 3, 2)), "short": nn.Sequential(*conv_bn(8, 12, 1, 2))},
        free="before.0 op.body.0 op.short.0",
    ),
    "called twice in a row": Pattern(lambda m, x: m.body(m.body(x)), body, free="before.0 op.body.0"),
    "called twice beside": Pattern(
        lambda m, x: torch.cat([m.body(x), m.body(F.max_pool2d(x, 3, 1, 1))], 1),
        lambda: body(6),
        free="before.0 op.body.0",
    ),
    "convolution called twice": Pattern(
        lambda m, x: torch.relu(m.a(m.conv(x))) + m.b(m.conv(x.flip(2))),
        lambda: {"conv": nn.Conv2d(8, 6, 3, padding=1), "a": nn.BatchNorm2d(6), "b": nn.BatchNorm2d(6)},
        free="before.0 op.conv",
    ),
    "norm called twice": Pattern(
        lambda m, x: torch.relu(m.norm(m.a(x))) + m.norm(m.b(x)),
        lambda: {"a": nn.Conv2d(8, 6, 1), "b": nn.Conv2d(8, 6, 1), "norm": nn.BatchNorm2d(6)},
        free="before.0 op.a op.b",
    ),
    "block in a loop": Pattern(loop, body, free="before.0 op.body.0"),
    "tied weights": Pattern(tied, tied_parts, free="before.0"),
    "auto-encoder of one weight": Pattern(auto_encoder, lambda: {"linear": nn.Linear(8, 6)}),
    "auto-encoder of one matrix": Pattern(
        lambda m, x: torch.relu(x.movedim(1, -1) @ m.weight.t()) @ m.weight, lambda: {"weight": parameter(12, 8)}
    ),
    "auto-encoder of one square matrix": Pattern(
        lambda m, x: torch.relu(x.movedim(1, -1) @ m.weight) @ m.weight.t(), lambda: {"weight": parameter(8, 8)}
    ),
    "auto-encoder of one linear layer": Pattern(
        lambda m, x: torch.relu(m.linear(x.movedim(1, -1))) @ m.linear.weight, lambda: {"linear": nn.Linear(8, 12)}
    ),
    "auto-encoder of one kernel": Pattern(
        lambda m, x: F.conv_transpose2d(torch.relu(m.conv(x)), m.conv.weight), lambda: {"conv": nn.Conv2d(8, 6, 3)}
    ),
    "dense block": Pattern(
        dense, lambda: {"layers": nn.ModuleList([cbr(8, 4), cbr(12, 4)])}, free="before.0 op.layers.0.0 op.layers.1.0"
    ),
    "two inputs": Pattern(lambda m, a, b: torch.cat([a, b], 1), free="before.0 beside.0", net=Two),
    "two inputs added": Pattern(lambda m, a, b: a + b, free="before.0 beside.0", net=Two),
    "two inputs multiplied": Pattern(
        lambda m, a, b: a * b.mean((2, 3), keepdim=True), free="before.0 beside.0", net=Two
    ),
    "tuple of outputs": Pattern(
        lambda m, x: (m.fc(x.mean((2, 3))), m.body(x)),
        lambda: {"fc": nn.Linear(8, 3)} | body(),
        free="before.0",
        pinned="op.body.0",
        net=Last,
    ),
    "dict of outputs": Pattern(
        lambda m, x: {"logits": m.fc(x.mean((2, 3))), "maps": m.body(x)},
        lambda: {"fc": nn.Linear(8, 3)} | body(),
        free="before.0",
        pinned="op.body.0",
        net=Last,
    ),
    "named tuple of outputs": Pattern(
        lambda m, x: Outputs(m.fc(x.mean((2, 3))), m.body(x)),
        lambda: {"fc": nn.Linear(8, 3)} | body(),
        free="before.0",
        net=Last,
    ),
    "nest of outputs": Pattern(
        pyramid,
        lambda: {"down": cbr(8, 12, 3, 2), "lateral": nn.Conv2d(12, 8, 1), "out": nn.Conv2d(8, 4, 3)},
        free="before.0 op.lateral",
        net=Last,
    ),
    "features as output": Pattern(lambda m, x: m.body(x), body, free="before.0", pinned="op.body.0", net=Last),
    "half of the maps as output": Pattern(lambda m, x: (x[:, :4], m.body(x)), body, pinned="before.0", net=Last),
    "unused branch": Pattern(lambda m, x: (m.body(x), x)[1], body, free="before.0 op.body.0"),
    "unused module": Pattern(lambda m, x: x, body, free="before.0"),
    "in-place residual": Pattern(in_place, linear_body, free="before.0 op.body.0"),
    "in-place relu": Pattern(
        lambda m, x: m.act(m.norm(m.conv(x))),
        lambda: {"conv": nn.Conv2d(8, 6, 1), "norm": nn.BatchNorm2d(6), "act": nn.ReLU(inplace=True)},
        free="before.0 op.conv",
    ),
    "in-place relu of what is read later": Pattern(
        lambda m, x: F.relu(x - 0.5, inplace=True) + m.body(x), body, free="before.0 op.body.0"
    ),
    "in-place chain": Pattern(in_place_chain, linear_body, free="before.0 op.body.0"),
    "read after write": Pattern(read_after_write, linear_body),
    "read after write to itself": Pattern(read_after_write_to_itself, linear_body),
    "written slice": Pattern(written_slice, lambda: body(3)),
    "written value": Pattern(written_value, body, free="before.0"),
    "out argument": Pattern(out_argument, body, trains=False),
    "detached branch": Pattern(detached, body),
    "no_grad branch": Pattern(without_gradient, body),
    "autocast region": Pattern(autocast, body),
    "forward hook": Pattern(residual, body, finish=hooked),
    "forward pre-hook": Pattern(residual, body, finish=hooked_before, free="before.0 op.body.0"),
    "frozen layers": Pattern(residual, body, finish=frozen, free="op.body.0"),
    "frozen norm": Pattern(lambda m, x: m.body(x), body, finish=frozen_norm, free="op.body.0"),
    "frozen network": Pattern(residual, body, finish=frozen_all, trains=False),
    "half": Pattern(residual, body, free="before.0 op.body.0", finish=in_half),
    "bfloat16": Pattern(residual, body, free="before.0 op.body.0", finish=in_bfloat16),
    "float32": Pattern(lambda m, x: m.body(x), body, free="before.0 op.body.0", finish=in_float),
    "channels_last": Pattern(
        lambda m, x: torch.cat([x, m.body(x)], 1), body, free="before.0 op.body.0", finish=channels_last
    ),
    "non-contiguous weights": Pattern(lambda m, x: m.body(x), body, free="before.0 op.body.0", finish=non_contiguous),
    "train-only branch": Pattern(train_only, body, free="before.0 op.body.0"),
    "functional dropout": Pattern(lambda m, x: F.dropout(m.body(x), 0.2, m.training), body, free="before.0 op.body.0"),
    "stochastic depth": Pattern(
        lambda m, x: x + m.drop(m.body(x)),
        lambda: {"drop": StochasticDepth(0.2, "row")} | body(),
        free="before.0 op.body.0",
    ),
    "drop path": Pattern(drop_path, body, free="before.0 op.body.0"),
    "if on sizes": Pattern(by_size, body, free="before.0 op.body.0"),
    "if on values": Pattern(by_value, body, refused="depends on the values"),
    "cast": Pattern(lambda m, x: m.body(x.to(torch.float64).type_as(x)), body, free="op.body.0"),
    "cast to integers": Pattern(
        lambda m, x: m.body((3 * x).to(torch.int64).to(x.dtype)), body, free="before.0 op.body.0", trains=False
    ),
    "cast like integers": Pattern(
        lambda m, x: m.body((3 * x).type_as(m.ids).type_as(x)),
        lambda: {"ids": torch.arange(3)} | body(),
        free="before.0 op.body.0",
        trains=False,
    ),
    "sum of integers": Pattern(
        lambda m, x: m.body((x * 3).sum(3, keepdim=True, dtype=torch.int64).to(x.dtype)), body, trains=False
    ),
    "clone and contiguous": Pattern(lambda m, x: m.body(x.clone().contiguous()), body, free="before.0 op.body.0"),
    "checked sizes": Pattern(
        lambda m, x: m.body(x) if x.dim() == 4 and x.ndim == 4 else x, body, free="before.0 op.body.0"
    ),
    "bare parameter output": Pattern(
        lambda m, x: (m.body(x), m.p), lambda: {"p": parameter(4)} | body(), net=Last, free="before.0"
    ),
}
