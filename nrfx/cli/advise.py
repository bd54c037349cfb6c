"""Advice as the command line asks for it: the options of a training, without its length, and those of a search."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from nrfx.cli import train
from nrfx.experiment.advise import STEPS, advise
from nrfx.experiment.datasets import dataset
from nrfx.plan.advice import Advice
from nrfx.plan.budget_request import parse_budget
from nrfx.tracing import TracedModule

BUDGET = "params=1.0x"
"""What is tried where no budget is asked for."""

NOT_ASKED = dict.fromkeys((*train.SETTINGS, *train.DATA, *train.OF_A_SEARCH, "row"))
"""The options of `nrfx train` that `nrfx advise` has not, as if they were not given."""


def asked(options: Mapping[str, Any]) -> train.Job:
    """The training that is to be judged.

    Raises:
        UsageError: there is neither a model nor a recipe, or options contradict each other.
    """
    budget = options["budget"] or (None if options["recipe"] else BUDGET)
    return train.asked({**NOT_ASKED, **options, "budget": budget})


def carry_out(job: train.Job, options: Mapping[str, Any]) -> Advice:
    """Searches, tries, and shows on stderr, if that is a terminal, how far it is.

    Raises:
        NrfxError: something is not there, does not fit, or is out of range.
    """
    config, device = job.recipe.config, options["device"]
    data = dataset(job.recipe.data, config.seed)
    given = {name: value for name in ("steps", "seeds", "delta_lambda") if (value := options[name]) is not None}

    def build(seed: int) -> TracedModule:
        torch.manual_seed(seed)
        return train.on_device(train.network(job, data), device)

    budget = parse_budget(job.recipe.budget).of(build(config.seed))
    with _watched(given.get("steps", STEPS)) as watch:
        return advise(build, data, config, budget, trial=options["trial"], watch=watch, **given)


@contextmanager
def _watched(steps: int) -> Iterator[Callable[[str, int], None]]:
    """A bar on stderr, which moves with every step."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=steps)
        yield lambda what, step: bar.update(task, description=what, completed=step)
