"""A training loop around the Rejuvenator, for images that fit in memory.

A run is a network, a dataset, a RunConfig and, for Neural Rejuvenation, a budget; without one it is plain training by
the same loop. Its folder holds config.json, log.jsonl (a line per epoch and per event) and model.safetensors.
"""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from nrfx.budget import Budget
from nrfx.checkpoint import save
from nrfx.errors import TrainingError, UsageError
from nrfx.rejuvenate import Scheme
from nrfx.trace import TracedModule
from nrfx.training.data import Dataset, Images, batches
from nrfx.training.rejuvenator import Event, Measurement, Rejuvenator
from nrfx.utilization import utilization

OptimizerName = Literal["sgd", "adamw"]


@dataclass(frozen=True)
class RunConfig:
    """How a run trains.

    Args:
        epochs: passes over the training part.
        batch_size: images a step; an incomplete last batch is dropped.
        lr: the learning rate of the search; without a search, and after it, it falls to 0 along a half cosine.
        optimizer: "sgd" or "adamw".
        momentum: of SGD.
        weight_decay: of either.
        shift: pixels by which images are moved at random.
        seed: of the order of the images and of new weights.
        trigger, delta_lambda, delta_r, max_events, shrink_beta: see Rejuvenator.
        interval: steps between two measurements; None for an epoch, or the whole search if that is shorter.
        search: the fraction of the epochs in which a rejuvenation may happen.
        scheme, rescale: see nrfx.rejuvenate.

    Raises:
        TrainingError: a value is out of range.
    """

    epochs: int = 30
    batch_size: int = 16
    lr: float = 0.02
    optimizer: OptimizerName = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    shift: int = 1
    seed: int = 0
    trigger: float = 0.5
    interval: int | None = None
    delta_lambda: float = 5e-5
    delta_r: float = 0.01
    max_events: int = 1
    shrink_beta: float = 0.0
    search: float = 0.5
    scheme: Scheme = "attention"
    rescale: bool = True

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise TrainingError(f"{name} is {value!r}; expected a positive number.")
        if not 0 < self.search <= 1:
            raise TrainingError(f"search is {self.search!r}; expected a fraction of the epochs above 0 and up to 1.")
        if self.optimizer not in get_args(OptimizerName):
            raise TrainingError(f"optimizer is {self.optimizer!r}; expected {' or '.join(get_args(OptimizerName))}.")


@dataclass(frozen=True)
class Epoch:
    """An epoch as it is logged. Errors in percent; r of the network as it stands; lam and lr of its last step."""

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
class Run:
    """What came of a run: the network (in eval mode), its log, its events, and its scores on images new to it."""

    module: TracedModule
    epochs: tuple[Epoch, ...]
    events: tuple[Event, ...]
    validation: Score
    test: Score
    params: int
    flops: int
    seconds: float
    note: str


class Watcher(Protocol):
    """Who is told what happens during a run, as it happens."""

    def measured(self, measurement: Measurement) -> None:
        """The utilization was measured."""

    def rejuvenated(self, event: Event, before: Score, after: Score) -> None:
        """The network was rejuvenated; the scores are those of the validation part, on both sides of it."""

    def trained(self, epoch: Epoch) -> None:
        """An epoch is over."""


class Silent:
    """A watcher that says nothing."""

    def measured(self, measurement: Measurement) -> None:
        """Nothing."""

    def rejuvenated(self, event: Event, before: Score, after: Score) -> None:
        """Nothing."""

    def trained(self, epoch: Epoch) -> None:
        """Nothing."""


def train(
    gm: TracedModule,
    data: Dataset,
    config: RunConfig,
    budget: Budget | None = None,
    out: Path | None = None,
    watcher: Watcher | None = None,
) -> Run:
    """Trains `gm` in place, on the device it lies on, and with a budget rejuvenates it.

    Args:
        gm: a traced classifier of images of the shape of the dataset's.
        data: the test part is only looked at after the last step.
        budget: what the rejuvenated network may cost; None for plain training.
        out: the run's folder, made if absent; None to write nothing.

    Raises:
        UsageError: the folder holds a run already, or network, dataset and config do not fit each other.
        TrainingError: the loss is not finite any more, or the network returns more than logits in train mode.
    """
    _check_fit(gm, data, config)
    if out is not None:
        check_free(out)
    log = _Log(out, config, budget)
    return _Training(gm, data, config, budget, watcher or Silent(), log).run()


@torch.no_grad()
def score(module: nn.Module, images: Images, size: int = 512) -> Score:
    """How well the module classifies images in eval mode; its mode is put back afterwards."""
    was_training = module.training
    module.eval()
    logits = torch.cat([module(x) for x in images.x.split(size)])
    module.train(was_training)
    wrong = (logits.argmax(1) != images.y).sum()
    return Score(float(F.cross_entropy(logits, images.y)), int(wrong), len(images))


def learning_rate(config: RunConfig, step: int, total: int, fall_from: int | None) -> float:
    """The learning rate of a step: `config.lr`, and from step `fall_from` on a half cosine down to 0 at `total`.

    >>> config = RunConfig(lr=0.8)
    >>> [round(learning_rate(config, step, 100, fall_from=20), 3) for step in (0, 20, 60, 100)]
    [0.8, 0.8, 0.4, 0.0]
    """
    if fall_from is None or step <= fall_from:
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - fall_from) / (total - fall_from)))


def check_free(out: Path) -> None:
    """Raises UsageError where a run's folder holds a run already, or is a file."""
    if (out / "log.jsonl").exists() or out.is_file():
        found = "is a file" if out.is_file() else "holds a run already"
        raise UsageError(f"{out} {found}: choose another folder, or remove it.")


def _check_fit(gm: TracedModule, data: Dataset, config: RunConfig) -> None:
    if len(data.train) < config.batch_size:
        raise UsageError(
            f"A batch of {config.batch_size} is larger than the training part of {data.name}: {len(data.train)} images."
        )
    wanted, found = list(gm.inputs[0][0][1:]), list(data.train.x.shape[1:])
    if wanted != found:
        raise UsageError(
            f"The network was traced for images of {wanted}, and {data.name} has {found}: make one fit the other."
        )
    output = next(iter(reversed(gm.graphs["eval"].nodes))).meta["val"]
    logits = output.shape if isinstance(output, Tensor) else None
    if logits is None or len(logits) != 2 or logits[1] < data.classes:
        described = "something else" if logits is None else f"{list(logits)}"
        raise UsageError(f"{data.name} needs logits [N, {data.classes}], and the network returns {described}.")


class _Log:
    """The files of a run; none if there is no folder."""

    def __init__(self, out: Path | None, config: RunConfig, budget: Budget | None) -> None:
        self.out = out
        if out is None:
            return
        out.mkdir(parents=True, exist_ok=True)
        described = {**asdict(config), "budget": None if budget is None else asdict(budget)}
        (out / "config.json").write_text(json.dumps(described, indent=2) + "\n")

    def line(self, kind: str, values: dict[str, Any]) -> None:
        if self.out is not None:
            with (self.out / "log.jsonl").open("a") as file:
                file.write(json.dumps({"kind": kind, **values}) + "\n")

    def model(self, module: TracedModule, optimizer: Optimizer, rejuvenator: Rejuvenator | None) -> None:
        if self.out is not None:
            save(self.out / "model.safetensors", module, optimizer=optimizer, rejuvenator=rejuvenator)


class _Training:
    """A run under way."""

    def __init__(
        self, gm: TracedModule, data: Dataset, config: RunConfig, budget: Budget | None, watcher: Watcher, log: _Log
    ) -> None:
        self.config, self.watcher, self.log = config, watcher, log
        device = next(gm.parameters()).device
        self.parts = {part: getattr(data, part).to(device) for part in ("train", "validation", "test")}
        self.per_epoch = len(data.train) // config.batch_size
        self.total = config.epochs * self.per_epoch
        self.generator = torch.Generator().manual_seed(config.seed)
        self.optimizer = _optimizer(gm, config)
        self.plain = gm
        self.rejuvenator = None if budget is None else self._rejuvenator(gm, budget)
        self.fall_from = None if self.rejuvenator else 0
        self.step = 0
        self.events: list[Event] = []

    def _rejuvenator(self, gm: TracedModule, budget: Budget) -> Rejuvenator:
        until = max(1, int(self.total * self.config.search))
        return Rejuvenator(
            gm,
            self.optimizer,
            budget,
            trigger=self.config.trigger,
            interval=self.config.interval or min(self.per_epoch, until),
            delta_lambda=self.config.delta_lambda,
            delta_r=self.config.delta_r,
            max_events=self.config.max_events,
            shrink_beta=self.config.shrink_beta,
            until=until,
            scheme=self.config.scheme,
            rescale=self.config.rescale,
            generator=torch.Generator(next(gm.parameters()).device).manual_seed(self.config.seed),
        )

    @property
    def module(self) -> TracedModule:
        return self.plain if self.rejuvenator is None else self.rejuvenator.module

    def run(self) -> Run:
        start = time.perf_counter()
        epochs = tuple(self._epochs(start))
        self.module.eval()
        self.log.model(self.module, self.optimizer, self.rejuvenator)
        cost = utilization(self.module)
        return Run(
            module=self.module,
            epochs=epochs,
            events=tuple(self.events),
            validation=score(self.module, self.parts["validation"]),
            test=score(self.module, self.parts["test"]),
            params=cost.params.total,
            flops=cost.flops.total,
            seconds=time.perf_counter() - start,
            note=self.rejuvenator.note if self.rejuvenator else "",
        )

    def _epochs(self, start: float) -> Iterator[Epoch]:
        for number in range(1, self.config.epochs + 1):
            self.module.train()
            loss, wrong, lam = self._pass()
            seen = self.per_epoch * self.config.batch_size
            validation, alive = score(self.module, self.parts["validation"]), utilization(self.module)
            epoch = Epoch(
                epoch=number,
                step=self.step,
                loss=loss / self.per_epoch,
                train_error=100 * wrong / seen,
                validation_loss=validation.loss,
                validation_error=validation.error,
                r_params=alive.params.ratio,
                r_flops=alive.flops.ratio,
                lam=lam,
                lr=self.optimizer.param_groups[0]["lr"],
                seconds=time.perf_counter() - start,
            )
            self.log.line("epoch", asdict(epoch))
            self.watcher.trained(epoch)
            yield epoch

    def _pass(self) -> tuple[float, int, float]:
        """One epoch of steps: the sum of the losses, the number of wrong answers, and the last lambda."""
        losses, wrong = [], []
        for batch in batches(self.parts["train"], self.config.batch_size, self.generator, self.config.shift):
            loss, mistakes = self._step(batch)
            losses.append(loss)
            wrong.append(mistakes)
        total = float(torch.stack(losses).sum())
        if not math.isfinite(total):
            raise TrainingError(
                f"The loss was not finite before step {self.step}: lower the learning rate ({self.config.lr}) or "
                f"delta_lambda ({self.config.delta_lambda})."
            )
        return total, int(torch.stack(wrong).sum()), self.rejuvenator.lam if self.rejuvenator else 0.0

    def _step(self, batch: Images) -> tuple[Tensor, Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step, self.total, self.fall_from)
        self.step += 1
        logits = self.module(batch.x)
        if not isinstance(logits, Tensor):
            raise TrainingError(
                "In train mode the network returns more than logits (auxiliary heads): build it without them, or write "
                "the loop around nrfx.Rejuvenator yourself."
            )
        loss = F.cross_entropy(logits, batch.y)
        self.optimizer.zero_grad()
        loss.backward()
        if self.rejuvenator is not None:
            self.rejuvenator.penalize()
        self.optimizer.step()
        if self.rejuvenator is not None:
            self._monitor(self.rejuvenator)
        return loss.detach(), (logits.argmax(1) != batch.y).sum()

    def _monitor(self, rejuvenator: Rejuvenator) -> None:
        before = rejuvenator.module
        seen = rejuvenator.step()
        if isinstance(seen, Event):
            self._rejuvenated(seen, before)
        elif seen is not None:
            self.watcher.measured(seen)
        if self.fall_from is None and not rejuvenator.searching:
            self.fall_from = self.step

    def _rejuvenated(self, event: Event, old: TracedModule) -> None:
        self.events.append(event)
        self.fall_from = self.step
        scores = [score(module, self.parts["validation"]) for module in (old, self.module)]
        self.log.line("event", {
            "step": event.step,
            "r": event.r,
            "lam": event.lam,
            "alpha": event.result.alpha,
            "params": event.result.after.params.total,
            "flops": event.result.after.flops.total,
            "validation_loss_before": scores[0].loss,
            "validation_loss_after": scores[1].loss,
            "notes": event.result.notes,
        })  # fmt: skip
        self.watcher.rejuvenated(event, *scores)


def _optimizer(gm: TracedModule, config: RunConfig) -> Optimizer:
    if config.optimizer == "adamw":
        return AdamW(gm.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    return SGD(gm.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
