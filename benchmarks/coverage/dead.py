"""Dead channels for any network: whole streams and groups of channels, and single gammas.

In each space of channels half of the gammas die, in one of three ways that a seed draws:

- tied: a channel dies in every norm that it passes, so that whole streams and groups of convolutions die;
- loose: every norm draws its dead channels by itself;
- mixed: a third of the channels die as in "tied", then a quarter of each norm's gammas as in "loose".

Betas beside dead gammas are 0 in half of the spaces, where a gate or a padded convolution lets the channel go, and
normal(0, 0.1) in the other half, where the constants must be kept. The rest is drawn as in networks.py.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nrfx.analysis.channels import Channels

WAYS: Mapping[str, tuple[float, float, float]] = {
    "tied": (0.4, 0.5, 0.0),
    "mixed": (0.4, 0.33, 0.26),
    "loose": (0.2, 0.0, 0.5),
}
"""The probability of each way; the share of channels that die in every norm; the share of gammas that die besides."""

BETA = 0.1

UNNORMED = 2**0.5
"""Factor of the gammas of scales: no norm behind them makes up for the half that dies, and without the factor the
outputs of a deep network hardly depend on more than its biases."""


def plant(module: nn.Module, channels: Channels, generator: torch.Generator) -> int:
    """Draws every gamma and beta of the network anew, half of the gammas at 0; returns the number of dead gammas.

    Args:
        module: the network whose parameters change.
        channels: of the network, or of a traced module with the same names.
    """
    ways, zero = _drawn(channels, generator)
    tied = torch.rand(channels.space_of.numel(), generator=generator)
    dead_everywhere = tied < ways[channels.space_of, 0]
    count = 0
    with torch.no_grad():
        for norm in channels.first_norms.values():
            if norm.gamma is None:
                continue
            channel = channels.channels_along(norm.layout)
            known = channel >= 0
            at = channel.clamp(min=0)
            space = channels.space_of[at]
            own = torch.rand(at.numel(), generator=generator)
            dead = torch.where(known, dead_everywhere[at] | (own < ways[space, 1]), own < 0.5)
            gamma = _signed(at.numel(), generator) * (1 if norm.mean is not None else UNNORMED)
            _write(module, norm.gamma, torch.where(dead, 0.0, gamma))
            if norm.beta is not None:
                beta = torch.randn(at.numel(), generator=generator) * BETA
                _write(module, norm.beta, torch.where(dead & (zero[space] | ~known), 0.0, beta))
            count += int(dead.sum())
    return count


def enliven(model: nn.Module, generator: torch.Generator) -> None:
    """Draws every parameter that is constant anew, so that the outputs depend on all of the network: heads and branches
    often start at 0, layer scales at 1e-6.

    Weights at 0: normal with variance 1 / inputs; other zeros: normal(0, 0.1); other constants: uniform(0.5, 1.5).
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() < 2 or bool(parameter.min() != parameter.max()):
                continue
            drawn = torch.rand(parameter.shape, generator=generator) + 0.5
            if not bool(parameter.any()):
                spread = parameter[0].numel() ** -0.5 if parameter.squeeze().dim() > 1 else BETA
                drawn = torch.randn(parameter.shape, generator=generator) * spread
            parameter.copy_(drawn)


def calibrate_traced(module: nn.Module, channels: Channels, images: Tensor) -> None:
    """Gives the norms of a traced module the statistics of one train-mode forward of these images.

    A norm that was traced into is no module any more, and its momentum m is a constant of the graph. A forward turns a
    running statistic r into (1 - m) r + m b, with b the statistic of the batch. So two forwards, from r = 0 and from
    r = 1, give m and b.
    """
    names = [name for norm in channels.first_norms.values() for name in (norm.mean, norm.var) if name is not None]
    buffers = [module.get_buffer(name) for name in dict.fromkeys(names)]
    module.train()
    with torch.no_grad():
        from_zero, from_one = (_updated(module, buffers, start, images) for start in (0.0, 1.0))
        for buffer, low, high in zip(buffers, from_zero, from_one, strict=True):
            momentum = float((1 - (high - low)).median())
            buffer.copy_(low / momentum if momentum > 1e-6 else torch.ones_like(low))


def _updated(module: nn.Module, buffers: Sequence[Tensor], start: float, images: Tensor) -> list[Tensor]:
    """The running statistics after one forward from `start`."""
    for buffer in buffers:
        buffer.fill_(start)
    module(images)
    return [buffer.clone() for buffer in buffers]


def _drawn(channels: Channels, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """For each space the shares of its way, float [spaces, 2], and whether betas beside dead gammas are 0."""
    spaces = max(len(channels.spaces), 1)
    table = torch.tensor(list(WAYS.values()))
    way = torch.multinomial(table[:, 0], spaces, replacement=True, generator=generator)
    return table[way, 1:], torch.rand(spaces, generator=generator) < 0.5


def _signed(count: int, generator: torch.Generator) -> Tensor:
    """float [count], uniform(0.5, 1.5) with random signs."""
    sign = torch.randint(0, 2, (count,), generator=generator) * 2 - 1
    return (torch.rand(count, generator=generator) + 0.5) * sign


def _write(module: nn.Module, name: str, values: Tensor) -> None:
    parameter = module.get_parameter(name)
    parameter.copy_(values.to(parameter.dtype).view_as(parameter))
