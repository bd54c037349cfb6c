"""The rows of Neural Rejuvenation: a search, an event, the steps behind it; and what its architecture does alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

import nrfx
from benchmarks.study.fashion.loop import Training
from benchmarks.study.fashion.networks import network, shape_of
from benchmarks.study.fashion.plan import BUDGETS, NONE_SPARED, Curve, Task
from nrfx.experiment.data import Dataset
from nrfx.experiment.recipe import RECIPES
from nrfx.plan.budget import Budget
from nrfx.tracing import TracedModule
from nrfx.training.events import Event
from nrfx.training.rejuvenator import Rejuvenator

SOON = (20, 50)
"""Steps behind an event after which the weights are scored, beside every hundredth."""


@dataclass(frozen=True)
class Found:
    """What a row ends with. `event`, `r`, `lam`, `alpha` are those of its last event: 0, r in the end, 0, 1 without."""

    module: TracedModule
    steps: int
    event: int = 0
    events: int = 0
    r: float = 1.0
    lam: float = 0.0
    alpha: float = 1.0


def traced(task: Task) -> TracedModule:
    """The untrained network of the task."""
    return nrfx.trace(network(task.family.partition("-")[0], task.seed), torch.zeros(2, *shape_of(task.family)))


def budget_of(task: Task) -> Budget:
    """Relative to the untrained network, whatever network it is for."""
    return Budget.relative(traced(task), **BUDGETS[task.budget])


def rejuvenated(task: Task, data: Dataset, curve: Curve, row: str | None = None, events: int = 1) -> Found:
    """A row of Table 1: a search up to the event, and all steps that are left behind it."""
    return Search(task, data, curve, row or task.row.removesuffix(NONE_SPARED), events).ended(
        lambda training: task.settings.steps
    )


def restarted(task: Task, data: Dataset, curve: Curve) -> Found:
    """NR in the paper's convention: an event sets the schedule back, so that as many steps follow as in all of BL."""
    return Search(task, data, curve, "NR", 1).ended(lambda training: training.step + task.settings.steps)


def from_scratch(task: Task, data: Dataset, curve: Curve) -> Found:
    """NR-FS with all the steps of plain training behind the search, which then costs nothing."""
    found = Search(task, data, curve, "NR-FS", 1).ended(lambda training: training.step)
    found.module.train()
    training = Training(found.module, data, task.settings, task.seed, curve, task.settings.steps)
    training.steps(task.settings.steps)
    return Found(found.module, training.step, found.event, found.events, found.r, found.lam, found.alpha)


class Search:
    """A Rejuvenator around the training of a row."""

    def __init__(self, task: Task, data: Dataset, curve: Curve, row: str, events: int) -> None:
        how, gm = task.settings, traced(task)
        self.until = int(how.steps * how.until)
        self.training = Training(gm, data, how, task.seed, curve, how.steps, fall_from=None)
        self.seen: list[Event] = []
        self.rejuvenator = Rejuvenator(
            gm,
            self.training.optimizer,
            budget_of(task),
            trigger=how.trigger,
            interval=how.interval,
            delta_lambda=how.delta_lambda,
            max_events=events,
            until=self.until,
            penalty=how.penalty,
            weighted=how.weighted or "alike",
            spare=how.spare,
            raise_lambda=how.raise_lambda,
            on_event=self.seen.append,
            residual=how.residual,
            gamma_new=how.gamma_new,
            rescale_limit=how.rescale_limit,
            cross="zero" if RECIPES[row].scheme == "removed" else how.cross,
            generator=torch.Generator().manual_seed(task.seed),
            **RECIPES[row].options,
        ).attach()

    def ended(self, end: Callable[[Training], int]) -> Found:
        """The search, and the steps behind it up to the one that `end` says once the search is over."""
        training, nr = self.training, self.rejuvenator
        while nr.searching:
            events = nr.events
            training.steps(self.until, partial(self._quiet, events))
            if nr.events > events:
                training.score("e")
                training.rises_from = training.step
        training.fall_from, training.end = training.step, end(training)
        for behind in SOON if self.seen else ():
            training.steps(min(training.fall_from + behind, training.end))
            training.score()
        training.steps(training.end)
        nr.detach()
        if not self.seen:
            return Found(nr.module, training.step, r=nr.last.r if nr.last is not None else 1.0, lam=nr.lam)
        event = self.seen[-1]
        return Found(nr.module, training.step, event.step, len(self.seen), event.r, event.lam, event.result.alpha)

    def _quiet(self, events: int) -> bool:
        """Whether there has been no event since there were so many."""
        return self.rejuvenator.events == events


SEARCHING: Mapping[str, Callable[[Task, Dataset, Curve], Found]] = {
    **dict.fromkeys(("NR", "NR-BR", "NR-CA", "NR-CA-BR", "NR-CR", "NR-IP", "NR-FS"), rejuvenated),
    "NR, up to 2 events": partial(rejuvenated, row="NR", events=2),
    "NR, up to 5 events": partial(rejuvenated, row="NR", events=5),
    "NR restarted": restarted,
    "NR-FS all steps": from_scratch,
}
"""Rows with what was chosen."""

ROWS: Mapping[str, Callable[[Task, Dataset, Curve], Found]] = {
    **SEARCHING,
    "NR as in the paper": partial(rejuvenated, row="NR"),
    **{row + NONE_SPARED: trained for row, trained in SEARCHING.items()},
}
"""Row -> how it is trained."""
