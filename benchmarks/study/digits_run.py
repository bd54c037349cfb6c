"""One run of the digits study: a row of Table 1 from one seed."""

from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

import nrfx
from benchmarks.study import as_in_the_paper
from benchmarks.timing import Environment
from nrfx.experiment.config import RunConfig
from nrfx.experiment.data import Dataset, digits
from nrfx.experiment.loop import Run, train
from nrfx.experiment.recipe import RECIPES

WIDTHS = (16, 16, 32, 32)
GAMMA = 0.5
SETTINGS = RunConfig(epochs=220, lr=0.05, interval=20, delta_lambda=2e-3, **as_in_the_paper.RUN)
"""The settings of every row; a row changes the options that it names."""


@dataclass(frozen=True)
class Trained:
    """A run: its row and seed, the numbers of its first event (0 without one), and its errors in percent.

    The training losses are means over the epoch before the event, the epoch of the event, and the epoch after it. The
    validation losses are those right before and after the event, and at the end of the epoch after it, with running
    statistics as training has left them.
    """

    row: str
    seed: int
    params: int
    flops: int
    epochs: int
    events: int
    event_epoch: int
    r: float
    lam: float
    alpha: float
    train_before: float
    train_event: float
    train_next: float
    loss_before: float
    loss_after: float
    loss_next: float
    train_error: float
    validation_error: float
    test_error: float
    seconds: float
    torch: str
    date: str
    cpu: str


def images(seed: int) -> Dataset:
    """The digits: 145 to train on, so that the baseline makes errors; 449 for validation, 1,203 for the test."""
    return digits(seed, validation=0.25, test=0.67)


def network(seed: int, classes: int = 10) -> nn.Sequential:
    """A VGG of four layers; every gamma begins at 0.5, as in the paper's networks."""
    torch.manual_seed(seed)
    a, b, c, d = WIDTHS
    body = (*_unit(1, a), *_unit(a, b), nn.MaxPool2d(2), *_unit(b, c), *_unit(c, d))
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(d, classes))


def _unit(i: int, o: int) -> tuple[nn.Module, ...]:
    norm = nn.BatchNorm2d(o)
    nn.init.constant_(norm.weight, GAMMA)
    return nn.Conv2d(i, o, 3, padding=1, bias=False), norm, nn.ReLU()


def trained(row: str, seed: int, settings: RunConfig = SETTINGS) -> Trained:
    """A run of one row from one seed, within the params of the network as it is built."""
    recipe, data = RECIPES[row], images(seed)
    gm = nrfx.trace(network(seed, data.classes), torch.zeros(2, *data.train.shape))
    budget = nrfx.Budget.relative(gm, params=1.0)
    if recipe.attends:
        gm = nrfx.cross_attend(gm, parts=2)
    config = replace(settings, seed=seed, dsd=recipe.dsd, **recipe.options)
    return _described(row, seed, train(gm, data, config, budget if recipe.rejuvenates else None))


def _described(row: str, seed: int, run: Run) -> Trained:
    event = run.events[0] if run.events else None
    around = {epoch.epoch - event.epoch: epoch for epoch in run.epochs} if event else {}
    return Trained(
        row=row,
        seed=seed,
        params=run.params,
        flops=run.flops,
        epochs=len(run.epochs),
        events=len(run.events),
        event_epoch=event.epoch if event else 0,
        r=event.r if event else 1.0,
        lam=event.lam if event else 0.0,
        alpha=event.alpha if event else 1.0,
        train_before=around[-1].loss if event else 0.0,
        train_event=around[0].loss if event else 0.0,
        train_next=around[1].loss if event else 0.0,
        loss_before=(event and event.lagging_loss_before) or 0.0,
        loss_after=(event and event.lagging_loss_after) or 0.0,
        loss_next=(event and around[1].lagging_loss) or 0.0,
        train_error=run.epochs[-1].train_error,
        validation_error=run.validation.error,
        test_error=run.test.error,
        seconds=run.seconds,
        **asdict(Environment.here()),
    )
