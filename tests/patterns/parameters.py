"""Parameters and buffers that the graph reads itself."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.patterns.pattern import Pattern, parameter
from tests.zoo import cbr

PARAMETER = {
    "layer scale": Pattern(lambda m, x: m.scale * x, lambda: {"scale": parameter(8, 1, 1)}, free="before.0"),
    "layer scale by view": Pattern(
        lambda m, x: x * m.scale.view(1, -1, 1, 1), lambda: {"scale": parameter(8)}, free="before.0"
    ),
    "layer scale by index": Pattern(
        lambda m, x: x * m.scale[None, :, None, None], lambda: {"scale": parameter(8)}, free="before.0"
    ),
    "layer scale in a residual": Pattern(
        lambda m, x: x + m.scale * m.body(x),
        lambda: {"scale": parameter(8, 1, 1), "body": cbr(8, 8)},
        free="before.0 op.body.0",
    ),
    "channel bias": Pattern(lambda m, x: x + m.bias, lambda: {"bias": parameter(1, 8, 1, 1)}, free="before.0"),
    "scale of one": Pattern(lambda m, x: x * m.scale, lambda: {"scale": parameter(1)}, free="before.0"),
    "scale without dims": Pattern(
        lambda m, x: x * m.scale, lambda: {"scale": nn.Parameter(torch.tensor(0.7))}, free="before.0"
    ),
    "buffer scale": Pattern(lambda m, x: x * m.scale, lambda: {"scale": torch.rand(8, 1, 1)}, free="before.0"),
    "parameter gate": Pattern(lambda m, x: x * m.gate.sigmoid(), lambda: {"gate": parameter(8, 1, 1)}, free="before.0"),
    "position scale": Pattern(lambda m, x: x * m.scale, lambda: {"scale": parameter(8, 8)}, free="before.0"),
    "mixing parameter": Pattern(
        lambda m, x: m.mix.softmax(0)[0] * x + m.mix.softmax(0)[1] * m.body(x),
        lambda: {"mix": parameter(2), "body": cbr(8, 8)},
        free="before.0 op.body.0",
    ),
    "class token": Pattern(
        lambda m, x: torch.cat([m.token.expand(x.size(0), -1, -1), x.flatten(2).mT], 1),
        lambda: {"token": parameter(1, 1, 8)},
    ),
    "no registers": Pattern(
        lambda m, x: torch.cat(
            [m.token.expand(x.size(0), -1, -1), m.none.expand(x.size(0), -1, -1), x.flatten(2).mT], 1
        ),
        lambda: {"token": parameter(1, 1, 8), "none": nn.Parameter(torch.empty(1, 0, 8))},
        pinned="before.0",
    ),
    "position embedding": Pattern(lambda m, x: x.flatten(2).mT + m.position, lambda: {"position": parameter(1, 64, 8)}),
    "x @ W": Pattern(lambda m, x: x.flatten(2).mT @ m.w, lambda: {"w": parameter(8, 6)}),
    "torch.matmul": Pattern(
        lambda m, x: torch.matmul(x.mean((2, 3)), m.w) + m.b,
        lambda: {"w": parameter(8, 6), "b": parameter(6)},
        free="before.0",
    ),
    **{
        f"x @ {title}": Pattern(
            lambda m, x, turned=turned: x.mean((2, 3)) @ turned(m.w), lambda: {"w": parameter(6, 8)}, free="before.0"
        )
        for title, turned in {
            "W.t()": lambda w: w.t(),
            "W.T": lambda w: w.T,
            "W.view(6, -1).t()": lambda w: w.view(6, -1).t(),
            "W.reshape(6, 8).mT": lambda w: w.reshape(6, 8).mT,
        }.items()
    },
    "F.linear of a kernel": Pattern(
        lambda m, x: F.linear(F.unfold(x, 3, padding=1).mT, m.w.view(6, -1), m.b),
        lambda: {"w": parameter(6, 8, 3, 3), "b": parameter(6)},
        free="before.0",
    ),
    "F.linear by name": Pattern(
        lambda m, x: F.linear(x.mean((2, 3)), weight=m.w.flatten(1), bias=m.b),
        lambda: {"w": parameter(6, 8), "b": parameter(6)},
        free="before.0",
    ),
    "bias behind a norm": Pattern(
        lambda m, x: torch.relu(m.norm(m.conv(x)) + m.bias),
        lambda: {"conv": nn.Conv2d(8, 6, 1), "norm": nn.BatchNorm2d(6), "bias": parameter(6, 1, 1)},
        free="before.0 op.conv",
    ),
    "W @ x": Pattern(lambda m, x: (m.w @ x.flatten(2)).mT, lambda: {"w": parameter(6, 8)}, free="before.0"),
    "einsum": Pattern(lambda m, x: torch.einsum("nchw,cd->ndhw", x, m.w), lambda: {"w": parameter(8, 6)}),
    "einsum of weight first": Pattern(
        lambda m, x: torch.einsum("oc,nchw->nohw", m.w, x), lambda: {"w": parameter(6, 8)}
    ),
    "einsum with dots": Pattern(
        lambda m, x: torch.einsum("...c,cd->...d", x.flatten(2).mT, m.w),
        lambda: {"w": parameter(8, 6)},
        free="before.0",
    ),
    "einsum without an arrow": Pattern(
        lambda m, x: torch.einsum("ntc,cz", x.flatten(2).mT, m.w), lambda: {"w": parameter(8, 6)}, free="before.0"
    ),
    "einsum that sums one operand": Pattern(lambda m, x: torch.einsum("nchw->nc", x), pinned="before.0"),
    "einsum of heads": Pattern(
        lambda m, x: torch.einsum("nhcp,hcd->nhdp", x.view(-1, 2, x.size(1) // 2, 64), m.w).flatten(1, 2).mT,
        lambda: {"w": parameter(2, 4, 3)},
    ),
    "bmm": Pattern(
        lambda m, x: torch.bmm(x.flatten(2).mT, m.w.expand(x.size(0), -1, -1)), lambda: {"w": parameter(1, 8, 6)}
    ),
    "baddbmm": Pattern(
        lambda m, x: torch.baddbmm(m.b, x.flatten(2).mT, m.w.expand(x.size(0), -1, -1)),
        lambda: {"b": parameter(1, 1, 6), "w": parameter(1, 8, 6)},
    ),
    "addmm": Pattern(
        lambda m, x: torch.addmm(m.b, x.mean((2, 3)), m.w),
        lambda: {"b": parameter(6), "w": parameter(8, 6)},
        free="before.0",
    ),
    "addmm of tokens": Pattern(
        lambda m, x: torch.relu(m.norm(torch.addmm(m.b, x.flatten(2).mT.reshape(-1, x.size(1)), m.w))),
        lambda: {"b": parameter(6), "w": parameter(8, 6), "norm": nn.BatchNorm1d(6)},
        free="before.0 op.norm",
    ),
    "addmm with half of the bias": Pattern(
        lambda m, x: torch.addmm(m.b, x.mean((2, 3)), m.w, beta=0.5),
        lambda: {"b": parameter(6), "w": parameter(8, 6)},
    ),
    "tensordot": Pattern(
        lambda m, x: torch.tensordot(x.permute(0, 2, 3, 1), m.w, 1).permute(0, 3, 1, 2),
        lambda: {"w": parameter(8, 6)},
        free="before.0",
    ),
    "tensordot of named dims": Pattern(
        lambda m, x: torch.tensordot(x.flatten(2).mT, m.w, dims=([2], [1])),
        lambda: {"w": parameter(6, 8)},
        free="before.0",
    ),
    "tensordot of activations": Pattern(
        lambda m, x: torch.tensordot(m.conv(x).mean((0, 2, 3)), x, dims=([0], [1])).flatten(1),
        lambda: {"conv": cbr(8, 8)},
    ),
    "PReLU": Pattern(lambda m, x: m.act(x - 0.5), lambda: {"act": nn.PReLU()}, free="before.0"),
    "PReLU a channel": Pattern(
        lambda m, x: m.act(m.norm(m.conv(x))),
        lambda: {"conv": nn.Conv2d(8, 6, 1), "norm": nn.BatchNorm2d(6), "act": nn.PReLU(6)},
        free="before.0 op.conv",
    ),
    "F.prelu": Pattern(
        lambda m, x: F.prelu(x - 0.5, m.slope), lambda: {"slope": torch.nn.Parameter(torch.rand(8))}, free="before.0"
    ),
    "running buffer": Pattern(
        lambda m, x: x - m.mean.view(1, -1, 1, 1), lambda: {"mean": torch.rand(8)}, free="before.0"
    ),
    "ParameterList": Pattern(
        lambda m, x: m.ps[0] * x + m.ps[1],
        lambda: {"ps": nn.ParameterList([parameter(8, 1, 1), parameter(8, 1, 1)])},
        free="before.0",
    ),
}
