"""The arguments of a Rejuvenator, checked: each error names the argument, its value, and a value to give instead."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from math import inf
from typing import Any, get_args

from nrfx.analysis.meter import MeterReading
from nrfx.choices import PenaltyName, RaiseLambda, Spare, Weighted
from nrfx.errors import TrainingError
from nrfx.plan.budget import Budget
from nrfx.plan.options import Options
from nrfx.rewrite.rejuvenate import rejuvenate
from nrfx.training.restart import check_restartable


def check_search(trigger: float, interval: int, max_events: int | None, until: int | None, raise_lambda: str) -> None:
    """Raises TrainingError for the first argument of a search that is out of range, none of its choices, or alone."""
    if isinstance(trigger, bool) or not isinstance(trigger, int | float) or not 0 < trigger <= 1:
        raise TrainingError(f"trigger is {trigger!r}; expected a utilization above 0 and up to 1, such as 0.5.")
    for name, value in {"interval": interval, "max_events": max_events, "until": until}.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise TrainingError(f"{name} is {value!r}; expected a whole number of 1 or more.")
    if until is not None and until < interval:
        raise TrainingError(
            f"until is {until}, before the first measurement at step {interval}: make the interval shorter."
        )
    _check_choice("raise_lambda", raise_lambda, RaiseLambda)
    if raise_lambda == "late" and until is None:
        raise TrainingError("raise_lambda is 'late', and the search has no end to be late for: give until=.")


def check_pull(penalty: str, weighted: str, spare: str, shrink_beta: float) -> None:
    """Raises TrainingError for the first argument of the penalty that is out of range, or none of its choices."""
    _check_choice("penalty", penalty, PenaltyName)
    _check_choice("weighted", weighted, Weighted)
    _check_choice("spare", spare, Spare)
    if isinstance(shrink_beta, bool) or not isinstance(shrink_beta, int | float) or not 0 <= shrink_beta < inf:
        raise TrainingError(f"shrink_beta is {shrink_beta!r}; expected 0, or a positive number such as 1.0.")


def _check_choice(name: str, value: object, names: Any) -> None:
    allowed = get_args(names)
    if value not in allowed:
        raise TrainingError(f"{name} is {value!r}; expected {' or '.join(map(repr, allowed))}.")


def check_processes(group: Any, wait: float) -> None:
    """Raises TrainingError for a group of processes that is none, or a time to wait that is out of range."""
    if not (group is None or group == "alone" or (hasattr(group, "rank") and hasattr(group, "size"))):
        raise TrainingError(
            f'process_group is {group!r}; expected a group of torch.distributed, None for the default one, or "alone".'
        )
    if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 < wait < inf:
        raise TrainingError(f"wait is {wait!r}; expected seconds above 0, such as 20.0.")


def check_objects(budget: Any, optimizers: tuple[Any, ...], scheduler: Any, calibration: Any, on_event: Any) -> None:
    """Raises TrainingError for the first object of another class, or one that does not go with the others."""
    if not isinstance(budget, Budget):
        raise TrainingError(f"budget is {budget!r}; expected nrfx.Budget, such as Budget.relative(gm, params=1.0).")
    for optimizer in optimizers:
        if type(optimizer).__name__ == "ZeroRedundancyOptimizer":
            raise TrainingError(
                "ZeroRedundancyOptimizer keeps the state of each parameter in one process alone, so that an event "
                "cannot carry it over: use torch.distributed.fsdp.fully_shard, or a plain optimizer in every process."
            )
    if calibration is not None and (isinstance(calibration, Iterator) or not isinstance(calibration, Iterable)):
        raise TrainingError(
            f"calibration is {calibration!r}; expected a list of batches, which every event can go through anew."
        )
    if on_event is not None and not callable(on_event):
        raise TrainingError(f"on_event is {on_event!r}; expected a function of an nrfx.Event.")
    if scheduler is not None:
        check_restartable(scheduler)
        if not any(scheduler.optimizer is optimizer for optimizer in optimizers):
            raise TrainingError(
                f"The {type(scheduler).__name__} belongs to another optimizer: build it over the one that is given."
            )


def checked_options(options: Mapping[str, Any], others: Iterable[str] = ()) -> Options:
    """The options of `nrfx.rejuvenate` as one value.

    others: names that may have been meant too.

    Raises:
        TrainingError: `nrfx.rejuvenate` has no option of that name.
        AnalysisError: an option has a value that it does not take.
    """
    known = set(inspect.signature(rejuvenate).parameters) - {"gm", "budget", "example_inputs"}
    if unknown := sorted(options.keys() - known):
        close = get_close_matches(unknown[0], [*known, *others])
        hint = f" (close to it: {', '.join(close)})" if close else ""
        raise TrainingError(f"unknown option {unknown[0]!r}{hint}; nrfx.rejuvenate takes {', '.join(sorted(known))}.")
    checked = Options(**options)
    checked.validate()
    return checked


def check_room(budget: Budget, trigger: float, now: MeterReading) -> None:
    """Raises TrainingError for a budget below trigger * cost: about as much is alive at an event, and must fit."""
    for measure in ("params", "flops"):
        bound, total = getattr(budget, measure), getattr(now, measure).total
        alive = int(trigger * total)
        if bound is not None and bound < alive:
            raise TrainingError(
                f"At the trigger of {trigger}, {alive:,} of the network's {total:,} {measure} are alive: more than the "
                f"budget of {bound:,}. Lower the trigger below {bound / total:.2g} or raise the budget."
            )
