"""What the demo trains: a VGG whose width lies in the wrong places, on digits or on clothes.

As in the paper's VGG-16, most of the params lie in the last layers, which are wide, where the images are small and have
little left to tell, and the first layers are too narrow for the task. Nobody would build such a network for so small a
task; a network that was taken over from another task often is one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nrfx.choices import DemoData
from nrfx.errors import UsageError
from nrfx.experiment.config import RunConfig
from nrfx.experiment.data import Dataset, digits
from nrfx.experiment.fashion import FOLDERS as BELOW
from nrfx.experiment.fashion import fashion
from nrfx.experiment.networks import POOL, vgg
from nrfx.models.layers import initialise
from nrfx.plan.budget import Budget
from nrfx.tracing import TracedModule, trace

PLACES = (Path("/usr/share/datasets/fashion-mnist"), Path("data"))
"""Where Fashion-MNIST is looked for: the folder of Debian's package, and the one that most scripts name."""


@dataclass(frozen=True)
class Setting:
    """A network, images, and how both are trained, plainly and with Neural Rejuvenation.

    Attributes:
        images: what the images are, in words.
        widths: channels of each convolution, and POOL for each max pool.
        side: pixels of a side of an image.
        config: of both trainings; the seed is set for each. The last fields are only read with a budget.
        validation, test: the parts of the digits that are held out. Fashion-MNIST has a test part of its own, and
            `validation` is the part of its training images.
        count: images of Fashion-MNIST to train on.
    """

    name: DemoData
    images: str
    widths: tuple[int | None, ...]
    side: int
    config: RunConfig
    validation: float
    test: float = 0.0
    count: int | None = None

    def data(self, seed: int, root: Path | None = None) -> Dataset:
        """The images of a seed, which decides what is held out.

        Raises:
            UsageError: they are not there.
        """
        if self.name == "digits":
            return digits(seed, self.validation, self.test, self.side)
        if root is None:
            raise UsageError("The demo on Fashion-MNIST needs the folder of its four files: --data-root DIR.")
        return fashion(root, seed, self.validation, self.count, self.side)

    def network(self, seed: int, classes: int = 10) -> TracedModule:
        """The untrained network with the weights of that seed. The random state stays as it is.

        >>> sum(p.numel() for p in SETTINGS["fashion"].network(0).parameters())
        43470
        """
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return trace(initialise(vgg(self.widths, classes)), torch.zeros(2, 1, self.side, self.side))

    def budget(self) -> Budget:
        """The params of the network as it is built."""
        return Budget.relative(self.network(0), params=1.0)

    def of(self, seed: int, epochs: int | None = None) -> RunConfig:
        """The config of a training with that seed.

        Args:
            epochs: in place of the setting's; the interval and how fast lambda rises then follow from them.
        """
        if epochs is None:
            return replace(self.config, seed=seed)
        return replace(self.config, seed=seed, epochs=epochs, interval=None, delta_lambda=None)


_SEARCH = RunConfig(
    lr=0.05,
    weight_decay=5e-4,
    interval=20,
    delta_lambda=1e-3,
    trigger=0.25,
    penalty="proximal",
    weighted="params",
    spare="large",
    raise_lambda="slow",
    scheme="dense",
    rescale=False,
    gamma_new=1.0,
    cross="zero",
)
"""Row NR of Table 1 with the settings of the study (docs/results.md)."""

SETTINGS: Mapping[DemoData, Setting] = {
    "digits": Setting(
        name="digits",
        images="handwritten digits of 8 x 8 pixels",
        widths=(2, 2, POOL, 4, 4, POOL, 32, 32),
        side=8,
        config=replace(_SEARCH, epochs=100, batch_size=32, delta_lambda=2e-3, shift=1, search=0.5, warmup=60),
        validation=0.2,
        test=0.4,
    ),
    "fashion": Setting(
        name="fashion",
        images="pictures of clothes of 14 x 14 pixels (Fashion-MNIST)",
        widths=(4, 4, POOL, 8, 8, POOL, 64, 64),
        side=14,
        config=replace(_SEARCH, epochs=12, batch_size=64, lr=0.1, shift=0, search=0.5, warmup=200),
        validation=1 / 30,
        count=10_000,
    ),
}
"""By name. How they were chosen: docs/demo.md."""


def found() -> Path | None:
    """The first of PLACES that holds the files of Fashion-MNIST; None where none does."""
    names = ("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz")
    return next(
        (root for root in PLACES if any((root / folder / name).is_file() for folder in BELOW for name in names)), None
    )
