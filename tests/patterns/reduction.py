"""Ops that summarise channels or positions, that compute with sizes, and that choose between values."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.patterns.pattern import Pattern
from tests.zoo import cbr

REDUCTION = {
    "channel softmax": Pattern(lambda m, x: x.softmax(1), pinned="before.0"),
    "channel softmax module": Pattern(lambda m, x: m.soft(x), lambda: {"soft": nn.Softmax2d()}, pinned="before.0"),
    "position softmax": Pattern(lambda m, x: x * x.flatten(2).softmax(2).view_as(x)),
    "log_softmax": Pattern(lambda m, x: F.log_softmax(x, dim=1), pinned="before.0"),
    "logsumexp": Pattern(lambda m, x: x - x.logsumexp(1, keepdim=True), pinned="before.0"),
    "channel mean": Pattern(lambda m, x: x - x.mean(1, keepdim=True)),
    "channel sum": Pattern(lambda m, x: x * torch.sum(x, dim=1, keepdim=True)),
    "channel max": Pattern(lambda m, x: x * x.max(1, keepdim=True)[0]),
    "channel min": Pattern(lambda m, x: x - torch.min(x, 1, keepdim=True).values),
    "channel amax": Pattern(lambda m, x: x / (1 + x.amax(1, keepdim=True))),
    "channel argmax": Pattern(lambda m, x: x * x.argmax(1, keepdim=True)),
    "channel norm": Pattern(lambda m, x: x / (1 + x.norm(dim=1, keepdim=True))),
    "channel std": Pattern(lambda m, x: x * torch.std(x, 1, keepdim=True)),
    "channel prod": Pattern(lambda m, x: x + (1 + x).prod(1, keepdim=True)),
    "channel median": Pattern(lambda m, x: x + x.median(1, keepdim=True)[0]),
    "median of positions": Pattern(lambda m, x: x + x.median(3, keepdim=True)[0], free="before.0"),
    "max of positions": Pattern(lambda m, x: x + x.max(2, keepdim=True)[0], free="before.0"),
    "median that a layer reads": Pattern(lambda m, x: x.median(3, keepdim=True)[0], free="before.0"),
    "max by name": Pattern(lambda m, x: x.max(3, keepdim=True).values, free="before.0"),
    "sort of positions": Pattern(
        lambda m, x: x.flatten(2).sort(2, descending=True).values[:, :, :5].mean(2), free="before.0"
    ),
    "topk of positions": Pattern(lambda m, x: torch.topk(x.flatten(2), 4).values.mean(2), free="before.0"),
    "kthvalue of positions": Pattern(lambda m, x: torch.kthvalue(x, 3, dim=3, keepdim=True)[0], free="before.0"),
    "cummax of positions": Pattern(lambda m, x: torch.cummax(x, 2)[0], free="before.0"),
    "aminmax of positions": Pattern(lambda m, x: x.aminmax(dim=2, keepdim=True).max, free="before.0"),
    "mode of positions": Pattern(lambda m, x: torch.mode(x.round(), 3, keepdim=True)[0]),
    "var and mean of positions": Pattern(
        lambda m, x: torch.cat(torch.var_mean(x, (2, 3), keepdim=True), 1), free="before.0"
    ),
    "std with unbiased by position": Pattern(lambda m, x: x.flatten(2).std(2, True), free="before.0"),
    "indices of the largest": Pattern(lambda m, x: x * x.max(3, keepdim=True).indices, free="before.0"),
    "mean of all": Pattern(lambda m, x: x - x.mean()),
    "mean of all but the batch": Pattern(lambda m, x: x - x.mean((1, 2, 3), keepdim=True)),
    "cumsum": Pattern(lambda m, x: x.cumsum(1)),
    "cumsum of positions": Pattern(lambda m, x: torch.cumsum(x, 2), free="before.0"),
    "topk": Pattern(lambda m, x: x.topk(3, 1)[0]),
    "sort": Pattern(lambda m, x: torch.sort(x, 1)[0]),
    "diff": Pattern(lambda m, x: torch.diff(x, dim=1)),
    "gram matrix": Pattern(lambda m, x: torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2))),
    "gram over size": Pattern(lambda m, x: (x.flatten(2) @ x.flatten(2).mT) / x[0].numel()),
    "F.normalize": Pattern(lambda m, x: F.normalize(x, dim=1)),
    "cosine_similarity": Pattern(lambda m, x: x * F.cosine_similarity(x, x.roll(1, 2), dim=1).unsqueeze(1)),
    "LocalResponseNorm": Pattern(lambda m, x: m.lrn(x), lambda: {"lrn": nn.LocalResponseNorm(3)}, pinned="before.0"),
    "x over width": Pattern(lambda m, x: x / x.shape[1]),
    "width to the -0.5": Pattern(lambda m, x: x * x.size(1) ** -0.5),
    "sum over width": Pattern(lambda m, x: x - x.sum(1, keepdim=True) / x.size(1)),
    "width as an index": Pattern(lambda m, x: x[:, x.size(1) // 2 :] + x.shape[1]),
    "scaled by numel": Pattern(lambda m, x: x.sum((2, 3), keepdim=True) / (x.size(2) * x.size(3)) + x, free="before.0"),
    "position of channel": Pattern(lambda m, x: x * torch.arange(x.size(1), dtype=x.dtype).view(1, -1, 1, 1)),
    "interpolate": Pattern(lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"), free="before.0"),
    "interpolate to a size": Pattern(lambda m, x: F.interpolate(x, size=x.shape[2:]) + x, free="before.0"),
    "max_pool with indices": Pattern(lambda m, x: F.max_pool2d(x, 2, return_indices=True)[0]),
    "lp_pool": Pattern(lambda m, x: F.lp_pool2d(x, 2, 2)),
    "pool pyramid": Pattern(
        lambda m, x: torch.cat([F.adaptive_avg_pool2d(x, s).flatten(1) for s in (1, 2)], 1), free="before.0"
    ),
    "max over channels of two": Pattern(
        lambda m, x: torch.max(x, m.conv(x)), lambda: {"conv": cbr(8, 8)}, free="before.0 op.conv.0"
    ),
    "maxout": Pattern(lambda m, x: x.view(x.size(0), x.size(1) // 2, 2, 8, 8).amax(2), free="before.0"),
    "maxout of halves": Pattern(lambda m, x: torch.maximum(*x.chunk(2, 1)), free="before.0"),
    "glu": Pattern(lambda m, x: F.glu(x, dim=1), free="before.0"),
    "glu module": Pattern(
        lambda m, x: m.glu(m.conv(x)), lambda: {"glu": nn.GLU(1), "conv": nn.Conv2d(8, 12, 1)}, free="before.0 op.conv"
    ),
    "where": Pattern(lambda m, x: torch.where(x > 0.5, x, 0.1 * x)),
    "masked_fill": Pattern(lambda m, x: x.masked_fill(x < 0.2, -1.0)),
    "mask": Pattern(lambda m, x: x * (x > 0.3)),
    "leaky_relu_": Pattern(
        lambda m, x: F.leaky_relu_(m.conv(x), 0.2), lambda: {"conv": nn.Conv2d(8, 6, 1)}, free="before.0 op.conv"
    ),
    "waves": Pattern(lambda m, x: torch.sin(x) + x.cos() * torch.erf(x), free="before.0"),
    "logarithm of more than one": Pattern(lambda m, x: torch.log1p(x) + (x + 1).reciprocal(), free="before.0"),
    "as_tensor": Pattern(lambda m, x: torch.as_tensor(x) + torch.as_tensor(x.relu()), free="before.0"),
    "type of another": Pattern(
        lambda m, x: x + m.shift.type_as(torch.arange(x.shape[1] * 3).view(3, -1)),
        lambda: {"shift": torch.tensor(2.7)},
    ),
    "sizes of data": Pattern(lambda m, x: x.view(x.data.size(0), x.data.size(1), -1).mean(2), free="before.0"),
    "clamp": Pattern(lambda m, x: x.clamp(0.1, 1.0), free="before.0"),
    "lerp": Pattern(lambda m, x: torch.lerp(x, m.conv(x), 0.3), lambda: {"conv": cbr(8, 8)}),
    "addcmul": Pattern(lambda m, x: torch.addcmul(x, x, m.conv(x), value=0.5), lambda: {"conv": cbr(8, 8)}),
    "grid_sample": Pattern(
        lambda m, x: F.grid_sample(x, m.grid.expand(x.size(0), -1, -1, -1), align_corners=False),
        lambda: {"grid": torch.rand(1, 4, 4, 2) * 2 - 1},
    ),
}
