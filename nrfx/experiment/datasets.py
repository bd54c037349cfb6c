# ruff: noqa: PLC0415  torchvision takes a second to import, and the digits do not need it
"""Datasets by name: the digits, rendered shapes, Fashion-MNIST, CIFAR-10 and CIFAR-100, and folders such as ImageNet's.

digits, shapes      made here
fashion             from the folder `root`: the four files as they are published, see fashion.py
cifar10, cifar100   from the folder `root`, in the form in which torchvision keeps them; downloaded on request
folder              root/train/CLASS/*.jpg and root/val/CLASS/*.jpg, read as they are needed
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor

from nrfx.errors import UsageError
from nrfx.experiment.data import WHOLE, Dataset, Images, Share, digits, part_of
from nrfx.experiment.fashion import HELD, SIDE, fashion
from nrfx.experiment.shapes import shapes

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's colours, as torchvision's models are trained with."""

MARGIN = 256 / 224
"""Images are resized to this much more than their side, and their middle is tested."""


@dataclass(frozen=True)
class DataConfig:
    """Which images, and where they are.

    Args:
        name: one of DATASETS.
        root: folder of the files; digits and shapes have none.
        download: CIFAR alone: fetch it into `root` if it is not there.
        validation: the part of the training images that choices are made on; 0 trains on all of them, and what the log
            calls validation is then the test part, as in the paper. None: 0.15 of digits and shapes, 5,000 images of
            fashion, 0.1 of CIFAR, 0 of folders.
        size: side of the images; None: digits 8, fashion 28, shapes and CIFAR 32, folders 224.
        channels: 1 or 3, of digits, shapes and fashion.
        count: of shapes: all images (None: 6,000); of fashion: those to train on (None: all).
        classes, noise: of shapes.
        workers: processes that read and decode the images of a folder.
    """

    name: str = "digits"
    root: str | None = None
    download: bool = False
    validation: float | None = None
    size: int | None = None
    channels: int = 1
    count: int | None = None
    classes: int = 6
    noise: float = 0.3
    workers: int = 4


def dataset(config: DataConfig, seed: int = 0) -> Dataset:
    """The images that a config asks for; the seed decides what is drawn and held out.

    Raises:
        UsageError: there is no such dataset, its files are not there, or a value does not fit it.

    >>> dataset(DataConfig("shapes", count=40, size=16)).name
    'shapes'
    """
    if config.name not in DATASETS:
        raise UsageError(f"There is no dataset {config.name!r}; there are {', '.join(DATASETS)}.")
    if config.validation is not None and not 0 <= config.validation < 1:
        raise UsageError(f"validation is {config.validation}; expected a fraction of the training images, such as 0.1.")
    return DATASETS[config.name](config, seed)


def _digits(config: DataConfig, seed: int) -> Dataset:
    held = {} if config.validation is None else {"validation": config.validation}
    return digits(seed, size=config.size or 8, channels=config.channels, **held)


def _shapes(config: DataConfig, seed: int) -> Dataset:
    held = {} if config.validation is None else {"validation": config.validation}
    count = 6_000 if config.count is None else config.count
    return shapes(seed, count, config.classes, config.size or 32, config.channels, config.noise, **held)


def _fashion(config: DataConfig, seed: int) -> Dataset:
    if config.download:
        raise UsageError("fashion is not downloaded: get its four files, and name their folder (--data-root).")
    held = HELD if config.validation is None else config.validation
    return fashion(_root(config), seed, held, config.count, config.size or SIDE, config.channels)


def _cifar(config: DataConfig, seed: int, kind: str, classes: int) -> Dataset:
    from torchvision import datasets

    if config.size not in (None, 32):
        raise UsageError(f"The images of {config.name} are 32 x 32; size is {config.size}.")
    root = _root(config, exists=not config.download)
    try:
        parts = [getattr(datasets, kind)(root, train=train, download=config.download) for train in (True, False)]
    except RuntimeError as error:
        raise UsageError(
            f"{config.name} is not in {root}, or not whole: name the folder that holds "
            f"{getattr(datasets, kind).base_folder}, or ask for the download (--download)."
        ) from error
    x, x_test = (torch.as_tensor(part.data).permute(0, 3, 1, 2).float() / 255 for part in parts)
    y, y_test = (torch.as_tensor(part.targets) for part in parts)
    mean, deviation = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
    whole, test = (Images((of - mean) / deviation, to) for of, to in ((x, y), (x_test, y_test)))
    held = round(len(whole) * (0.1 if config.validation is None else config.validation))
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
    validation = whole.part(order[:held]) if held else test
    return Dataset(config.name, classes, whole.part(order[held:]), validation, test)


def _folder(config: DataConfig, seed: int) -> Dataset:
    from torchvision.datasets import ImageFolder

    root, size = _root(config), config.size or 224
    training, testing = _transforms(size)
    try:
        whole, same = (ImageFolder(str(root / "train"), transform) for transform in (training, testing))
        test = ImageFolder(str(root / "val"), testing)
    except FileNotFoundError as error:
        raise UsageError(
            f"{root} is no folder of images: expected train/CLASS/*.jpg and val/CLASS/*.jpg in it ({error})."
        ) from error
    if whole.classes != test.classes:
        raise UsageError(f"{root}: the classes in train ({len(whole.classes)}) and val ({len(test.classes)}) differ.")
    files = Files(whole, (3, size, size), config.workers)
    held = round(len(files) * (config.validation or 0))
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed)).tolist()
    tested = replace(files, source=test)
    validation = replace(files, source=same, chosen=tuple(order[:held])) if held else tested
    trained = replace(files, chosen=tuple(order[held:])) if held else files
    return Dataset(config.name, len(whole.classes), trained, validation, tested)


def _transforms(size: int) -> tuple[Any, Any]:
    """For training: a random part of the image, half of them mirrored. For a test: its middle."""
    from torchvision import transforms as t

    last = [t.ToTensor(), t.Normalize(MEAN, DEVIATION)]
    training = t.Compose([t.RandomResizedCrop(size), t.RandomHorizontalFlip(), *last])
    return training, t.Compose([t.Resize(round(size * MARGIN)), t.CenterCrop(size), *last])


def _root(config: DataConfig, exists: bool = True) -> Path:
    if not config.root:
        raise UsageError(
            f"Dataset {config.name!r} needs the folder that its files are in: root in [data], or --data-root."
        )
    root = Path(config.root).expanduser()
    if exists and not root.is_dir():
        raise UsageError(f"Dataset {config.name!r}: there is no folder {root}.")
    return root


@dataclass(frozen=True)
class Files:
    """A part of a dataset that is read from files, batch by batch.

    Args:
        source: a torchvision dataset, whose transform gives float32 [C, H, W].
        shape: of an image.
        workers: processes that read; 0 reads in this one.
        chosen: positions of the images of this part; None for all.
        device: where batches go.
    """

    source: Any
    shape: tuple[int, ...]
    workers: int = 0
    chosen: tuple[int, ...] | None = None
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return len(self.source) if self.chosen is None else len(self.chosen)

    def to(self, device: torch.device | str) -> Self:
        """The same files, whose images come on a device."""
        return replace(self, device=device)

    def shuffled(
        self, size: int, generator: torch.Generator, shift: int = 0, flip: bool = False, share: Share = WHOLE
    ) -> Iterator[Images]:
        """One pass in random order. How images are changed is up to the source's transform: shift and flip are not."""
        from torch.utils.data import BatchSampler, RandomSampler

        batches = BatchSampler(RandomSampler(self._part(), generator=generator), size, drop_last=True)
        return self._batches(batch_sampler=_Shares(batches, share), generator=generator)

    def in_order(self, size: int) -> Iterator[Images]:
        """All images in order."""
        return self._batches(batch_size=size)

    def _part(self) -> Any:
        from torch.utils.data import Subset

        return self.source if self.chosen is None else Subset(self.source, self.chosen)

    def _batches(self, **options: Any) -> Iterator[Images]:
        from torch.utils.data import DataLoader

        part = self._part()
        pinned = torch.device(self.device).type == "cuda"
        x: Tensor
        y: Tensor
        workers = min(self.workers, os.cpu_count() or 1)  # DataLoader warns of more
        for x, y in DataLoader(part, num_workers=workers, pin_memory=pinned, **options):
            yield Images(x, y).to(self.device)


@dataclass(frozen=True)
class _Shares:
    """The positions of a share of each batch, in the order of all batches."""

    batches: Any
    share: Share

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            yield [batch[index] for index in part_of(self.share, len(batch)).tolist()]

    def __len__(self) -> int:
        return len(self.batches)


DATASETS: Mapping[str, Callable[[DataConfig, int], Dataset]] = MappingProxyType({
    "digits": _digits,
    "shapes": _shapes,
    "fashion": _fashion,
    "cifar10": partial(_cifar, kind="CIFAR10", classes=10),
    "cifar100": partial(_cifar, kind="CIFAR100", classes=100),
    "folder": _folder,
})  # fmt: skip
"""How each dataset is made."""
