"""Steps of training on the study's images, with the score of the weights on the way."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn
from torch.optim import SGD

from benchmarks.study.fashion.plan import Curve, Settings
from nrfx.experiment.data import Dataset, Images, Part
from nrfx.experiment.fashion import fashion
from nrfx.training.heads import HeadLoss
from nrfx.training.recalibrate import recalibrated

SIDE, TRAIN, EVERY, SEEN = 14, 20_000, 100, 2000
"""Pixels of a side; images to train on; steps between two scores; validation images that such a score looks at."""

CALIBRATION = 8
"""Batches of 64 from which a score takes the running statistics."""


@lru_cache(maxsize=1)
def images(root: Path) -> Dataset:
    """20,000 images to train on, 5,000 for validation, 10,000 for the test; the same for every run."""
    return fashion(root, seed=0, count=TRAIN, size=SIDE)


@torch.no_grad()
def error(module: nn.Module, part: Part) -> float:
    """Percent of the images that the module gets wrong in eval mode; its mode is put back."""
    training = module.training
    module.eval()
    wrong = sum(int((module(batch.x).argmax(1) != batch.y).sum()) for batch in part.in_order(1000))
    module.train(training)
    return 100 * wrong / len(part)


@dataclass
class Training:
    """A network under SGD on the device of the images, in bfloat16 on a GPU; and its steps so far.

    Attributes:
        fall_from: the step from which on the learning rate falls; None for not yet.
        end: the last step.
        rises_from: the step behind which the learning rate rises again, in `settings.warmup` steps.
        pull: called between the gradients and the step, for a penalty of its own.
    """

    module: nn.Module
    data: Dataset
    settings: Settings
    seed: int
    curve: Curve
    end: int
    fall_from: int | None = 0
    rises_from: int | None = None
    step: int = 0
    pull: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        how = self.settings
        assert isinstance(self.data.train, Images) and isinstance(self.data.validation, Images)
        self.train, self.validation = (
            self.data.train,
            self.data.validation.part(torch.arange(min(SEEN, len(self.data.validation)))),
        )
        self.module.to(self.train.x.device)
        self.optimizer = SGD(self.module.parameters(), lr=how.lr, momentum=how.momentum, weight_decay=how.weight_decay)
        self.loss = HeadLoss(nn.CrossEntropyLoss())
        self.order = self._batches()

    def _batches(self) -> Iterator[Images]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield from self.train.shuffled(self.settings.batch_size, generator)

    def rate(self) -> float:
        """The learning rate of the next step."""
        lr = self.settings.lr
        if self.fall_from is not None and self.step > self.fall_from:
            lr *= 0.5 * (1 + math.cos(math.pi * (self.step - self.fall_from) / (self.end - self.fall_from)))
        if self.rises_from is not None and self.step < self.rises_from + self.settings.warmup:
            lr *= (self.step - self.rises_from + 1) / self.settings.warmup
        return lr

    def steps(self, last: int, goes_on: Callable[[], bool] = lambda: True) -> None:
        """Trains up to step `last`, or until `goes_on`, which is asked behind each step, says no."""
        self.module.train()
        while self.step < last:
            batch = next(self.order)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate()
            self.optimizer.zero_grad()
            with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=batch.x.is_cuda):
                loss = self.loss(self.module, batch.x, batch.y)
            loss.backward()
            if self.pull is not None:
                self.pull()
            self.optimizer.step()
            self.step += 1
            if not goes_on():
                return
            if self.step % EVERY == 0:
                self.score()

    def score(self, mark: str = "") -> None:
        """Adds the error of the weights, with statistics taken anew, to the curve."""
        self.curve.add(self.step, self.error_now(), mark)

    def error_now(self) -> float:
        batches = [self.train.x[at : at + 64] for at in range(0, min(64 * CALIBRATION, len(self.train)), 64)]
        with recalibrated(self.module, batches):
            return error(self.module, self.validation)
