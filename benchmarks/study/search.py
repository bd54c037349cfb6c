"""Trains a small VGG on the digits with five values of delta_lambda, by which lambda rises.

The search lasts half of 50 epochs. Each delta_lambda is the one
with which a gamma that the loss has no use for dies within a given part of the search
(`nrfx.training.schedule.suggest_delta_lambda`). For each part and seed a row holds the step of the event, the
validation errors (eval mode, with running statistics as training has left them) before and after it, and the error at
the end. `python -m benchmarks search` prints the table and writes benchmarks/results/search.csv; five minutes of one
core. It has no check: the exit status is 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mean

import torch
from rich.console import Console
from rich.progress import track

import nrfx
from benchmarks.command import RESULTS, parser_of, write
from benchmarks.study import as_in_the_paper
from benchmarks.table import terminal
from benchmarks.timing import Environment
from nrfx.experiment.config import RunConfig
from nrfx.experiment.data import Dataset, digits
from nrfx.experiment.loop import train
from nrfx.experiment.networks import digits_net
from nrfx.models.layers import GAMMA
from nrfx.training.schedule import suggest_delta_lambda

TABLE = RESULTS / "search.csv"
CONFIG = RunConfig(epochs=50, batch_size=16, lr=0.02, interval=20, delta_lambda=5e-4, search=0.5, rescale=False)
"""Of every run, but for the seed and delta_lambda."""

PARTS = (1.0, 0.5, 0.25, 0.1, 0.05)


@dataclass(frozen=True)
class Search:
    """One run. Errors in percent on the validation part; r, alpha and the errors at the event are None without one.

    part: of the search, in which a gamma that the loss has no use for dies. search: its length in steps. event: the
    step of the event.
    """

    part: float
    seed: int
    delta_lambda: float
    search: int
    event: int | None
    r: float | None
    alpha: float | None
    error_before: float | None
    error_after: float | None
    final_error: float
    torch: str
    date: str
    cpu: str


def run(part: float, seed: int, data: Dataset) -> Search:
    """Trains the network with the delta_lambda of that part."""
    config = replace(CONFIG, seed=seed, **as_in_the_paper.RUN)
    search = int(config.epochs * (len(data.train) // config.batch_size) * config.search)
    assert config.interval is not None
    steps = max(int(part * search), 2 * config.interval + 1)
    rise = suggest_delta_lambda(config.lr, steps, config.interval, GAMMA, momentum=config.momentum)
    torch.manual_seed(seed)
    gm = nrfx.trace(digits_net(data.classes), torch.zeros(2, *data.train.shape))
    done = train(gm, data, replace(config, delta_lambda=rise), nrfx.Budget.relative(gm, params=1.0))
    event = done.events[0] if done.events else None
    return Search(
        part=part,
        seed=seed,
        delta_lambda=rise,
        search=search,
        event=event.step if event else None,
        r=event.r if event else None,
        alpha=event.alpha if event else None,
        error_before=event.lagging_error_before if event else None,
        error_after=event.lagging_error_after if event else None,
        final_error=done.validation.error,
        **asdict(Environment.here()),
    )


HEADINGS = ("dead in", "delta_lambda", "events", "at step", "alpha", "error before", "error after", "at the end")


def lines(rows: Sequence[Search]) -> Iterator[tuple[str, ...]]:
    """A line for each part, with means over its seeds; those at the event are over the seeds with an event."""
    for part in dict.fromkeys(row.part for row in rows):
        here = [row for row in rows if row.part == part]
        with_event = [row for row in here if row.event is not None]
        yield (
            f"{part:.0%} of the search",
            f"{here[0].delta_lambda:.1e}",
            f"{len(with_event)} of {len(here)}",
            _mean([row.event for row in with_event], ".0f"),
            _mean([row.alpha for row in with_event], ".2f"),
            _mean([row.error_before for row in with_event], ".1f", " %"),
            _mean([row.error_after for row in with_event], ".1f", " %"),
            _mean([row.final_error for row in here], ".1f", " %"),
        )


def _mean(values: Sequence[float | None], form: str, unit: str = "") -> str:
    known = [value for value in values if value is not None]
    return f"{mean(known):{form}}{unit}" if known else "-"


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains every part and seed, prints the table, writes the CSV of a run with the defaults; returns 0."""
    parser = parser_of("search", __doc__, "--seeds 1 --parts 0.5")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each (3)")
    parser.add_argument("--parts", type=float, nargs="+", default=PARTS, metavar="P", help=f"of the search {PARTS}")
    options = parser.parse_args(arguments)
    console, data = Console(), [digits(seed) for seed in range(options.seeds)]
    pairs = [(part, seed) for part in options.parts for seed in range(options.seeds)]
    rows = [run(part, seed, data[seed]) for part, seed in track(pairs, "searches", console=console)]
    console.print(terminal(f"digits_net on digits: {Environment.here()}", HEADINGS, lines(rows)))
    if options == parser.parse_args([]):
        write({TABLE: rows}, console)
    return 0
