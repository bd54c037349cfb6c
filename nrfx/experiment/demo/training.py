"""The trainings of the demo: for each seed one without and one with Neural Rejuvenation, in a folder of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nrfx.analysis.utilization import utilization
from nrfx.errors import NrfxError
from nrfx.experiment.demo.setting import Setting
from nrfx.experiment.loop import Run, finished, train
from nrfx.experiment.record import Epoch, is_free, read_log
from nrfx.experiment.scores import Scores
from nrfx.report.layer_tree import lines
from nrfx.training.events import Event, Measurement

Row = Literal["plain", "nr"]
ROWS: tuple[Row, ...] = ("plain", "nr")


@dataclass(frozen=True)
class Task:
    """A training that the demo does.

    Attributes:
        setting: what is trained, and how.
        seed: of the split, the initial weights, the order of the images, and new weights.
        epochs: None for those of the setting.
        root: the folder of Fashion-MNIST.
        out: the folder of the run; None to write nothing.
    """

    setting: Setting
    seed: int
    row: Row
    epochs: int | None = None
    root: Path | None = None
    out: Path | None = None

    @property
    def last(self) -> int:
        """The number of epochs."""
        return self.setting.of(self.seed, self.epochs).epochs


@dataclass(frozen=True)
class Moment:
    """How far a training is: after an epoch, a measurement (`r`) or an event (its step)."""

    task: Task
    epoch: int = 0
    error: float | None = None
    r: float | None = None
    event: int | None = None


@dataclass(frozen=True)
class Trained:
    """What came of a training. Errors in percent.

    Attributes:
        layers: the names of the convolutions, in order; `widths` are their channels in the end.
        event: the step of the rejuvenation, 0 without one. r, alpha: there; r is 1 and alpha 1 without.
        validation, test: of the network in the end, with the running statistics that it is saved with.
        curve: (step, validation error) at the end of each epoch, with running statistics taken anew.
        note: why there was no event.
    """

    seed: int
    row: Row
    params: int
    flops: int
    layers: tuple[str, ...]
    widths: tuple[int, ...]
    steps: int
    event: int
    r: float
    alpha: float
    validation: float
    test: float
    curve: tuple[tuple[int, float], ...]
    seconds: float
    note: str = ""


def so_far(task: Task) -> Moment:
    """How far the training in the folder of a task is, by its log; at its start where there is none that can be read:
    then the training itself will say what is wrong."""
    if task.out is None or not (task.out / "log.jsonl").is_file():
        return Moment(task)
    try:
        log = read_log(task.out)
    except NrfxError:
        return Moment(task)
    if not log.epochs:
        return Moment(task)
    last, event = log.epochs[-1], log.events[-1].step if log.events else None
    r = last.r_params if task.row == "nr" else None
    return Moment(task, last.epoch, last.validation_error, r, event)


class Stopped(Exception):
    """The demo was broken off, and so is this training."""


def trained(task: Task, tell: Callable[[Moment], None] = lambda moment: None) -> Trained:
    """Carries a training out; goes on with the one in its folder, or reads it where it is over.

    Args:
        tell: called as it goes; what it raises ends the training.

    Raises:
        UsageError: the images are not there.
        CheckpointError: a file in the folder cannot be read or written, or is of another training.
    """
    setting = task.setting
    data, config = setting.data(task.seed, task.root), setting.of(task.seed, task.epochs)
    budget = setting.budget() if task.row == "nr" else None
    gm = setting.network(task.seed, data.classes)
    if task.out is not None and (task.out / "model.safetensors").exists() and not (task.out / "state.json").exists():
        return _outcome(task, finished(gm, data, config, budget, task.out))
    resume = task.out is not None and not is_free(task.out)
    return _outcome(task, train(gm, data, config, budget, task.out, _Watcher(task, tell), resume))


def _outcome(task: Task, run: Run) -> Trained:
    event = run.events[-1] if run.events else None
    widths = {
        line.label.partition("+")[0]: line.main.out
        for line in lines(utilization(run.module).rows)
        if not line.main.pins
    }
    return Trained(
        seed=task.seed,
        row=task.row,
        params=run.params,
        flops=run.flops,
        layers=tuple(widths),
        widths=tuple(widths.values()),
        steps=run.epochs[-1].step,
        event=event.step if event else 0,
        r=event.r if event else 1.0,
        alpha=event.alpha if event else 1.0,
        validation=run.validation.error,
        test=run.test.error,
        curve=tuple((epoch.step, epoch.validation_error) for epoch in run.epochs),
        seconds=run.seconds,
        note=run.note,
    )


class _Watcher:
    """Tells the moments of a training (see `nrfx.experiment.record.Watcher`)."""

    def __init__(self, task: Task, tell: Callable[[Moment], None]) -> None:
        self.task, self.tell, self.epoch = task, tell, 0

    def begins(self, forecast: str) -> None:
        """Nothing: the setting is known to let channels die in time."""

    def measured(self, measurement: Measurement) -> None:
        """r goes on."""
        self.tell(Moment(self.task, self.epoch, r=measurement.r))

    def rejuvenated(self, event: Event, before: Scores, after: Scores) -> None:
        """The event, once."""
        self.tell(Moment(self.task, self.epoch, event=event.step))

    def trained(self, epoch: Epoch) -> None:
        """An epoch is over."""
        self.epoch = epoch.epoch
        self.tell(Moment(self.task, epoch.epoch, error=epoch.validation_error))
