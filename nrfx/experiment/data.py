"""Images to train on: what a dataset is, and scikit-learn's handwritten digits, which need no download.

A dataset has three parts (train, validation, test), normalised with the mean and deviation of the train part. Choices
are made on the validation part; the test part is for the end. A part is `Images` in memory, or anything else that is a
`Part`, such as the files of `nrfx.experiment.datasets`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from nrfx.errors import UsageError

Share = tuple[int, int]
"""(which, of how many): the part of each batch that is seen here."""

WHOLE: Share = (0, 1)


def part_of(share: Share, size: int) -> Tensor:
    """The positions of a share in a batch of that size.

    >>> part_of((1, 2), 6)
    tensor([3, 4, 5])
    """
    which, count = share
    return torch.arange(which * size // count, (which + 1) * size // count)


@dataclass(frozen=True)
class Images:
    """`x`: float32 [N, C, H, W]; `y`: the classes, int64 [N]."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def part(self, index: Tensor) -> Self:
        """The images at the given positions."""
        return type(self)(self.x[index], self.y[index])

    def to(self, device: torch.device | str) -> Self:
        """The same images on a device."""
        return type(self)(self.x.to(device), self.y.to(device))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image, (C, H, W)."""
        return tuple(self.x.shape[1:])

    def shuffled(
        self, size: int, generator: torch.Generator, shift: int = 0, flip: bool = False, share: Share = WHOLE
    ) -> "Iterator[Images]":
        """One pass for training, see `batches`."""
        return (each.part(part_of(share, len(each))) for each in batches(self, size, generator, shift, flip))

    def in_order(self, size: int) -> "Iterator[Images]":
        """All images as they are, `size` at a time."""
        pairs = zip(self.x.split(size), self.y.split(size), strict=True)
        return (Images(x, y) for x, y in pairs)


class Part(Protocol):
    """What the training loop asks of a part of a dataset."""

    def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image, (C, H, W)."""

    def to(self, device: torch.device | str) -> Self:
        """The same part, whose images come on a device."""

    def shuffled(
        self, size: int, generator: torch.Generator, shift: int = 0, flip: bool = False, share: Share = WHOLE
    ) -> Iterator[Images]:
        """One pass in random order, changed at random as training wants it, in shares of batches of exactly `size`."""

    def in_order(self, size: int) -> Iterator[Images]:
        """All images as they are for a test, up to `size` at a time."""


@dataclass(frozen=True)
class Dataset:
    """Images in three parts. Validation and test are the same part where all else is trained on, as in the paper."""

    name: str
    classes: int
    train: Part
    validation: Part
    test: Part


def digits(seed: int = 0, validation: float = 0.15, test: float = 0.25, size: int = 8, channels: int = 1) -> Dataset:
    """The 1,797 handwritten digits (8 x 8 pixels, 10 classes), split at random and normalised.

    Args:
        seed: of the split.
        validation, test: fractions of the images; what is left is for training. A validation of 0: it is the test part.
        size: side of the images; other than 8, they are resized (bilinear).
        channels: 3 repeats the grey channel for networks that want colour.

    Raises:
        UsageError: scikit-learn is not installed, or the fractions leave a part empty.

    >>> data = digits(seed=0)
    >>> data.train.x.shape[1:], len(data.train) + len(data.validation) + len(data.test)
    (torch.Size([1, 8, 8]), 1797)
    """
    if not (0 <= validation < 1 and 0 < test < 1 and validation + test < 1):
        raise UsageError(
            f"validation={validation} and test={test} leave a part of the digits empty: make the sum less than 1."
        )
    x, y = _bundled_digits()
    x = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False) if size != x.shape[-1] else x
    x = x.repeat(1, channels, 1, 1)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    ends = (math.floor(len(y) * test), math.floor(len(y) * test) + math.floor(len(y) * validation))
    tested, validated, trained = order[: ends[0]], order[ends[0] : ends[1]], order[ends[1] :]
    everything = Images((x - x[trained].mean()) / x[trained].std(), y)
    end = everything.part(tested)
    return Dataset("digits", 10, everything.part(trained), everything.part(validated) if validation else end, end)


def _bundled_digits() -> tuple[Tensor, Tensor]:
    """[1797, 1, 8, 8] in [0, 1], and the classes."""
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(
            "The digits come with scikit-learn, which is not installed: pip install 'nrfx[demo]'."
        ) from error
    bundled = load_digits()
    x = torch.as_tensor(bundled.images, dtype=torch.float32).unsqueeze(1) / 16
    return x, torch.as_tensor(bundled.target, dtype=torch.int64)


def batches(
    images: Images, size: int, generator: torch.Generator, shift: int = 0, flip: bool = False
) -> Iterator[Images]:
    """One pass over the images in random order, in batches of exactly `size`; what is left over is dropped.

    Each image is moved by up to `shift` pixels along each axis, filled up with its darkest value, and with `flip`
    mirrored half of the time.

    >>> images = Images(torch.zeros(10, 1, 8, 8), torch.arange(10))
    >>> [batch.y.numel() for batch in batches(images, 4, torch.Generator().manual_seed(0), shift=1)]
    [4, 4]
    """
    order = torch.randperm(len(images), generator=generator)
    for start in range(0, len(order) - size + 1, size):
        batch = images.part(order[start : start + size].to(images.y.device))
        x = _shifted(batch.x, shift, generator) if shift else batch.x
        yield Images(_flipped(x, generator) if flip else x, batch.y)


def _flipped(x: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images, chosen at random, with left and right exchanged."""
    chosen = torch.randint(0, 2, (len(x), 1, 1, 1), generator=generator).to(x.device)
    return torch.where(chosen.bool(), x.flip(-1), x)


def _shifted(x: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Each image moved by its own random offset of up to `shift` pixels."""
    count, colours, height, width = x.shape
    dark = x.amin((2, 3), keepdim=True)
    padded = F.pad(x - dark, (shift,) * 4)
    down, right = torch.randint(0, 2 * shift + 1, (2, count, 1, 1, 1), generator=generator).to(x.device)
    rows = down + torch.arange(height, device=x.device)[:, None]
    columns = right + torch.arange(width, device=x.device)
    each = torch.arange(count, device=x.device)[:, None, None, None]
    colour = torch.arange(colours, device=x.device)[:, None, None]
    return padded[each, colour, rows, columns] + dark
