"""Fashion-MNIST: 70,000 grey images of clothes, 28 x 28 pixels, 10 classes, from files that are there already.

The four files have the names of MNIST's and are taken as they are, packed or not, from a folder or from
FashionMNIST/raw below it, where torchvision puts them. What is in them is not looked at: MNIST's own are taken too.

Source: H. Xiao, K. Rasul, R. Vollgraf, *Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms*, 2017.
"""

import os
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nrfx.errors import UsageError
from nrfx.experiment.data import Dataset, Images
from nrfx.experiment.idx import read_idx

CLASSES, SIDE = 10, 28
HELD = 1 / 12
"""The part of the training images for validation where none is asked for: 5,000 of 60,000."""

FOLDERS = (".", "FashionMNIST/raw", "raw")
"""Where the files may lie, below the folder that is named."""


def fashion(
    root: Path,
    seed: int = 0,
    validation: float = HELD,
    count: int | None = None,
    size: int = SIDE,
    channels: int = 1,
) -> Dataset:
    """Fashion-MNIST, with a part of the training images held out, and normalised.

    Args:
        root: folder of the files.
        seed: of the images that are held out and chosen; with it, they are the same on every machine.
        validation: the part of the training images that is held out; 0: it is the test part.
        count: images to train on, of each class as many as of any other, or one more; None: all that are left. Those of
            a smaller count are among those of a larger one, and the same images are held out.
        size: side of the images; of smaller ones a pixel is the mean over those in its place (14: of 2 x 2), larger
            ones are resized (bilinear).
        channels: 3 repeats the grey channel for networks that want colour.

    Raises:
        UsageError: a file is not there, not whole, or not what its name says; or there are fewer images than `count`.
    """
    pixels, classes = _images(root, "train")
    tested = _images(root, "t10k")
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
    held = round(len(classes) * validation)
    held_out, trained = order[:held], order[held:]
    if count is not None and not 0 < count <= len(trained):
        raise UsageError(f"count is {count}; expected 1 to {len(trained):,}, the images that are not for validation.")
    if count is not None:
        trained = trained[_by_turns(classes[trained])[:count]]
    parts = [(pixels[chosen], classes[chosen]) for chosen in (trained, held_out)]
    train, validated, test = (Images(_pictures(x, size), y) for x, y in (*parts, tested))
    mean, deviation = train.x.mean(), train.x.std()

    def normal(part: Images) -> Images:
        return Images(((part.x - mean) / deviation).repeat(1, channels, 1, 1), part.y)

    end = normal(test)
    return Dataset("fashion", CLASSES, normal(train), normal(validated) if held else end, end)


def _by_turns(y: Tensor) -> Tensor:
    """Positions of the images, in order, but one of each class after the other.

    >>> _by_turns(torch.tensor([4, 4, 4, 7, 4, 7]))
    tensor([0, 3, 1, 5, 2, 4])
    """
    earlier = F.one_hot(y, CLASSES).cumsum(0).gather(1, y[:, None]).squeeze(1)
    return earlier.argsort(stable=True)


def _pictures(pixels: Tensor, size: int) -> Tensor:
    """float32 [N, 1, size, size] in [0, 1]."""
    x = pixels.unsqueeze(1).float() / 255
    if size < SIDE:
        return F.adaptive_avg_pool2d(x, size)
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False) if size > SIDE else x


def _images(root: Path, part: str) -> tuple[Tensor, Tensor]:
    """uint8 [N, 28, 28], and the classes, int64 [N]."""
    images, labels = (_found(root, f"{part}-{name}-ubyte") for name in ("images-idx3", "labels-idx1"))
    x, y = _read(images, 3), _read(labels, 1)
    if x.shape[1:] != (SIDE, SIDE) or not len(x):
        raise UsageError(f"{images} holds {' x '.join(map(str, x.shape))} pixels; expected images of {SIDE} x {SIDE}.")
    if len(x) != len(y):
        raise UsageError(
            f"{labels} holds {len(y):,} labels, and {images.name} {len(x):,} images: one is of another set."
        )
    if int(y.max()) >= CLASSES:
        raise UsageError(f"{labels} has a label {int(y.max())}; expected 0 to {CLASSES - 1}.")
    return x, y.long()


def _found(root: Path, name: str) -> Path:
    """The file of that name, or the packed one, in the first folder that has either."""
    for folder in FOLDERS:
        for path in (root / folder / name, root / folder / f"{name}.gz"):
            if os.path.isfile(path):
                return path
    try:
        there = sorted(os.listdir(root))
    except OSError as error:
        raise UsageError(f"{root} cannot be read ({error.strerror or error}).") from error
    shown = f"{', '.join(there[:4])}{', ...' if len(there) > 4 else ''}" if there else "nothing"
    raise UsageError(
        f"fashion is not in {root}: expected {name}.gz, or the same without .gz, there or in {FOLDERS[1]}; found "
        f"{shown}. Nothing is downloaded: name the folder of the four files."
    )


def _read(path: Path, dims: int) -> Tensor:
    """The array in a file, which is read once for as long as the file is the same."""
    about = path.stat()
    return _read_once(path, dims, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=4)
def _read_once(path: Path, dims: int, *_: int) -> Tensor:
    return read_idx(path, dims)
