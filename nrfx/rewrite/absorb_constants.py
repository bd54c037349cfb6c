"""The constants of dead channels in the new network: columns of carriers, and offsets of biases and running means."""

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels
from nrfx.plan.absorb import Absorption, carrier_columns
from nrfx.rules import Reading


def with_carriers(weight: Tensor, channels: Channels, reading: Reading, absorption: Absorption) -> Tensor:
    """The weight in which each carrier's column is the sum over the dead channels d that it stands for.

        W[:, k] = sum over d of (before_d / after_k) W[:, d]

    weight: [rows, columns, *kernel]; float64 where the layer has carriers.
    """
    stands = carrier_columns(channels, reading.cols, absorption.carrier_of)
    sources = (stands >= 0).nonzero().flatten()
    if sources.numel() == 0:
        return weight
    targets = stands[sources]
    before, after = absorption.before[reading.key][sources], absorption.after[reading.key][targets]
    ratio = torch.where(before == 0, 0.0, before / after)  # 0 / 0 where the carrier's constant is not needed here
    view = (1, -1, *(1,) * (weight.dim() - 2))
    places = sources.to(weight.device)
    weight = weight.double()
    columns = weight.index_select(1, places) * ratio.to(weight.device).view(view)
    carried = targets.unique().to(weight.device)
    sums = torch.zeros_like(weight).index_add(1, targets.to(weight.device), columns)
    return weight.index_copy(1, carried, sums.index_select(1, carried))


def offset(weight: Tensor, reading: Reading, absorption: Absorption) -> Tensor:
    """[rows] float64: what the dead columns added to each output, less what carriers still add."""
    # over a constant map the kernel acts as the sum of its elements
    difference = (absorption.before[reading.key] - absorption.after[reading.key]).to(weight.device)
    return weight.flatten(2).sum(2) @ difference if weight.dim() > 2 else weight @ difference
