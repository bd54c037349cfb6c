"""One learnable factor a channel: a gamma for layers that have no norm to read one from."""

import torch
from torch import Tensor, nn

from nrfx.nn.leaf import recorded_call


class ChannelScale(nn.Module):
    """x times one learnable factor per channel, along `dim`.

    Args:
        channels: how many.
        dim: the axis of the channels, negative ones counted from the end (-1 behind a linear layer).

    It starts as the identity. "An affine transform layer with learnable parameters is also valid" in place of a batch
    norm (Neural Rejuvenation, Sec. 3.1.1); ours has no shift, so that a dead channel is zero.

    >>> scale = ChannelScale(3, dim=1)
    >>> bool((scale(torch.ones(2, 3, 4)) == 1).all())
    True
    """

    def __init__(
        self, channels: int, dim: int = 1, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.channels, self.dim = channels, dim
        self.weight = nn.Parameter(torch.ones(channels, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        call: Tensor | None = recorded_call(self, x)
        if call is not None:
            return call
        shape = [1] * x.dim()
        shape[self.dim] = -1
        return x * self.weight.view(shape)

    def extra_repr(self) -> str:
        return f"{self.channels}, dim={self.dim}"
