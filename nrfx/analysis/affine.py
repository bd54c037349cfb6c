"""What a norm makes of a constant."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nrfx.analysis.varying import is_all_varying


@dataclass(frozen=True)
class Affine:
    """What a norm does in eval mode: gamma * (x - mean) / sqrt(var + eps) + beta, per channel, float64.

    Where `dead`, gamma counts as zero. mean and var are None where the norm keeps no running statistics. Where `scale`,
    the norm is gamma * x alone.
    """

    gamma: Tensor
    beta: Tensor
    mean: Tensor | None
    var: Tensor | None
    eps: float
    dead: Tensor
    scale: bool = False

    def __call__(self, constant: Tensor) -> Tensor:
        """What it makes of one constant a channel, NaN for what varies."""
        alone = 0.0 if self.scale else self.beta
        if is_all_varying(constant):  # nearly always
            return torch.where(self.dead, alone, constant)
        if self.scale:
            alive = self.gamma * constant
        elif self.mean is None or self.var is None:
            alive = torch.full_like(constant, torch.nan)
        else:
            alive = self.gamma * (constant - self.mean) / (self.var + self.eps).sqrt() + self.beta
        return torch.where(self.dead, alone, alive)
