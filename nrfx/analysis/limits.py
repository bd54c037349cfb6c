"""How far a criterion may go: layers that are left alone, least widths, and the largest part of a layer that may go.

A layer is named by its path, by a pattern (`blocks.*.fc2`), or by the path of what it stands in (`layer1`). Channels
that are tied go together, so that what one of their layers is spared, all of them are.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels
from nrfx.errors import AnalysisError
from nrfx.rules import Family


def layers_of(channels: Channels) -> dict[str, Tensor]:
    """Layer -> the labels of its output, in order: layers with weights, norms, and bare parameters."""
    layers = {norm.path: norm.layout for norm in channels.first_norms.values()}
    for step in channels.steps:
        if step.effect.reading is not None:
            layers.setdefault(step.effect.reading.path, step.effect.reading.rows)
    return layers | dict(channels.births)


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a pattern stands for.

    >>> matching("a.*.fc", ["a.0.fc", "a.0.bn", "a.1.fc"]), matching("a.0", ["a.0.fc", "a.00"])
    (['a.0.fc', 'a.1.fc'], ['a.0.fc'])
    """
    return [name for name in names if fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")]


def known(pattern: str, names: Iterable[str], what: str) -> list[str]:
    """The names that a pattern stands for.

    Raises:
        AnalysisError: there is none.
    """
    each = list(names)
    if found := matching(pattern, each):
        return found
    near = get_close_matches(pattern, each, n=3) or each[:3]
    raise AnalysisError(
        f"{what} names {pattern!r}, and no layer with channels is called so; there are {', '.join(near)} and others."
    )


def least_widths(
    channels: Channels, keep: Iterable[str], min_width: int | Mapping[str, int], most: float | Mapping[str, float]
) -> tuple[Tensor, Tensor]:
    """(int64 [spaces], bool [spaces]): how many channels of each space stay at least; whether it is left alone.

    A space has one channel left, two where a grouped convolution reads it: with one group that would be another op.

    Raises:
        AnalysisError: a pattern stands for no layer.
    """
    layers = layers_of(channels)
    width = torch.tensor([space.width for space in channels.spaces], dtype=torch.int64)
    alone = torch.zeros(width.shape, dtype=torch.bool)
    for pattern in keep:
        for name in known(pattern, layers, "keep"):
            alone[_spaces(channels, layers[name])] = True
    least = torch.ones_like(width)
    for step in channels.steps:
        if step.effect.family is Family.GROUPED and step.effect.reading is not None:
            least[_spaces(channels, step.effect.reading.cols)] = 2
    for spaces, number in _each(channels, layers, min_width, "min_width"):
        least[spaces] = least[spaces].clamp(min=int(number))
    for spaces, fraction in _each(channels, layers, most, "most"):
        # floor(fraction * width) of them may go, but for the rounding of a product such as 0.1 * 30
        least[spaces] = torch.maximum(least[spaces], (width[spaces] * (1 - fraction) - 1e-9).ceil().long())
    return torch.where(alone, width, torch.minimum(least, width)), alone


def _each(
    channels: Channels, layers: Mapping[str, Tensor], value: float | Mapping[str, float], what: str
) -> list[tuple[Tensor, float]]:
    """(spaces, number), for a number for all layers or numbers by pattern."""
    if not isinstance(value, Mapping):
        return [(torch.arange(len(channels.spaces)), value)]
    return [
        (_spaces(channels, layers[name]), number)
        for pattern, number in value.items()
        for name in known(pattern, layers, what)
    ]


def _spaces(channels: Channels, labels: Tensor) -> Tensor:
    spaces: Tensor = channels.spaces_along(labels)
    known_spaces: Tensor = spaces[spaces >= 0].unique()
    return known_spaces
