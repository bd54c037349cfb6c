"""The settings that advice is compared with full runs on: networks of different shape, on different images.

built   what the thresholds of nrfx/plan/advice.py were chosen by
held    written down before any of their runs, and looked at once, when the advice was done

Of each kind some networks have their width where one would put it by hand, and some have not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.study.fashion.networks import Inverted, densenet, head, resnet, unit, vgg
from nrfx.experiment.config import RunConfig
from nrfx.experiment.data import Dataset, digits
from nrfx.experiment.fashion import fashion
from nrfx.experiment.shapes import shapes

BUDGETS: Mapping[str, Mapping[str, float]] = {
    "params": {"params": 1.0},
    "flops": {"flops": 1.0},
    "both": {"params": 1.0, "flops": 1.0},
}
"""Name -> the budget, relative to the untrained network."""


@dataclass(frozen=True)
class Setting:
    """A network, the images it learns, and what it may cost.

    Attributes:
        network: builds it, untrained.
        data: a name of DATA.
        budget: a name of BUDGETS.
        trigger: r of an event.
        held: whether it is held back.
    """

    network: Callable[[], nn.Sequential]
    data: str = "fashion"
    budget: str = "params"
    trigger: float = 0.25
    held: bool = True

    def built(self, seed: int) -> nn.Sequential:
        """The untrained network; the seed decides its weights."""
        torch.manual_seed(seed)
        return self.network()

    def config(self, seed: int) -> RunConfig:
        """How it is trained, and searches: what the study chose, with an interval for short runs."""
        return RunConfig(
            **OF_DATA[self.data],
            lr=0.1,
            weight_decay=5e-4,
            seed=seed,
            trigger=self.trigger,
            interval=10,
            delta_lambda=1e-3,
            penalty="proximal",
            weighted="flops" if self.budget == "flops" else "params",
            spare="none",
            gamma_new=1.0,
            rescale_limit=4.0,
            warmup=100,
            scheme="dense",
            rescale=False,
        )


OF_DATA: Mapping[str, Mapping[str, Any]] = {
    "fashion": {"epochs": 8, "batch_size": 64, "shift": 0},
    "digits": {"epochs": 60, "batch_size": 32, "shift": 1},
    "shapes": {"epochs": 18, "batch_size": 64, "shift": 0},
}
"""Full runs of 1,248, 840 and 1,008 steps."""


SHAPES: Mapping[str, tuple[int, int, int]] = {"fashion": (1, 14, 14), "digits": (1, 8, 8), "shapes": (1, 16, 16)}
"""Of one image."""


@lru_cache(maxsize=3)
def images(name: str, root: Path) -> Dataset:
    """The images of a setting, the same for every run.

    Of Fashion-MNIST (14 x 14) 10,000 to train on, and 10,000 for the test; 449 and 899 of the digits (8 x 8); 3,600 and
    1,500 of shapes (16 x 16).
    """
    if name == "fashion":
        return fashion(root, seed=0, validation=1 / 60, count=10_000, size=14)
    if name == "digits":
        return digits(seed=0, validation=0.25, test=0.5)
    return shapes(seed=0, count=6000, size=16)


def _mobilenet(stem: int, *rows: tuple[int, int, int]) -> nn.Sequential:
    """An inverted bottleneck for each (out, stride, times wider inside)."""
    blocks: list[nn.Module] = []
    i = stem
    for o, stride, times in rows:
        blocks.append(Inverted(i, o, stride, times))
        i = o
    return nn.Sequential(unit(1, stem, stride=2), *blocks, *head(i))


SETTINGS: Mapping[str, Setting] = {
    "vgg, wide late": Setting(lambda: vgg((4, 4, None, 8, 8, None, 48, 48)), held=False),
    "vgg, even": Setting(lambda: vgg((8, 8, None, 16, 16, None, 32, 32)), held=False),
    "vgg, wide in the middle": Setting(lambda: vgg((8, 8, None, 48, 48, None, 12, 12)), held=False),
    "vgg, even, flops": Setting(lambda: vgg((6, 6, None, 12, 12, None, 24, 24)), budget="flops", held=False),
    "resnet, wide last stage": Setting(lambda: resnet(8, (4, 16), (6, 24), (32, 64)), trigger=0.5, held=False),
    "mobilenet, even": Setting(
        lambda: _mobilenet(8, (12, 1, 4), (16, 2, 4), (16, 1, 4), (24, 2, 4)), trigger=0.5, held=False
    ),
    "digits, vgg, wide late": Setting(
        lambda: vgg((3, 3, None, 6, 6, None, 40, 40)), data="digits", trigger=0.5, held=False
    ),
    "digits, vgg, even": Setting(
        lambda: vgg((6, 6, None, 12, 12, None, 24, 24)), data="digits", trigger=0.5, held=False
    ),
    # held back
    "vgg, wide last two": Setting(lambda: vgg((6, 6, None, 10, None, 40, 72))),
    "vgg, rising": Setting(lambda: vgg((8, 12, None, 16, 24, None, 32))),
    "vgg, wide early, flops": Setting(lambda: vgg((20, 16, None, 8, 8, None, 12, 12)), budget="flops"),
    "resnet, even": Setting(lambda: resnet(12, (6, 24), (8, 32), (16, 64)), trigger=0.5),
    "mobilenet, wide late, both": Setting(
        lambda: _mobilenet(8, (8, 1, 2), (12, 2, 2), (12, 1, 2), (40, 2, 8)), budget="both", trigger=0.5
    ),
    "densenet, wide second block": Setting(lambda: densenet(8, 4, 20), trigger=0.5),
    "digits, resnet, even": Setting(lambda: resnet(8, (4, 16), (8, 32)), data="digits", trigger=0.5),
    "shapes, vgg, pinched": Setting(lambda: vgg((16, 16, None, 5, 5, None, 40, 40)), data="shapes", trigger=0.5),
}
"""Name -> setting."""
