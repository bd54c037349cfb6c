"""The network before a rewrite by a criterion, with constants in the places of the channels that were given up.

It is the truth that such a rewrite is compared with: its graph has all its channels, and in front of each weight that
reads, constants stand for those that went. Where a padding puts zeros beside a constant, the constant goes on there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nrfx.analysis.activity import Batches, runs
from nrfx.analysis.liveness import live_along
from nrfx.analysis.probes import dense_weight, evaluated, probed, shaped
from nrfx.analysis.spaces import channels_of
from nrfx.plan.absorb import Absorption
from nrfx.rules import Reading
from nrfx.tracing import TracedModule


@dataclass(frozen=True)
class Change:
    """How far the outputs on the batches moved, relative to the largest of each output: at most, and on average."""

    largest: float
    mean: float


def replaced_network(traced: TracedModule, live: Tensor, absorption: Absorption) -> TracedModule:
    """A twin in eval mode, around the same parameters, with constants in the places of channels that are not live.

    Args:
        live: bool [channels].
        absorption: that of a criterion (plan/placed.py).
    """
    channels = channels_of(traced)

    def ahead(reading: Reading) -> nn.Module | None:
        gone = ~live_along(channels, live, reading.cols)
        if not bool(gone.any()):
            return None
        value = torch.zeros(gone.shape).double() if reading.padded else absorption.before[reading.key]
        return _Replacement(gone, value, reading.axis)

    def behind(reading: Reading) -> nn.Module | None:
        value = absorption.before.get(reading.key)
        if value is None or not reading.padded or not bool(value.any()):
            return None
        weight = dense_weight(traced, reading).double().flatten(2).sum(2)
        return _Offset(weight @ value.to(weight.device), reading.axis)

    return probed(traced, channels, ahead, behind)


@torch.no_grad()
def change(before: TracedModule, after: TracedModule, batches: Batches) -> Change:
    """How far the outputs of two networks lie apart on the batches, in eval mode. Neither is changed."""
    sizes: dict[str, float] = {}
    largest: dict[str, float] = {}
    sums: dict[str, tuple[float, int]] = {}
    for expected, actual in zip(runs(evaluated(before), batches), runs(evaluated(after), batches), strict=False):
        for name, x in expected.items():
            if not (x.is_floating_point() and x.numel()):
                continue
            apart = (x.double() - actual[name].double()).abs()
            sizes[name] = max(sizes.get(name, 0.0), float(x.abs().max()))
            largest[name] = max(largest.get(name, 0.0), float(apart.max()))
            total, count = sums.get(name, (0.0, 0))
            sums[name] = total + float(apart.sum()), count + apart.numel()
    scale = {name: max(size, torch.finfo(torch.float32).tiny) for name, size in sizes.items()}
    return Change(
        max((largest[name] / scale[name] for name in scale), default=0.0),
        max((total / count / scale[name] for name, (total, count) in sums.items()), default=0.0),
    )


class _Replacement(nn.Module):
    """Constants in the places of some columns along an axis."""

    def __init__(self, gone: Tensor, value: Tensor, axis: int) -> None:
        super().__init__()
        self.gone, self.value, self.axis = gone, value, axis

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(shaped(self.gone, self.axis, x), shaped(self.value, self.axis, x), x)


class _Offset(nn.Module):
    """A constant that is added to each row along an axis."""

    def __init__(self, rows: Tensor, axis: int) -> None:
        super().__init__()
        self.rows, self.axis = rows, axis

    def forward(self, x: Tensor) -> Tensor:
        return x + shaped(self.rows, self.axis, x)
