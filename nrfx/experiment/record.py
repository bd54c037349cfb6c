"""What a run leaves behind: the values that it logs, and the files in its folder.

config.json              the run's settings; state.json repeats them, so that a change is noticed
log.jsonl                a line per event and per epoch; "kind" says which, the other keys are the fields of
                         EventRecord and Epoch
model.safetensors        the network, optimizer and Rejuvenator at the end
checkpoint-N.safetensors the same after epoch N (0: before the first), and state.json with what a resumed run needs
                         beside it; both go when the run ends

The folder is locked while a process trains in it. A file is replaced in one step; log.jsonl alone grows, and what was
logged behind the last checkpoint is dropped when the run goes on.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from torch.optim import Optimizer

from nrfx.checkpoint import load, save
from nrfx.errors import CheckpointError, UsageError
from nrfx.experiment.config import RunConfig
from nrfx.experiment.scores import Scores
from nrfx.files import parsed, remove_left, text_of, write, writing
from nrfx.locks import locked
from nrfx.plan.budget import Budget
from nrfx.tracing import TracedModule
from nrfx.training.events import Event, Measurement
from nrfx.training.rejuvenator import Rejuvenator


@dataclass(frozen=True)
class Epoch:
    """An epoch as it is logged. Errors in percent; r of the network as it stands; lr of its last step.

    `validation_` is with running statistics of the moment, `lagging_` with those that training has left; None without
    batch norms, and in logs of earlier versions, where `validation_` is what is called lagging now.
    `lam` is lambda at its end, 0 once the search is over and no penalty acts.
    `epochs` is how many the run will have, as far as is known: an event adds to it where it sets the counter back.
    """

    epoch: int
    step: int
    loss: float
    train_error: float
    validation_loss: float
    validation_error: float
    r_params: float
    r_flops: float
    lam: float
    lr: float
    seconds: float
    epochs: int
    lagging_loss: float | None = None
    lagging_error: float | None = None
    kind: Literal["epoch"] = "epoch"


@dataclass(frozen=True)
class EventRecord:
    """An event as it is logged; losses and errors (in percent) of the validation part, on both sides of it.

    `validation_` and `lagging_` are as in an Epoch.
    `r` is the utilization that the budget measures, `r_params` and `r_flops` that of each measure, before the event.
    """

    step: int
    epoch: int
    r: float
    r_params: float
    r_flops: float
    lam: float
    alpha: float
    params: int
    flops: int
    validation_loss_before: float
    validation_loss_after: float
    validation_error_before: float
    validation_error_after: float
    notes: tuple[str, ...]
    lagging_loss_before: float | None = None
    lagging_loss_after: float | None = None
    lagging_error_before: float | None = None
    lagging_error_after: float | None = None
    kind: Literal["event"] = "event"

    @classmethod
    def of(cls, event: Event, epoch: int, before: Scores, after: Scores) -> Self:
        """The record of an event in that epoch, with the scores of the network before and of the one after it."""
        return cls(
            step=event.step,
            epoch=epoch,
            r=event.r,
            r_params=event.result.before.params.ratio,
            r_flops=event.result.before.flops.ratio,
            lam=event.lam,
            alpha=event.result.alpha,
            params=event.result.after.params.total,
            flops=event.result.after.flops.total,
            notes=event.result.notes,
            validation_loss_before=before.recalibrated.loss,
            validation_loss_after=after.recalibrated.loss,
            validation_error_before=before.recalibrated.error,
            validation_error_after=after.recalibrated.error,
            lagging_loss_before=before.lagging_loss,
            lagging_loss_after=after.lagging_loss,
            lagging_error_before=before.lagging_error,
            lagging_error_after=after.lagging_error,
        )


@dataclass(frozen=True)
class _Line:
    """A line of a log, of which only the kind was read."""

    kind: Literal["epoch", "event"]


@dataclass(frozen=True)
class _State:
    """The content of state.json."""

    checkpoint: str
    lines: int
    epoch: int
    step: int
    start: int
    fall_from: int | None
    searched: int | None
    random: Mapping[str, str]
    last_event: int | None = None  # earlier versions kept neither
    config: Mapping[str, Any] | None = None


class Watcher(Protocol):
    """Who is told what happens during a run, as it happens."""

    def begins(self, forecast: str) -> None:
        """A search is about to begin; the forecast says in sentences how long dying takes, or is empty."""

    def measured(self, measurement: Measurement) -> None:
        """The utilization was measured."""

    def rejuvenated(self, event: Event, before: Scores, after: Scores) -> None:
        """The network was rejuvenated; the scores are those of the validation part, on both sides of it."""

    def trained(self, epoch: Epoch) -> None:
        """An epoch is over."""


class Silent:
    """A watcher that says nothing."""

    def begins(self, forecast: str) -> None:
        """Nothing."""

    def measured(self, measurement: Measurement) -> None:
        """Nothing."""

    def rejuvenated(self, event: Event, before: Scores, after: Scores) -> None:
        """Nothing."""

    def trained(self, epoch: Epoch) -> None:
        """Nothing."""


MADE = ("log.jsonl", "state.json", "model.safetensors")
"""Files of which each tells that a folder holds a run."""

ELSEWHERE = ("data.root", "data.download", "data.workers")
"""Settings that may be others when a run goes on: where the data lies and who reads it."""


def is_free(out: Path) -> bool:
    """Whether nothing of a run is lost if one begins in the folder: one killed at its start has left config.json."""
    return not out.is_file() and not any((out / name).exists() for name in MADE)


def check_free(out: Path, resume: str = "--resume {}") -> None:
    """Raises UsageError where a run's folder holds a run already, or is a file."""
    if not is_free(out):
        state = "is a file" if out.is_file() else "holds a run already"
        raise UsageError(f"{out} {state}: choose another folder, remove it, or go on with it ({resume.format(out)}).")


def check_resumable(out: Path) -> None:
    """Raises UsageError where a folder holds no run that was broken off."""
    if not (out / "state.json").is_file():
        over = (out / "model.safetensors").exists()
        why = "the run in it is over" if over else "it holds no run that was broken off"
        raise UsageError(f"{out} cannot be resumed: {why}.")


class Folder:
    """The files of a run, made as it goes; none if `out` is None. A context manager, which unlocks the folder.

    Args:
        out: the folder.
        writes: False in all processes of a run but the first: they read what it has written.
    """

    def __init__(self, out: Path | None, writes: bool = True) -> None:
        self.out, self.writes = out, writes
        self.config: dict[str, Any] = {}
        self._handle: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _lock(self, out: Path) -> None:
        if os.name != "posix":
            return  # folders cannot be opened there
        self._handle = os.open(out, os.O_RDONLY)
        if locked(self._handle) is False:
            raise UsageError(f"Another process trains in {out}: wait until it ends, or choose another folder.")

    def begin(self, config: RunConfig, budget: Budget | None, about: Mapping[str, Any]) -> None:
        """Makes the folder and writes config.json; `about` is what is told beside config and budget.

        Raises:
            UsageError: the folder holds a run already, or another process trains in it.
            CheckpointError: it cannot be written.
        """
        if self.out is None or not self.writes:
            return
        check_free(self.out)
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            self._lock(self.out)
            check_free(self.out)
            self._remove_checkpoints()
        self.config = _described(config, budget, about)
        _put(self.out / "config.json", self.config)

    def line(self, kind: str, values: Mapping[str, Any]) -> None:
        """Adds a line to the log."""
        if self.out is not None and self.writes:
            path = self.out / "log.jsonl"
            with writing(path), path.open("a") as file:
                file.write(json.dumps({"kind": kind, **values}) + "\n")
                file.flush()
                os.fsync(file.fileno())  # state.json counts this line

    def end(self, module: TracedModule, optimizer: Optimizer, rejuvenator: Rejuvenator | None) -> None:
        """Saves what came of the run, and removes its checkpoint."""
        if self.out is not None and self.writes:
            save(self.out / "model.safetensors", module, optimizer=optimizer, rejuvenator=rejuvenator)
            with writing(self.out):
                (self.out / "state.json").unlink(missing_ok=True)
                self._remove_checkpoints()

    def checkpoint(
        self, state: Mapping[str, Any], module: TracedModule, optimizer: Optimizer, rejuvenator: Rejuvenator | None
    ) -> None:
        """Keeps where the run is: from the moment that state.json is replaced, it is the one to go on from."""
        if self.out is None or not self.writes:
            return
        name = f"checkpoint-{state['epoch']}.safetensors"
        save(self.out / name, module, optimizer=optimizer, rejuvenator=rejuvenator)
        log = self.out / "log.jsonl"
        lines = text_of(log, CheckpointError).count("\n") if log.exists() else 0
        _put(self.out / "state.json", {"checkpoint": name, "lines": lines, **state, "config": self.config})
        with writing(self.out):
            self._remove_checkpoints(keep=name)

    def resume(
        self,
        module: TracedModule,
        optimizer: Optimizer,
        rejuvenator: Rejuvenator | None,
        config: RunConfig,
        budget: Budget | None,
        about: Mapping[str, Any],
    ) -> tuple[TracedModule, dict[str, Any]]:
        """The network of the last checkpoint and the state beside it; lines that were logged after it are dropped.

        Optimizer and rejuvenator are made to train that network.

        Raises:
            UsageError: the folder holds no run, or one that is over, or another process trains in it.
            CheckpointError: a file cannot be read, or does not fit, or the run was begun with other settings.
        """
        assert self.out is not None
        check_resumable(self.out)
        if self.writes:
            with writing(self.out):
                self._lock(self.out)
        check_resumable(self.out)
        path, log = self.out / "state.json", self.out / "log.jsonl"
        state = parsed(_State, text_of(path, CheckpointError), str(path), CheckpointError)
        self.config = _described(config, budget, about)
        if state.config is not None:
            _check_same(self.config, state.config, self.out / "config.json")
        lines = text_of(log, CheckpointError).splitlines(keepends=True) if state.lines or log.exists() else []
        if len(lines) < state.lines:
            raise CheckpointError(
                f"{log} has {len(lines)} lines, and at the last checkpoint it had {state.lines}: put the others back."
            )
        loaded = load(self.out / Path(state.checkpoint).name, module, optimizer=optimizer, rejuvenator=rejuvenator)
        if self.writes:
            remove_left(self.out)
            write(log, "".join(lines[: state.lines]).encode())
        return loaded, asdict(state)

    def _remove_checkpoints(self, keep: str = "") -> None:
        assert self.out is not None
        remove_left(self.out)
        for path in self.out.glob("checkpoint-*.safetensors"):
            if path.name != keep:
                path.unlink()


def _described(config: RunConfig, budget: Budget | None, about: Mapping[str, Any]) -> dict[str, Any]:
    """The content of config.json, as it is read back."""
    described = {**about, **asdict(config), "budget": None if budget is None else asdict(budget)}
    plain: dict[str, Any] = json.loads(json.dumps(described))
    return plain


def _check_same(config: Mapping[str, Any], begun: Mapping[str, Any], place: Path) -> None:
    """Raises a CheckpointError for a setting that is not the one with which the run was begun."""
    now, then = _flat(config), _flat(begun)
    for name in now.keys() & then.keys() - set(ELSEWHERE):
        if now[name] != then[name]:
            raise CheckpointError(
                f"{place}: {name} is {now[name]!r}, and the run was begun with {then[name]!r}. Put it back, or "
                "train in another folder."
            )


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name, those of a table as table.name."""
    tables = {name: value for name, value in settings.items() if isinstance(value, Mapping)}
    inner = {f"{table}.{name}": value for table, values in tables.items() for name, value in values.items()}
    return {name: value for name, value in settings.items() if name not in tables} | inner


@dataclass(frozen=True)
class Log:
    """A run's log as it was read."""

    epochs: tuple[Epoch, ...]
    events: tuple[EventRecord, ...]


def read_log(out: Path) -> Log:
    """The epochs and events that the run in the folder `out` logged.

    Raises:
        UsageError: there is no log.
        CheckpointError: a line is not one of a run's log.
    """
    path = out / "log.jsonl"
    if not path.is_file():
        raise UsageError(f"{out} holds no run: there is no {path.name} in it.")
    read: dict[str, list[Any]] = {"epoch": [], "event": []}
    for number, line in enumerate(text_of(path, CheckpointError).splitlines(), start=1):
        place = f"{path}, line {number}"
        kind = parsed(_Line, line, place, CheckpointError, extra="ignore").kind
        read[kind].append(parsed(EventRecord if kind == "event" else Epoch, line, place, CheckpointError))
    return Log(tuple(read["epoch"]), tuple(read["event"]))


def _put(path: Path, values: Mapping[str, Any]) -> None:
    write(path, (json.dumps(values, indent=2) + "\n").encode())
