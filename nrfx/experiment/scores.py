"""How well a network classifies images; one under training twice, for its running statistics lag behind its weights.

In eval mode batch norms normalise with running statistics, which follow the weights with their momentum. Around an
event, under a rising penalty and at large learning rates the weights are faster, and the score is that of a network
that nobody trains: errors several times too large. So a network under training is also scored with statistics of the
moment, taken from SAMPLE batches of the images that it trains on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrfx.experiment.config import RunConfig
from nrfx.experiment.data import Part
from nrfx.rewrite.compare import evaluating
from nrfx.tracing.recording.draws import random_state_kept
from nrfx.training.recalibrate import recalibrated

SAMPLE, SIZE = 4, 256
"""Batches that statistics are taken from, and their images, whatever the batches of the training are."""


@dataclass(frozen=True)
class Score:
    """Mean cross entropy on some images, and how many of them were put into a wrong class."""

    loss: float
    wrong: int
    images: int

    @property
    def error(self) -> float:
        """Wrong ones in percent.

        >>> Score(loss=0.1, wrong=3, images=200).error
        1.5
        """
        return 100 * self.wrong / self.images


@dataclass(frozen=True)
class Scores:
    """Of a network under training.

    Attributes:
        recalibrated: with running statistics of the moment: how good the weights are.
        lagging: with the running statistics that training has left; None where there are none, and one score is all.
    """

    recalibrated: Score
    lagging: Score | None

    @property
    def lagging_loss(self) -> float | None:
        """Loss of the lagging score, None where there is none."""
        return None if self.lagging is None else self.lagging.loss

    @property
    def lagging_error(self) -> float | None:
        """Error of the lagging score in percent, None where there is none."""
        return None if self.lagging is None else self.lagging.error


@torch.no_grad()
def score(module: nn.Module, images: Part, size: int = 512) -> Score:
    """How well the module classifies images in eval mode, as it is; its mode is put back afterwards.

    >>> from nrfx.experiment.data import digits
    >>> from nrfx.experiment.networks import digits_net
    >>> images = digits(seed=0).validation
    >>> found = score(digits_net(), images)  # untrained
    >>> found.images == len(images), 50 < found.error <= 100
    (True, True)
    """
    losses, wrong, count = [], [], 0
    with evaluating(module):
        for batch in images.in_order(size):
            logits = module(batch.x)
            losses.append(F.cross_entropy(logits, batch.y, reduction="sum"))
            wrong.append((logits.argmax(1) != batch.y).sum())
            count += len(batch)
    return Score(float(torch.stack(losses).sum()) / count, int(torch.stack(wrong).sum()), count)


def scores(module: nn.Module, train: Part, validation: Part, config: RunConfig) -> Scores:
    """How well a network under training classifies the validation part, and what its lagging statistics show.

    The images for new statistics are the same ones at each call, changed at random as training changes them. Nothing of
    the training is touched: the network has its own tensors back, and all random generators their states.

    Raises:
        TrainingError: what a batch norm sees is not finite.
    """
    with random_state_kept():
        torch.default_generator.manual_seed(config.seed)  # images from files are changed by it
        lagging = score(module, validation)
        with recalibrated(module, _sample(train, config)) as norms:
            return Scores(score(module, validation), lagging) if norms else Scores(lagging, None)


def _sample(train: Part, config: RunConfig) -> Iterator[Tensor]:
    order = torch.Generator().manual_seed(config.seed)
    batches = train.shuffled(min(SIZE, len(train)), order, config.shift, config.flip)
    return (batch.x for batch in islice(batches, SAMPLE))
