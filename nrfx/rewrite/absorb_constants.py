"""The constants of dead channels in the new network: columns of carriers, and offsets of biases and running means."""

from collections.abc import Callable

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels, first_readings
from nrfx.plan.absorb import Absorption, carrier_columns
from nrfx.plan.origins import PART, Axes, first_place, gather_along
from nrfx.rules import Reading


def write_carriers(
    new: Tensor, axes: Axes, weight: Tensor, channels: Channels, reading: Reading, absorption: Absorption
) -> Tensor:
    """The new weight in which each carrier's column is the sum over the dead channels d that it stands for.

        W'[:, k] = sum over d of (before_d / after_k) W[:, d]

    weight: the old one, [rows, columns, *kernel]; `new` is gathered from it along the axes.
    """
    stands = absorption.stands.get(reading.key)
    if stands is None:
        stands = carrier_columns(channels, reading.cols, absorption.carrier_of)
    sources = (stands >= 0).nonzero().flatten()
    if sources.numel() == 0:
        return new
    carried, slot = stands[sources].unique(return_inverse=True)
    before, after = absorption.before[reading.key][sources], absorption.after[reading.key][carried][slot]
    # 0 / 0 where the carrier's constant is not needed here
    ratio = torch.zeros(carried.numel(), sources.numel()).double()
    ratio[slot, torch.arange(sources.numel())] = torch.where(before == 0, 0.0, before / after)
    read, factors = sources.to(weight.device), ratio.to(weight.device)
    sums = weight.new_zeros(weight.shape[0], carried.numel(), *weight.shape[2:], dtype=torch.float64)
    step = max(PART // max(weight[:1].numel(), 1), 1)
    for start in range(0, weight.shape[0], step):
        at = slice(start, start + step)
        columns = weight[at].index_select(1, read).double()
        if columns[:1, :1].numel() <= 1:  # as a matrix product: several times as fast as one for each row
            summed = columns.flatten(1) @ factors.t()
        else:
            summed = torch.matmul(factors, columns.flatten(2))
        sums[at] = summed.view(sums[at].shape)
    rows, moved = axes[:2]
    column = first_place(moved.places, carried) if moved is not None else carried
    written = gather_along(sums, (rows,)).to(new.dtype)
    new = new.clone() if new.data_ptr() == weight.data_ptr() else new
    return new.index_copy_(1, column.to(new.device), written)


def offsets(channels: Channels, absorption: Absorption, dense: Callable[[Reading], Tensor]) -> dict[str, Tensor]:
    """Bias or running mean -> float64 of its shape, what absorbed constants add to it.

    Args:
        dense: the weight of a layer as [rows, columns of a group, *kernel].
    """
    added: dict[str, Tensor] = {}
    readings = first_readings(channels.steps)
    for key, norms in absorption.absorbers.items():
        reading = readings[key]
        if torch.equal(absorption.before[key], absorption.after[key]):
            continue
        rows = offset(dense(reading), reading, absorption)
        if reading.bias is not None:
            added[reading.bias] = rows
            continue
        for norm in norms:
            assert norm.mean is not None
            # the layer's output is smaller by `rows` from now on, and so is the mean that the norm subtracts
            at = first_place(reading.rows, norm.layout)  # behind a flatten several places belong to one row
            shift = torch.where((at >= 0).to(rows.device), rows[at.clamp(min=0).to(rows.device)], 0.0)
            added[norm.mean] = added.get(norm.mean, torch.zeros_like(shift)) - shift
    return added


def offset(weight: Tensor, reading: Reading, absorption: Absorption) -> Tensor:
    """[rows] float64: what the dead columns added to each output, less what carriers still add."""
    difference = (absorption.before[reading.key] - absorption.after[reading.key]).to(weight.device)
    read = difference.nonzero().flatten()
    rows = []
    for part in weight.split(max(PART // max(weight[:1].numel(), 1), 1)):
        columns = part.index_select(1, read).double()
        one = columns.shape[2:].numel() == 1  # element of the kernel
        # over a constant map the kernel acts as the sum of its elements
        rows.append((columns.flatten(1) if one else columns.flatten(2).sum(2)) @ difference[read])
    return torch.cat(rows)
