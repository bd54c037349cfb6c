"""Evaluates networks after an event: running statistics of new channels from 0 and 1, and from data.

The network and the settings are those of `search`. In one run the mean and variance of new channels start at 0 and 1;
in the other they are taken from four batches of 64 training images at the event. Train mode does not read them, so
that the weights of both runs agree step by step. `python -m benchmarks recalibration` prints the validation loss and
error at some steps after the event and writes benchmarks/results/recalibration.csv; two minutes of one core. It has no
check: the exit status is 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from statistics import mean

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track

import nrfx
from benchmarks.command import RESULTS, parser_of, write
from benchmarks.study import as_in_the_paper
from benchmarks.study.search import CONFIG
from benchmarks.table import terminal
from benchmarks.timing import Environment
from nrfx.experiment.data import Dataset, digits
from nrfx.experiment.networks import digits_net
from nrfx.experiment.scores import score

TABLE = RESULTS / "recalibration.csv"
STEPS = (0, 2, 5, 10, 20, 40, 80)
IMAGES, BATCHES = 64, 4


@dataclass(frozen=True)
class Sight:
    """The network in eval mode, `step` steps after the event, on the validation part; the error in percent."""

    calibrated: bool
    seed: int
    step: int
    loss: float
    error: float
    torch: str
    date: str
    cpu: str


def after_the_event(seed: int, calibrated: bool, data: Dataset, steps: Sequence[int] = STEPS) -> Iterator[Sight]:
    """Trains until the last of `steps` after the first event, and evaluates the network after each of them."""
    torch.manual_seed(seed)
    gm = nrfx.trace(digits_net(data.classes), torch.zeros(2, *data.train.shape))
    optimizer = torch.optim.SGD(gm.parameters(), lr=CONFIG.lr, momentum=CONFIG.momentum)
    some = islice(data.train.shuffled(IMAGES, torch.Generator().manual_seed(seed + 1), CONFIG.shift), BATCHES)
    nr = nrfx.Rejuvenator(
        gm,
        optimizer,
        nrfx.Budget.relative(gm, params=1.0),
        trigger=CONFIG.trigger,
        interval=CONFIG.interval or 1,
        delta_lambda=CONFIG.delta_lambda,
        rescale=CONFIG.rescale,
        generator=torch.Generator().manual_seed(seed),
        calibration=[batch.x for batch in some] if calibrated else None,
        **as_in_the_paper.SEARCH,
    )
    order, since = torch.Generator().manual_seed(seed), None
    for batch in chain.from_iterable(
        data.train.shuffled(CONFIG.batch_size, order, CONFIG.shift) for _ in range(CONFIG.epochs)
    ):
        loss = F.cross_entropy(nr.module.train()(batch.x), batch.y)
        optimizer.zero_grad()
        loss.backward()
        nr.penalize()
        optimizer.step()
        event = isinstance(nr.step(), nrfx.Event)
        since = 0 if event else None if since is None else since + 1
        if since is not None and since in steps:
            now = score(nr.module, data.validation)
            yield Sight(calibrated, seed, since, now.loss, now.error, **asdict(Environment.here()))
        if since == steps[-1]:
            return


HEADINGS = ("steps after the event", "loss, 0 and 1", "error, 0 and 1", "loss, from data", "error, from data")


def lines(sights: Sequence[Sight]) -> Iterator[tuple[str, ...]]:
    """A line for each step, with means over the seeds for statistics from 0 and 1, and for statistics from data."""
    for step in dict.fromkeys(sight.step for sight in sights):
        cells = [str(step)]
        for calibrated in (False, True):
            here = [sight for sight in sights if (sight.step, sight.calibrated) == (step, calibrated)]
            cells += [f"{mean(sight.loss for sight in here):.3f}", f"{mean(sight.error for sight in here):.1f} %"]
        yield tuple(cells)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains each seed in both ways, prints the table, writes the CSV of a run with the defaults; returns 0."""
    parser = parser_of("recalibration", __doc__, "--seeds 1")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="runs of each (5)")
    options = parser.parse_args(arguments)
    console = Console()
    pairs = [(seed, calibrated) for seed in range(options.seeds) for calibrated in (False, True)]
    sights = [
        sight
        for seed, calibrated in track(pairs, "runs", console=console)
        for sight in after_the_event(seed, calibrated, digits(seed))
    ]
    console.print(terminal(f"digits_net on digits: {Environment.here()}", HEADINGS, lines(sights)))
    if options == parser.parse_args([]):
        write({TABLE: sights}, console)
    return 0
