"""How new channels start, so that the function is kept and they can learn.

    W_S->S kept      W_R->S = 0      W_R->R ~ normal(0, sqrt(2 / (k k out)))
    W_S->R = 0 where the layer has R inputs; else random, for zero in and zero out would have no gradient
    gamma = gamma0   beta = 0   running mean 0   running variance 1   bias 0

Source: Neural Rejuvenation, Sec. 3.2, "Parameter reinitialization"; the exception for layers without R inputs is the
authors' code's, not in the text.
"""

from math import prod, sqrt

import torch
from torch import Tensor

from nrfx.plan.origins import NEW


def he_normal(shape: tuple[int, ...], out: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """normal(0, sqrt(2 / (kernel elements * out))) of `shape` [rows, columns, *kernel]."""
    return normal(shape, sqrt(2 / max(prod(shape[2:]) * out, 1)), like, generator)


def normal(shape: tuple[int, ...], deviation: float, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """normal(0, deviation) of `shape` on the device and in the dtype of `like`."""
    # float32 where the generator lives: its seed gives the same numbers whatever device and dtype the weight has
    device = generator.device if generator is not None else torch.device("cpu")
    drawn = torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
    return drawn.mul_(deviation).to(like)


def rejuvenated(
    weight: Tensor, rows: Tensor, columns: Tensor | None, per_output: int, generator: torch.Generator | None
) -> Tensor:
    """A gathered weight whose R rows (origin NEW) are drawn and whose R columns feed R rows alone.

    Args:
        weight: [rows, columns, *kernel], zero at new positions; written to.
        per_output: the `out` of the formula: output channels that read the same inputs.
    """
    new_rows = (rows == NEW).nonzero().flatten().to(weight.device)
    if new_rows.numel() == 0:
        return weight
    new_columns = torch.arange(weight.shape[1]) if columns is None else (columns == NEW).nonzero().flatten()
    if new_columns.numel() == 0:  # rows of zeros would get no gradient, and give none to what reads them
        new_columns = torch.arange(weight.shape[1])
    new_columns = new_columns.to(weight.device)
    block = he_normal((new_rows.numel(), new_columns.numel(), *weight.shape[2:]), per_output, weight, generator)
    rows_behind = weight.shape[0] - new_rows.numel()
    if int(new_rows[0]) == rows_behind:  # new rows come behind the old ones: nearly always, and a part is a view then
        weight[rows_behind:].index_copy_(1, new_columns, block)
    else:
        weight[new_rows[:, None], new_columns] = block
    return weight


def from_scratch(weight: Tensor, per_output: int, generator: torch.Generator | None) -> Tensor:
    """A weight as its layer starts: He normal for convolutions, normal(0, 1 / sqrt(3 in)) for linear layers."""
    if weight.dim() > 2:
        return he_normal(tuple(weight.shape), per_output, weight, generator)
    return normal(tuple(weight.shape), 1 / sqrt(3 * weight.shape[1]), weight, generator)


def recycled(weight: Tensor, rows: Tensor, per_output: int, generator: torch.Generator | None) -> Tensor:
    """A gathered weight whose R rows (origin NEW) start as those of a new layer do, over all columns; R columns stay 0.

    Source: the reset of "The Dormant Neuron Phenomenon" (Sokar et al., 2023), Sec. 4: incoming weights drawn anew,
    outgoing weights 0.

    Args:
        weight: [rows, columns, *kernel], zero at new positions; written to.
        per_output: as for `rejuvenated`.
    """
    new = (rows == NEW).nonzero().flatten().to(weight.device)
    if new.numel():
        weight[new] = from_scratch(weight[new], per_output, generator)
    return weight
