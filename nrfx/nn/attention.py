"""The attention between generations in plain torch operations: what every faster implementation must agree with.

With y_ij = W_ij * x_j, the block of output generation i and input generation j:

    out_i = y_ii + 2 sigmoid(y_ii) * sum_{j != i} y_ij

One contraction for each input generation gives the y_ij of all i at once, so that the multiply-adds are the dense
layer's. Without own inputs y_ii is 0 and out_i is the plain sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from nrfx.nn.generations import Runs

_CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class Form:
    """What a cross layer computes, without its weights.

    runs: (generation, width) runs of the input's channels. rows: output channels of each generation. kernel, stride,
    padding, dilation: as in nn.Conv*d, one integer for each spatial dim; all empty for a linear layer.

    Derived: `inputs`, the input generations that have channels, ascending; `own`, for each output generation the index
    in `inputs` of its own, -1 where that has no channels; `pads`, the padding on either side of each spatial dim, None
    where the two sides differ; `weight_shape`, [out, in, *kernel].
    """

    runs: Runs
    rows: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    dilation: tuple[int, ...] = ()

    inputs: tuple[int, ...] = field(init=False)
    own: tuple[int, ...] = field(init=False)
    pads: tuple[int, ...] | None = field(init=False)
    weight_shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        inputs = tuple(sorted({generation for generation, _ in self.runs}))
        own = tuple(inputs.index(i) if i in inputs else -1 for i in range(len(self.rows)))
        shape = (sum(self.rows), sum(width for _, width in self.runs), *self.kernel)
        derived = {"inputs": inputs, "own": own, "pads": self._pads(), "weight_shape": shape}
        for name, value in derived.items():
            object.__setattr__(self, name, value)  # a frozen dataclass sets what it derives like this

    def _pads(self) -> tuple[int, ...] | None:
        if not isinstance(self.padding, str):
            return self.padding
        if self.padding == "valid":
            return (0,) * len(self.kernel)
        reach = tuple((size - 1) * step for size, step in zip(self.kernel, self.dilation, strict=True))
        return None if any(each % 2 for each in reach) else tuple(each // 2 for each in reach)

    @property
    def channel_dim(self) -> int:
        """The dim of the channels in input and output, counted from the end."""
        return -1 - len(self.kernel)

    @property
    def pointwise(self) -> bool:
        """Whether each position of the output reads that position of the input alone (strides aside)."""
        return set(self.kernel) <= {1} and self.pads is not None and not any(self.pads)

    def contract(self, x: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
        """The layer's convolution or linear map with some of its weight's rows and columns."""
        if not self.kernel:
            return F.linear(x, weight)
        return _CONVOLVE[len(self.kernel)](x, weight, None, self.stride, self.padding, self.dilation, groups)


def by_generation(x: Tensor, runs: Runs, dim: int) -> dict[int, Tensor]:
    """The channels of each generation that has any, by generation; views where it lies in one run.

    One split, whose gradient is one concatenation: the gradients of narrow() are zeros of the whole size, added up.
    """
    if len(runs) == 1:
        return {runs[0][0]: x}
    parts: dict[int, list[Tensor]] = {}
    split = x.split([width for _, width in runs], dim)
    for index, (generation, _) in enumerate(runs):  # a symbolic trace can index what it cannot iterate
        parts.setdefault(generation, []).append(split[index])
    return {generation: _joined(parts[generation], dim) for generation in sorted(parts)}


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def maps(x: Tensor, weight: Tensor, form: Form) -> list[Tensor]:
    """y of each of form.inputs: what all output channels get from that input generation."""
    columns = by_generation(weight, form.runs, 1)
    return [form.contract(part, columns[j]) for j, part in by_generation(x, form.runs, form.channel_dim).items()]


def attend(ys: list[Tensor], form: Form) -> Tensor:
    """The output, without bias, from the maps of the input generations."""
    if len(ys) == 1:
        return ys[0]
    present = [i for i, rows in enumerate(form.rows) if rows]
    by_input = [y.split([form.rows[i] for i in present], form.channel_dim) for y in ys]
    rows = [_attended_row([parts[at] for parts in by_input], form.own[i]) for at, i in enumerate(present)]
    return _joined(rows, form.channel_dim)


def _attended_row(blocks: list[Tensor], own: int) -> Tensor:
    first, *rest = (y for j, y in enumerate(blocks) if j != own)
    other = sum(rest, start=first)
    return other if own < 0 else blocks[own] + 2 * torch.sigmoid(blocks[own]) * other


def attention(x: Tensor, weight: Tensor, form: Form) -> Tensor:
    """The whole layer without bias, in plain operations."""
    return attend(maps(x, weight, form), form)
