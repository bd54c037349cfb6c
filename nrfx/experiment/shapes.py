"""Rendered shapes: a dataset of any size, without a file, for tests and for studies of capacity.

Every image shows one shape at a random place, size, angle and brightness on a random background, with noise on top. Its
class is its kind (`SHAPES`). The number of images, of classes, of colours, the side and the noise are free, so that a
task can be made as hard as a network needs it.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from nrfx.errors import UsageError
from nrfx.experiment.data import Dataset, Images

FINE = 2
"""Samples of a pixel along each axis, whose mean it is."""

CHUNK = 512
"""Images that are rendered at a time."""


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return x.hypot(y) <= 1


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (x.hypot(y) <= 1) & (x.hypot(y) >= 0.6)


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) <= 0.8


def _frame(x: Tensor, y: Tensor) -> Tensor:
    largest = torch.maximum(x.abs(), y.abs())
    return (largest <= 0.85) & (largest >= 0.5)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    sides = [math.cos(angle) * x + math.sin(angle) * y for angle in (math.pi / 2, -math.pi / 6, math.pi * 7 / 6)]
    return torch.stack(sides).amax(0) <= 0.55


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return (torch.minimum(x.abs(), y.abs()) <= 0.28) & (torch.maximum(x.abs(), y.abs()) <= 1)


def _star(x: Tensor, y: Tensor) -> Tensor:
    fifth = 2 * math.pi / 5
    turned = torch.remainder(torch.atan2(x, y), fifth) - fifth / 2
    return x.hypot(y) <= 0.75 - 0.35 * torch.cos(2.5 * turned)


def _bar(x: Tensor, y: Tensor) -> Tensor:
    return (x.abs() <= 1) & (y.abs() <= 0.3)


def _half(x: Tensor, y: Tensor) -> Tensor:
    return (x.hypot(y) <= 1) & (y <= 0)


def _crescent(x: Tensor, y: Tensor) -> Tensor:
    return (x.hypot(y) <= 1) & ((x - 0.45).hypot(y) >= 0.75)


SHAPES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType({
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
    "star": _star,
    "frame": _frame,
    "bar": _bar,
    "half": _half,
    "crescent": _crescent,
})  # fmt: skip
"""Kind -> whether a point (x, y) lies in it, in units of its radius. A class is a place in this list."""


def shapes(
    seed: int = 0,
    count: int = 6_000,
    classes: int = 6,
    size: int = 32,
    channels: int = 1,
    noise: float = 0.3,
    validation: float = 0.15,
    test: float = 0.25,
) -> Dataset:
    """A dataset of rendered shapes, its classes equally frequent, normalised.

    Args:
        seed: of everything; the same arguments give the same images.
        count: of all images.
        classes: the first so many of SHAPES.
        size: side of the images in pixels.
        channels: colours: 1 or 3.
        noise: deviation of the noise of a pixel, where black is 0 and white is 1.
        validation, test: fractions of the images; what is left is for training. A validation of 0: it is the test part.

    Raises:
        UsageError: an argument is out of range.

    >>> data = shapes(count=40, size=16)
    >>> data.classes, data.train.shape, len(data.train), len(data.validation), len(data.test)
    (6, (1, 16, 16), 24, 6, 10)
    """
    _check(count, classes, size, channels, noise, validation, test)
    generator = torch.Generator().manual_seed(seed)
    y = torch.randperm(count, generator=generator) % classes
    x = torch.cat([_rendered(part, size, channels, noise, generator) for part in y.split(CHUNK)])
    ends = math.floor(count * test), math.floor(count * test) + math.floor(count * validation)
    trained = x[ends[1] :]
    everything = Images((x - trained.mean()) / trained.std(), y)
    tested, validated, rest = (everything.part(part) for part in torch.arange(count).tensor_split(ends))
    return Dataset("shapes", classes, rest, validated if validation else tested, tested)


def _check(count: int, classes: int, size: int, channels: int, noise: float, validation: float, test: float) -> None:
    if not 2 <= classes <= len(SHAPES):
        raise UsageError(f"classes is {classes}; shapes have 2 to {len(SHAPES)}: {', '.join(SHAPES)}.")
    if size < 8 or channels not in (1, 3):
        raise UsageError(
            f"Shapes of {size} pixels and {channels} colours are not drawn; size is 8 or more, colours 1 or 3."
        )
    if not 0 <= noise < math.inf:
        raise UsageError(f"noise is {noise}; expected a deviation such as 0.3, where white is 1.")
    if not (0 <= validation < 1 and 0 < test < 1 and validation + test < 1) or count * min(validation or 1, test) < 1:
        raise UsageError(
            f"validation={validation} and test={test} of {count} shapes leave a part empty: make the sum less than 1, "
            "or count larger."
        )


def _rendered(kinds: Tensor, size: int, channels: int, noise: float, generator: torch.Generator) -> Tensor:
    """float32 [N, channels, size, size]: an image for each kind."""
    count = len(kinds)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)

    radius, turn = uniform(0.4, 0.7), uniform(-math.pi / 8, math.pi / 8)
    # A shape reaches up to 1.42 radii from its centre (the corners of a cross): most of it stays in sight.
    right, down = (1 - radius) * uniform(-1, 1), (1 - radius) * uniform(-1, 1)
    axis = (torch.arange(size * FINE) + 0.5) / (size * FINE) * 2 - 1
    x, y = (axis - right) / radius, (axis[:, None] - down) / radius
    turned_x, turned_y = turn.cos() * x + turn.sin() * y, turn.cos() * y - turn.sin() * x
    inside = torch.zeros(count, 1, size * FINE, size * FINE)
    for kind, contains in enumerate(SHAPES.values()):
        chosen = (kinds == kind).nonzero().flatten()
        if len(chosen):
            inside[chosen] = contains(turned_x[chosen], turned_y[chosen]).float()
    cover = F.avg_pool2d(inside, FINE)
    ground = torch.rand(count, channels, 1, 1, generator=generator)
    contrast = (0.4 + 0.4 * torch.rand(count, channels, 1, 1, generator=generator)) * torch.where(ground < 0.5, 1, -1)
    return ground + cover * contrast + noise * torch.randn(count, channels, size, size, generator=generator)
