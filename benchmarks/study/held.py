"""Trains mobilenet_v3_small on the digits with and without shrink_beta, and counts held channels.

Every `--interval` steps a row counts the gamma-dead channels that can go, and those that only their constant holds
(behind squeeze-excite gates and padded depthwise convolutions). Both runs start with the same weights, see the same
images, and have no event. At the end `nrfx.compact` drops the channels that can go. `python -m benchmarks held` prints
the table and writes benchmarks/results/held.csv. Exit status 1: at the end the run with shrink_beta has half as many
held channels as the run without, or more.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, count, islice

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import models

import nrfx
from benchmarks.command import RESULTS, parser_of, write
from benchmarks.study import as_in_the_paper
from benchmarks.table import terminal
from benchmarks.timing import Environment
from nrfx.analysis.liveness import liveness_of
from nrfx.analysis.spaces import channels_of
from nrfx.experiment.data import Dataset, digits
from nrfx.experiment.scores import score

TABLE = RESULTS / "held.csv"
SIDE, BATCH, LR, DELTA_LAMBDA, GAMMA = 32, 16, 0.02, 1e-3, 0.5
STEPS, INTERVAL = 1_600, 100
NEVER = 1e-6
"""A trigger that no utilization falls below, so that the search lasts until the end."""


@dataclass(frozen=True)
class Sight:
    """One measurement: gamma-dead channels that can go, and those that only their constant holds (without streams)."""

    shrink_beta: float
    step: int
    can_go: int
    held: int
    r_params: float
    lam: float
    validation_error: float
    torch: str
    date: str
    cpu: str


def network(seed: int, classes: int) -> nn.Module:
    """mobilenet_v3_small with gammas of 0.5, and a momentum of 0.1 so that statistics follow a short training."""
    torch.manual_seed(seed)
    model: nn.Module = models.mobilenet_v3_small(num_classes=classes)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.constant_(module.weight, GAMMA)
            module.momentum = 0.1
    return model


def rejuvenator(model: nn.Module, data: Dataset, shrink_beta: float, interval: int) -> nrfx.Rejuvenator:
    gm = nrfx.trace(model, torch.zeros(2, *data.train.shape))
    optimizer = torch.optim.SGD(gm.parameters(), lr=LR, momentum=0.9)
    budget = nrfx.Budget.relative(gm, params=1.0)
    return nrfx.Rejuvenator(
        *(gm, optimizer, budget),
        trigger=NEVER,
        interval=interval,
        delta_lambda=DELTA_LAMBDA,
        shrink_beta=shrink_beta,
        **as_in_the_paper.SEARCH,
    )


def train(nr: nrfx.Rejuvenator, data: Dataset, steps: int, seed: int) -> Iterator[Sight]:
    """Trains for so many steps, and yields a row for each measurement of the rejuvenator."""
    generator = torch.Generator().manual_seed(seed)
    images = chain.from_iterable(data.train.shuffled(BATCH, generator) for _ in count())
    for batch in islice(images, steps):
        loss = F.cross_entropy(nr.module.train()(batch.x), batch.y)
        nr.optimizer.zero_grad()
        loss.backward()
        nr.penalize()
        nr.optimizer.step()
        measurement = nr.step()
        if isinstance(measurement, nrfx.Measurement):
            yield sight(nr, measurement, data)


def sight(nr: nrfx.Rejuvenator, measurement: nrfx.Measurement, data: Dataset) -> Sight:
    """The row of one measurement."""
    liveness = liveness_of(nr.module, channels_of(nr.module))
    by_reason = dict(measurement.utilization.held)
    return Sight(
        shrink_beta=nr.pull.shrink_beta,
        step=measurement.step,
        can_go=int((~liveness.live).sum()),
        held=sum(by_reason.get(cause, 0) for cause in liveness.constants.causes),
        r_params=measurement.r,
        lam=measurement.lam,
        validation_error=score(nr.module, data.validation).error,
        **asdict(Environment.here()),
    )


HEADINGS = ("step", *(f"{what}, {how}" for how in ("without", "with") for what in ("can go", "held", "r", "error")))


def side_by_side(without: Sequence[Sight], with_: Sequence[Sight]) -> Iterator[tuple[str, ...]]:
    """A line for each measurement, with the numbers of both runs."""
    for pair in zip(without, with_, strict=True):
        cells = [(f"{x.can_go:,}", f"{x.held:,}", f"{x.r_params:.3f}", f"{x.validation_error:.1f} %") for x in pair]
        yield (str(pair[0].step), *cells[0], *cells[1])


def compacted(module: nrfx.TracedModule, data: Dataset) -> str:
    """A sentence about the network without the channels that can go: its params, outputs and validation error."""
    result = nrfx.compact(module)
    (images,) = data.validation.in_order(len(data.validation))
    difference = nrfx.verify(module, result, images.x)
    sizes = f"{result.before.params.total:,} -> {result.after.params.total:,} params"
    error = score(result.module, data.validation).error
    return f"{sizes}, outputs moved by {difference:.1e}, validation error {error:.1f} %"


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains twice, prints the table, writes the CSV of a run with the defaults; 1 if the option frees too little."""
    parser = parser_of("held", __doc__, "--steps 400 --interval 50")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N", help=f"of each run ({STEPS})")
    parser.add_argument("--interval", type=int, default=INTERVAL, metavar="N", help=f"between counts ({INTERVAL})")
    parser.add_argument("--shrink-beta", type=float, default=1.0, metavar="S", help="of the second run (1.0)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights, split and order (0)")
    options = parser.parse_args(arguments)
    console, data = Console(), digits(options.seed, size=SIDE, channels=3)
    runs: list[list[Sight]] = []
    for shrink_beta in (0.0, options.shrink_beta):
        nr = rejuvenator(network(options.seed, data.classes), data, shrink_beta, options.interval)
        sights = train(nr, data, options.steps, options.seed)
        total = options.steps // options.interval
        runs.append(list(track(sights, f"shrink_beta={shrink_beta:g}", total=total, console=console)))
        console.print(f"compact: {compacted(nr.module, data)}", highlight=False)
    console.print(terminal(f"mobilenet_v3_small on digits: {Environment.here()}", HEADINGS, side_by_side(*runs)))
    if options == parser.parse_args([]):
        write({TABLE: [sight for run in runs for sight in run]}, console)
    return 0 if 2 * runs[1][-1].held < runs[0][-1].held else 1
