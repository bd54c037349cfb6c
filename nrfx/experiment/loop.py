"""A training loop around the Rejuvenator.

A run is a network, a dataset, a RunConfig and, for Neural Rejuvenation, a budget; without one it is plain training by
the same loop. It can be broken off after any epoch and resumed: it then ends as it would have.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from nrfx.analysis.utilization import utilization
from nrfx.checkpoint import load
from nrfx.errors import CheckpointError, TrainingError
from nrfx.experiment.config import RunConfig, learning_rate
from nrfx.experiment.data import Dataset, Images
from nrfx.experiment.fit import check_fit
from nrfx.experiment.ranks import average_gradients, check_batch, ranks
from nrfx.experiment.record import Epoch, EventRecord, Folder, Silent, Watcher, read_log
from nrfx.experiment.scores import Score, Scores, score, scores
from nrfx.experiment.sparse import Phases, phases, sparse
from nrfx.plan.budget import Budget
from nrfx.rewrite.heads import heads
from nrfx.tracing import TracedModule
from nrfx.training.events import Event
from nrfx.training.processes import Alone
from nrfx.training.rejuvenator import Rejuvenator


@dataclass(frozen=True)
class Run:
    """What came of a run: the network (in eval mode), its log, its events, and its scores on images new to it.

    The scores are those of the network that is saved, as it is, with its own running statistics; those in the log are
    of the network under training (see `nrfx.experiment.scores`).
    """

    module: TracedModule
    epochs: tuple[Epoch, ...]
    events: tuple[EventRecord, ...]
    validation: Score
    test: Score
    params: int
    flops: int
    seconds: float
    note: str

    def numbers(self) -> dict[str, Any]:
        """Costs, events and errors (in percent) as JSON values."""
        return {
            "params": self.params,
            "flops": self.flops,
            "epochs": len(self.epochs),
            "events": [{"step": event.step, "r": event.r, "alpha": event.alpha} for event in self.events],
            "validation_error": self.validation.error,
            "recalibrated_validation_error": self.epochs[-1].validation_error,
            "test_error": self.test.error,
        }


def train(
    gm: TracedModule,
    data: Dataset,
    config: RunConfig,
    budget: Budget | None = None,
    out: Path | None = None,
    watcher: Watcher | None = None,
    resume: bool = False,
    about: Mapping[str, Any] | None = None,
) -> Run:
    """Trains `gm` in place, on the device it lies on, and with a budget rejuvenates it.

    Args:
        gm: a traced classifier of images of the shape of the dataset's.
        data: the test part is only looked at after the last step.
        budget: what the rejuvenated network may cost; None for plain training.
        out: the run's folder, made if absent; None to write nothing.
        resume: go on with the run in `out`, which was broken off after an epoch; all other arguments as at first (`gm`
            is the network as it was before the first step, whatever its weights).
        about: what config.json is to tell beside config and budget.

    Raises:
        UsageError: the folder holds a run already (or none to resume), or network, dataset and config do not fit each
            other.
        TrainingError: the loss is not finite any more, or the network returns more than logits in train mode.
    """
    together = ranks()
    with together.telling("the start of the run"), Folder(out, writes=together.rank == 0) as folder:
        check_fit(gm, data, config)
        check_batch(together, config.batch_size)
        together.spread([*gm.parameters(), *gm.buffers()])
        training = _Training(gm, data, config, budget, watcher or Silent(), folder, together)
        if resume:
            training.resume(budget, about or {})
        else:
            folder.begin(config, budget, about or {})
            training.begin()
        together.agree("the first epoch", {"epoch": training.epoch, "step": training.step})
        if together.rank:  # its images are dropped out in its own way
            torch.manual_seed(config.seed + together.rank * 100_003 + training.epoch)
        return training.run()


def finished(gm: TracedModule, data: Dataset, config: RunConfig, budget: Budget | None, out: Path) -> Run:
    """The run that is over in the folder `out`, as `train` returned it.

    Args: as for `train`; `gm` is the network as it was before the first step, whatever its weights.

    Raises:
        CheckpointError: a file of the run cannot be read, or does not fit.
    """
    training = _Training(gm, data, config, budget, Silent(), Folder(None), Alone())
    training.reload(out)
    return training.result()


class _Training:
    """A run under way."""

    def __init__(
        self,
        gm: TracedModule,
        data: Dataset,
        config: RunConfig,
        budget: Budget | None,
        watcher: Watcher,
        folder: Folder,
        together: Alone,
    ) -> None:
        self.config, self.watcher, self.folder, self.together = config, watcher, folder, together
        device = next(gm.parameters()).device
        self.parts = {part: getattr(data, part).to(device) for part in ("train", "validation", "test")}
        self.per_epoch = len(data.train) // config.batch_size
        self.generator = torch.Generator().manual_seed(config.seed)
        self.new_weights = torch.Generator(device).manual_seed(config.seed)
        self.optimizer = optimizer_of(gm, config)
        self.plain = gm
        self.rejuvenator = None if budget is None else self._rejuvenator(gm, budget)
        self.epoch = self.step = self.start = 0
        self.fall_from = None if self.rejuvenator else 0
        self.searched = None if self.rejuvenator else 0  # the epoch in which the search ended
        self.last_event: int | None = None  # its step
        self.epochs: list[Epoch] = []
        self.events: list[EventRecord] = []
        self.earlier = 0.0  # seconds before the run was resumed

    def _rejuvenator(self, gm: TracedModule, budget: Budget) -> Rejuvenator:
        whole = self.config.epochs * self.per_epoch
        until = min(self.config.until or max(1, round(whole * self.config.search)), whole)
        return Rejuvenator(
            gm,
            self.optimizer,
            budget,
            trigger=self.config.trigger,
            interval=self.config.interval or min(self.per_epoch, max(until // 20, 1)),
            delta_lambda=self.config.delta_lambda,
            delta_r=self.config.delta_r,
            max_events=self.config.max_events,
            penalty=self.config.penalty,
            weighted=self.config.weighted,
            spare=self.config.spare,
            raise_lambda=self.config.raise_lambda,
            shrink_beta=self.config.shrink_beta,
            until=until,
            scheme=self.config.scheme,
            rescale=self.config.rescale,
            reallocate=self.config.reallocate,
            reinitialize=self.config.reinitialize,
            gamma_new=self.config.gamma_new,
            rescale_limit=self.config.rescale_limit,
            cross=self.config.cross,
            generator=self.new_weights,
            inplace=False,  # an event is scored before and after
        )

    @property
    def module(self) -> TracedModule:
        return self.plain if self.rejuvenator is None else self.rejuvenator.module

    @property
    def last(self) -> int:
        """The epoch with which the run ends, as far as is known."""
        return self.start // self.per_epoch + self.config.epochs

    def begin(self) -> None:
        self.folder.checkpoint(self._state(), self.module, self.optimizer, self.rejuvenator)
        if self.rejuvenator is not None:
            self.watcher.begins(self.rejuvenator.forecast)

    def run(self) -> Run:
        start = time.perf_counter()
        while self.epoch < self.last:
            self.epoch += 1
            self._epoch(start)
            if self.epoch < self.last:
                self.folder.checkpoint(self._state(), self.module, self.optimizer, self.rejuvenator)
        self.module.eval()
        self.folder.end(self.module, self.optimizer, self.rejuvenator)
        self.earlier += time.perf_counter() - start
        return self.result()

    def result(self) -> Run:
        """What came of the run, when it is over."""
        cost = utilization(self.module)
        return Run(
            module=self.module,
            epochs=tuple(self.epochs),
            events=tuple(self.events),
            validation=score(self.module, self.parts["validation"]),
            test=score(self.module, self.parts["test"]),
            params=cost.params.total,
            flops=cost.flops.total,
            seconds=self.earlier,
            note=" ".join(self._notes()),
        )

    def _notes(self) -> Iterator[str]:
        """What was asked for and did not happen."""
        if self.rejuvenator is not None and self.rejuvenator.note:
            yield self.rejuvenator.note
        if self.config.dsd > 0:
            masked = Phases(1, 0) if self.searched is None else phases(self.searched, self.last)
            if masked.last < masked.first:
                yield "No epoch was sparse: fewer than four were left when the search had ended."

    def _epoch(self, start: float) -> None:
        masked = self.config.dsd > 0 and self.searched is not None and self.epoch in phases(self.searched, self.last)
        self.module.train()
        with sparse(self.module, self.config.dsd) if masked else nullcontext():
            loss, wrong, lam = self._pass()
        if self.searched is None and self.rejuvenator is not None and not self.rejuvenator.searching:
            self.searched = self.epoch
        seen, alive = self._scores(self.module), utilization(self.module)
        epoch = Epoch(
            epoch=self.epoch,
            step=self.step,
            loss=loss / self.per_epoch,
            train_error=100 * wrong / (self.per_epoch * self.config.batch_size),
            validation_loss=seen.recalibrated.loss,
            validation_error=seen.recalibrated.error,
            r_params=alive.params.ratio,
            r_flops=alive.flops.ratio,
            lam=lam,
            lr=self.optimizer.param_groups[0]["lr"],
            seconds=self.earlier + time.perf_counter() - start,
            epochs=self.last,
            lagging_loss=seen.lagging_loss,
            lagging_error=seen.lagging_error,
        )
        self.epochs.append(epoch)
        self.folder.line("epoch", asdict(epoch))
        self.watcher.trained(epoch)

    def _scores(self, module: TracedModule) -> Scores:
        return scores(module, self.parts["train"], self.parts["validation"], self.config)

    def _pass(self) -> tuple[float, int, float]:
        """One epoch of steps: the sum of the losses, the number of wrong answers, and the last lambda."""
        losses, wrong = [], []
        passed = self.parts["train"].shuffled(
            *(self.config.batch_size, self.generator, self.config.shift, self.config.flip),
            (self.together.rank, self.together.size),
        )
        for batch in passed:
            loss, mistakes = self._step(batch)
            losses.append(loss)
            wrong.append(mistakes)
        seen = torch.stack([torch.stack(losses).sum().double(), torch.stack(wrong).sum().double()])
        self.together.average(seen)
        self.together.spread(self.module.buffers())  # batches of their own gave each its own statistics
        total, mistaken = seen.tolist()
        if not math.isfinite(total):
            raise TrainingError(
                f"The loss was not finite before step {self.step}: lower the learning rate ({self.config.lr}) or "
                f"delta_lambda ({self.config.delta_lambda})."
            )
        acts = self.rejuvenator is not None and self.rejuvenator.searching
        return total, round(mistaken * self.together.size), self.rejuvenator.lam if self.rejuvenator and acts else 0.0

    def _step(self, batch: Images) -> tuple[Tensor, Tensor]:
        rate = learning_rate(self.config, self.step, self.per_epoch, self.start, self.fall_from, self.last_event)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.step += 1
        outputs = logits_of(self.module, batch.x)
        loss = torch.stack([F.cross_entropy(output, batch.y) for output in outputs]).sum()
        self.optimizer.zero_grad()
        loss.backward()
        average_gradients(self.together, self.module)
        if self.rejuvenator is not None:
            self.rejuvenator.penalize()
        self.optimizer.step()
        if self.rejuvenator is not None:
            self._monitor(self.rejuvenator)
        return loss.detach(), (torch.stack(outputs).sum(0).argmax(1) != batch.y).sum()

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
        self.fall_from = self.last_event = self.step
        if self.config.restart:
            self.start = self.fall_from = math.ceil(self.step / self.per_epoch) * self.per_epoch
        self.together.spread(old.buffers())  # which nobody trains any more
        before, after = (self._scores(module) for module in (old, self.module))
        record = EventRecord.of(event, self.epoch, before, after)
        self.events.append(record)
        self.folder.line("event", asdict(record))
        self.watcher.rejuvenated(event, before, after)

    # Broken off and resumed

    def _state(self) -> dict[str, Any]:
        """What is not in the checkpoint of network, optimizer and rejuvenator, as JSON values."""
        counters = {name: getattr(self, name) for name in COUNTERS}
        states = {"order": self.generator.get_state(), "new_weights": self.new_weights.get_state()}
        random = {**states, "torch": torch.get_rng_state()}
        return {**counters, "random": {name: bytes(state.tolist()).hex() for name, state in random.items()}}

    def reload(self, out: Path) -> None:
        """Puts the run where it was when it had ended."""
        module = load(out / "model.safetensors", self.plain, optimizer=self.optimizer, rejuvenator=self.rejuvenator)
        if self.rejuvenator is None:
            self.plain = module
        self._read_log(out)
        self.epoch = len(self.epochs)

    def resume(self, budget: Budget | None, about: Mapping[str, Any]) -> None:
        """Puts the run where its last checkpoint was."""
        assert self.folder.out is not None, "a run without a folder cannot be resumed"
        module, state = self.folder.resume(self.plain, self.optimizer, self.rejuvenator, self.config, budget, about)
        if self.rejuvenator is None:
            self.plain = module
        try:
            for name in COUNTERS:
                setattr(self, name, state[name])
            random = {
                name: torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
                for name, text in state["random"].items()
            }
            self.generator.set_state(random["order"])
            self.new_weights.set_state(random["new_weights"])
            torch.set_rng_state(random["torch"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self.folder.out / 'state.json'} is not the state of a run: {error!r}.") from error
        self._read_log(self.folder.out)
        if [epoch.epoch for epoch in self.epochs] != [*range(1, self.epoch + 1)]:
            raise CheckpointError(
                f"{self.folder.out / 'state.json'}: epoch is {self.epoch}, and log.jsonl has {len(self.epochs)} "
                "epochs: put back the files as they were."
            )

    def _read_log(self, out: Path) -> None:
        log = read_log(out)
        self.epochs, self.events = list(log.epochs), list(log.events)
        self.earlier = self.epochs[-1].seconds if self.epochs else 0.0


COUNTERS = ("epoch", "step", "start", "fall_from", "searched", "last_event")
"""The attributes of a run under way that a resumed one needs."""


def logits_of(module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """What each head of a network says of the images; the network says their sum.

    Raises:
        TrainingError: the network returns something else beside.
    """
    outputs: tuple[Tensor, ...] = heads(module)(x)
    if not all(isinstance(output, Tensor) for output in outputs):
        raise TrainingError(
            "In train mode the network returns more than logits (auxiliary heads): build it without them, or write "
            "the loop around nrfx.Rejuvenator yourself."
        )
    return outputs


def optimizer_of(gm: nn.Module, config: RunConfig) -> Optimizer:
    """The optimizer that a config asks for."""
    if config.optimizer == "adamw":
        return AdamW(gm.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    return SGD(gm.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
