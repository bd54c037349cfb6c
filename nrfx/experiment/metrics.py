"""The numbers of a run for other tools: a CSV file, or TensorBoard's events, beside the log of the run.

Both are watchers of a run (see `nrfx.experiment.record.Watcher`). A run that goes on writes again what it had written
behind its last checkpoint; what was there of it is dropped.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nrfx.choices import LogName
from nrfx.errors import UsageError
from nrfx.experiment.record import Epoch, Watcher
from nrfx.experiment.scores import Scores
from nrfx.files import write, writing
from nrfx.training.events import Event, Measurement

CSV, FOLDER = "metrics.csv", "tensorboard"
HEAD = ("step", "name", "value")


class Watchers:
    """Several watchers, told in order."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def begins(self, forecast: str) -> None:
        """Tells all."""
        for each in self._watchers:
            each.begins(forecast)

    def measured(self, measurement: Measurement) -> None:
        """Tells all."""
        for each in self._watchers:
            each.measured(measurement)

    def rejuvenated(self, event: Event, before: Scores, after: Scores) -> None:
        """Tells all."""
        for each in self._watchers:
            each.rejuvenated(event, before, after)

    def trained(self, epoch: Epoch) -> None:
        """Tells all."""
        for each in self._watchers:
            each.trained(epoch)


class Metrics:
    """A watcher that gives each number to `put` as (step, {name: value})."""

    def __init__(self, put: Callable[[int, Mapping[str, float]], None]) -> None:
        self._put = put
        self._events = 0

    def begins(self, forecast: str) -> None:
        """Nothing."""

    def measured(self, measurement: Measurement) -> None:
        """r, also by params and by flops, and lambda."""
        r = {"r": measurement.r, "r/params": measurement.params.ratio, "r/flops": measurement.flops.ratio}
        self._put(measurement.step, {**r, "lambda": measurement.lam})

    def rejuvenated(self, event: Event, before: Scores, after: Scores) -> None:
        """r ahead of the event, what the network costs behind it, and the validation losses on both sides."""
        self._events += 1
        losses = {"event/loss before": before.recalibrated.loss, "event/loss after": after.recalibrated.loss}
        if before.lagging is not None and after.lagging is not None:
            lagging = {"event/lagging loss before": before.lagging.loss, "event/lagging loss after": after.lagging.loss}
            losses |= lagging
        shares = event.result.before
        r = {"r": event.r, "r/params": shares.params.ratio, "r/flops": shares.flops.ratio}
        cost = {"params": event.result.after.params.total, "flops": event.result.after.flops.total}
        self._put(event.step, {**r, "lambda": 0.0, **cost, **losses, "event": float(self._events)})

    def trained(self, epoch: Epoch) -> None:
        """Losses, errors in percent, and the learning rate."""
        losses = {"loss/train": epoch.loss, "loss/validation": epoch.validation_loss}
        errors = {"error/train": epoch.train_error, "error/validation": epoch.validation_error}
        if epoch.lagging_loss is not None and epoch.lagging_error is not None:
            losses["loss/lagging"], errors["error/lagging"] = epoch.lagging_loss, epoch.lagging_error
        self._put(epoch.step, {**losses, **errors, "lr": epoch.lr, "epoch": float(epoch.epoch)})


def metrics(names: Sequence[LogName], out: Path) -> list[Watcher]:
    """A watcher for each name, that writes into the folder of a run.

    Raises:
        UsageError: TensorBoard is asked for and not installed.
    """
    makers: Mapping[str, Callable[[Path], Watcher]] = {"csv": _csv, "tensorboard": _tensorboard}
    return [makers[name](out) for name in dict.fromkeys(names)]


def _csv(out: Path) -> Metrics:
    path, begun = out / CSV, False

    def put(step: int, values: Mapping[str, float]) -> None:
        nonlocal begun
        if not begun:
            _keep_before(path, step)
            begun = True
        with writing(path), path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows((step, name, repr(value)) for name, value in values.items())

    return Metrics(put)


def _keep_before(path: Path, step: int) -> None:
    """Leaves the lines of earlier steps, below the heading."""
    lines = [",".join(HEAD)]
    if path.is_file():
        numbered = ((line.partition(",")[0], line) for line in path.read_text().splitlines()[1:])
        lines += [line for number, line in numbered if number.isdecimal() and int(number) < step]
    write(path, "".join(f"{line}\n" for line in lines).encode())


def _tensorboard(out: Path) -> Metrics:
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (takes long, and need not be installed)
    except ImportError as error:
        raise UsageError(
            f"--log tensorboard needs TensorBoard, which is not installed here ({error}): pip install tensorboard, or "
            "give --log csv."
        ) from error
    writers: list[Any] = []

    def put(step: int, values: Mapping[str, float]) -> None:
        if not writers:  # the folder of the run is made when the run begins
            writers.append(SummaryWriter(str(out / FOLDER), purge_step=step))
        for name, value in values.items():
            writers[0].add_scalar(name, value, step)
        writers[0].flush()

    return Metrics(put)
