# ruff: noqa: E501  the lines of the page are as long as those of the other documents
"""The page docs/digits.md: the digits study as a table with intervals, and the losses around the events."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, median
from typing import Self

from benchmarks.command import RESULTS
from benchmarks.study.digits_run import Trained
from benchmarks.study.intervals import Interval, interval
from benchmarks.table import markdown
from benchmarks.timing import Environment
from nrfx.experiment.config import RunConfig
from nrfx.experiment.recipe import RECIPES


@dataclass(frozen=True)
class Choice:
    """The results of one delta_lambda on the seeds for choosing: means over them, none of them from the test part."""

    delta_lambda: float
    runs: int
    events: int
    event_epochs: tuple[str, ...]
    loss_before: float
    loss_next: float
    validation_error: float
    torch: str
    date: str
    cpu: str

    @classmethod
    def of(cls, delta_lambda: float, runs: Sequence[Trained]) -> Self:
        """The means of runs with one delta_lambda."""
        return cls(
            delta_lambda=delta_lambda,
            runs=len(runs),
            events=sum(run.events for run in runs),
            event_epochs=tuple(str(run.event_epoch) for run in runs),
            loss_before=mean(run.loss_before for run in runs),
            loss_next=mean(run.loss_next for run in runs),
            validation_error=mean(run.validation_error for run in runs),
            **asdict(Environment.here()),
        )

    def cells(self) -> tuple[str, ...]:
        """A line of a table."""
        return (
            f"{self.delta_lambda:g}",
            f"{self.events} of {self.runs}",
            ", ".join(self.event_epochs),
            f"{self.loss_before:.2f}",
            f"{self.loss_next:.2f}",
            f"{self.validation_error:.2f}",
        )


CHOICES = RESULTS / "digits_choice.csv"
CHOICE_HEADINGS = (
    *("delta_lambda", "events", "in epoch", "validation loss before", "an epoch later", "validation error, %"),
)


def choice_rows() -> Iterator[tuple[str, ...]]:
    """The lines of benchmarks/results/digits_choice.csv."""
    with CHOICES.open(newline="") as file:
        for line in csv.DictReader(file):
            numbers = (f"{float(line[name]):.2f}" for name in ("loss_before", "loss_next", "validation_error"))
            yield (line["delta_lambda"], f"{line['events']} of {line['runs']}", line["event_epochs"], *numbers)


def by_row(runs: Iterable[Trained]) -> dict[str, dict[int, Trained]]:
    """Row -> seed -> run, rows in the order of Table 1."""
    table: dict[str, dict[int, Trained]] = {row: {} for row in RECIPES}
    for run in runs:
        table[run.row][run.seed] = run
    return {row: seeds for row, seeds in table.items() if seeds}


def paired(one: dict[int, Trained], other: dict[int, Trained]) -> Interval:
    """The interval of the difference of the test errors, in points, over the seeds that both rows have."""
    return interval([one[seed].test_error - other[seed].test_error for seed in sorted(one.keys() & other.keys())])


HEADINGS = ("row", "seeds", "params", "flops", "test error, %", "minus BL", "validation error, %", "events")


def error_rows(runs: Sequence[Trained]) -> Iterator[tuple[str, ...]]:
    """A line for each row of Table 1, with means and 95 % intervals."""
    rows = by_row(runs)
    for row, seeds in rows.items():
        one = list(seeds.values())
        yield (
            row,
            str(len(one)),
            _range(run.params for run in one),
            f"{mean(run.flops for run in one):,.0f}",
            str(interval([run.test_error for run in one])),
            "" if row == "BL" or "BL" not in rows else str(paired(seeds, rows["BL"])),
            f"{mean(run.validation_error for run in one):.2f}",
            f"{sum(run.events > 0 for run in one)} of {len(one)}" if RECIPES[row].rejuvenates else "",
        )


EVENT_COLUMNS = (
    *("event_epoch", "r", "alpha", "lam", "train_before", "train_event", "train_next"),
    *("loss_before", "loss_after", "loss_next"),
)
EVENT_HEADINGS = (
    *("row", "epoch", "r", "alpha", "lambda"),
    *("training loss: the epoch before", "of the event", "after", "validation loss: before", "after", "an epoch later"),
)


def event_rows(runs: Sequence[Trained]) -> Iterator[tuple[str, ...]]:
    """A line for each row with events, with medians over its seeds."""
    for row, seeds in by_row(runs).items():
        events = [run for run in seeds.values() if run.events]
        if not events:
            continue
        yield (row, *(f"{median(getattr(run, name) for run in events):.3g}" for name in EVENT_COLUMNS))


def _range(values: Iterable[int]) -> str:
    ordered = sorted(values)
    least, most = f"{ordered[0]:,}", f"{ordered[-1]:,}"
    return least if least == most else f"{least} to {most}"


def page(runs: Sequence[Trained], settings: RunConfig) -> str:
    """The text of docs/digits.md."""
    rows = by_row(runs)
    said = "\n".join(textual(rows))
    return f"""# Table 1 on the handwritten digits

Every row of the paper's Table 1 (`nrfx.recipe` has them by name), trained on the digits that come with scikit-learn: the same
network, at most the same params, the same number of epochs and of steps, {min(map(len, rows.values()))} seeds or more. A seed
decides the split, the initial weights, the order of the images and the new weights, and is the same for all rows: *minus BL* is
the mean of the differences to the baseline of the same seed. Intervals are 95 % (Student's t).

```sh
python -m benchmarks digits
```

{chr(10).join(markdown(HEADINGS, error_rows(runs)))}

{said}

What this is not: the paper's Table 1, which is a VGG-19 on ImageNet. A network of {rows["BL"][0].params:,} params on 145 images has
nothing to say about that; the study shows that each row runs, keeps its budget, and where it stands against the others on a task
that is not saturated. Nor do the NR rows get the paper's longer training here: there an event sets the epoch counter back to 0, so
that all epochs come after it; here the search takes its part of the same number of epochs. Nine comparisons are made, so that in
one study of two or three an interval lies beside 0 by chance.

**Set-up.** A VGG of four 3 x 3 convolutions (16, 16, 32, 32 channels, gammas from 0.5) on 8 x 8 images moved by up to one pixel;
145 images to train on, 449 for validation, 1,203 for the test. {settings.epochs} epochs of 9 steps, batches of
{settings.batch_size}, SGD with momentum {settings.momentum}, learning rate {settings.lr} during the search (at most the first half
of the epochs), after it (and in the baselines from the start) falling to 0 along a half cosine. T_r = {settings.trigger}, one event,
an interval of {settings.interval} steps, delta_lambda = {settings.delta_lambda:g}. NR+DSD masks 30 % of each layer's weights in the third quarter
of the epochs after the event. {machine(runs)}

**How delta_lambda was chosen.** By the validation part of seeds that are not in the study, for NR-CA-BR, and used for every
row: `python -m benchmarks digits --choose`. The test part was looked at once, at the end of each run.

{chr(10).join(markdown(CHOICE_HEADINGS, choice_rows()))}

## Across the event

Medians over the seeds with an event. Training loss is the mean over an epoch, as the optimizer sees it (batch norm with the
statistics of the batch; for NR-CR the sum of two heads from the event on). Validation loss is in eval mode, with running
statistics, which follow a network that changes quickly only after a while: under the penalty at this learning rate it is several
times the training loss, and moves by as much from one epoch to the next.

{chr(10).join(markdown(EVENT_HEADINGS, event_rows(runs)))}

{across(runs)}
"""


def textual(rows: dict[str, dict[int, Trained]]) -> Iterator[str]:
    """A sentence each for the rows that are better than the baseline, worse, and too close to call."""
    others = {row: paired(seeds, rows["BL"]) for row, seeds in rows.items() if row != "BL"}
    better = [row for row, difference in others.items() if difference.apart and difference.mean < 0]
    worse = [row for row, difference in others.items() if difference.apart and difference.mean > 0]
    close = [row for row in others if row not in (*better, *worse)]
    for names, words in (
        (better, "Better than BL, 0 outside the interval of the difference"),
        (worse, "Worse than BL, 0 outside the interval of the difference"),
        (close, "Too close to BL to call"),
    ):
        yield f"- {words}: {', '.join(names) if names else 'none'}."


def across(runs: Sequence[Trained]) -> str:
    """The sentences about the validation loss before and after the event."""
    kept = [run for run in runs if run.events and RECIPES[run.row].reinitialize != "all"]
    if not kept:
        return ""
    moved = max(abs(run.loss_after - run.loss_before) / run.loss_before for run in kept)
    return (
        f"The event itself moves the validation loss by at most {100 * moved:.2g} % of its value (all rows but NR-FS, "
        "which starts from scratch on purpose). Dying was gradual: the training loss of the epoch before is small in "
        "every row. The losses rise after "
        "it, in the steps at the full learning rate, and most in the rows that rescale; why is not measured here. A "
        "rescaling divides the weights that read a small gamma, which makes the same step on them larger for what they compute."
    )


def machine(runs: Sequence[Trained]) -> str:
    """The number of runs, and the machine of the last one."""
    last = runs[-1]
    return f"{len(runs)} runs, each on one thread ({last.cpu}, torch {last.torch}, {last.date})."
