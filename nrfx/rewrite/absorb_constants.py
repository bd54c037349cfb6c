"""The constants of dead channels written into the new weights: columns of carriers, offsets of biases and means."""

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels
from nrfx.plan.absorb import Absorption
from nrfx.plan.origins import occurrence
from nrfx.rules import Reading


def with_carriers(weight: Tensor, channels: Channels, reading: Reading, absorption: Absorption) -> Tensor:
    """The weight with the columns of carriers standing for those of all the dead channels behind them.

    weight: [rows, columns, *kernel]; float64 where the layer has carriers.
    """
    channel = channels.channels_along(reading.cols)
    carrier = torch.where(channel >= 0, absorption.carrier_of[channel.clamp(min=0)], -1)
    sources = (carrier >= 0).nonzero().flatten()
    if sources.numel() == 0:
        return weight
    targets = _targets(channel, carrier, sources)
    before, after = absorption.before[reading.key][sources], absorption.after[reading.key][targets]
    ratio = torch.where(before == 0, 0.0, before / after)
    view = (1, -1, *(1,) * (weight.dim() - 2))
    places = sources.to(weight.device)
    weight = weight.double()
    columns = weight.index_select(1, places) * ratio.to(weight.device).view(view)
    carried = targets.unique().to(weight.device)
    sums = torch.zeros_like(weight).index_add(1, targets.to(weight.device), columns)
    return weight.index_copy(1, carried, sums.index_select(1, carried))


def _targets(channel: Tensor, carrier: Tensor, sources: Tensor) -> Tensor:
    """For each source column the carrier's column of the same occurrence."""
    times = channel.numel() + 1
    rank = occurrence(channel)
    ordered, order = torch.sort(channel.clamp(min=-1) * times + rank)
    return order[torch.searchsorted(ordered, carrier[sources] * times + rank[sources])]


def offset(weight: Tensor, reading: Reading, absorption: Absorption) -> Tensor:
    """[rows] float64: what the dead columns added to each output, less what carriers still add."""
    difference = (absorption.before[reading.key] - absorption.after[reading.key]).to(weight.device)
    return weight.flatten(2).sum(2) @ difference if weight.dim() > 2 else weight @ difference
