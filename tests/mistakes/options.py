"""Budgets, options and training set-ups out of range."""

import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

import nrfx
from nrfx.errors import AnalysisError, BudgetError, TraceError, TrainingError
from nrfx.plan.budget_request import parse_budget
from tests.mistakes.broken import X, full, plain, rejuvenated, rejuvenator, sgd, stepped, traced, with_number
from tests.mistakes.row import row
from tests.training.unknown import Unknown


def asked_for(budget: Any) -> Callable[[Any], object]:
    return lambda gm: nrfx.rejuvenate(gm, budget)


BUDGETS = {
    "a budget that is a number": row(
        traced, asked_for(10**6), AnalysisError, "budget is 1000000", "nrfx.Budget(params=...)"
    ),
    "a budget that is text": row(traced, asked_for("1.0x"), AnalysisError, "budget is '1.0x'", "Budget.relative"),
    "no budget": row(traced, asked_for(None), AnalysisError, "budget is None", "nrfx.Budget"),
    "an empty budget": row(traced, lambda gm: nrfx.Budget(), BudgetError, "needs params=, flops= or both"),
    "a budget of 0": row(traced, lambda gm: nrfx.Budget(params=0), BudgetError, "params=0", "positive integer"),
    "a negative budget": row(traced, lambda gm: nrfx.Budget(flops=-1), BudgetError, "flops=-1", "positive integer"),
    "a budget that is a fraction": row(
        traced, lambda gm: nrfx.Budget(params=0.5), BudgetError, "params=0.5", "Budget.relative"
    ),
    "a budget that is True": row(traced, lambda gm: nrfx.Budget(params=True), BudgetError, "params=True"),
    "a relative budget that is text": row(
        traced, lambda gm: nrfx.Budget.relative(gm, params="1.0x"), BudgetError, "params='1.0x'", "such as 1.0"
    ),
    "a relative budget that is NaN": row(
        traced, lambda gm: nrfx.Budget.relative(gm, flops=math.nan), BudgetError, "flops=nan"
    ),
    "a relative budget of nothing": row(
        traced, lambda gm: nrfx.Budget.relative(gm, params=1e-9), BudgetError, "params=1e-09", "3,205 is less than 1"
    ),
    "a budget of a network without parameters": row(
        lambda: nrfx.trace(nn.Identity(), X), full, BudgetError, "params=1.0 of the network's 0"
    ),
    "a budget below what lives": row(
        traced, asked_for(nrfx.Budget(params=10)),
        BudgetError, "live channels alone cost 1,713 params", "10 params", "larger budget"
    ),
    "a budget of a name": row(traced, lambda gm: nrfx.Budget.relative("resnet18", params=1.0), TraceError, "got a str"),
    "a budget on the command line without a measure": row(
        traced, lambda gm: parse_budget("1.0x"), BudgetError, "'1.0x'", "expected params=..., flops=..."
    ),
    "a budget on the command line of infinity": row(
        traced, lambda gm: parse_budget("params=infx"), BudgetError, "params=infx"
    ),
}  # fmt: skip

OPTIONS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "threshold 1.5": ({"threshold": 1.5}, ("threshold is 1.5", "[0, 1)")),
    "threshold NaN": ({"threshold": math.nan}, ("threshold is nan", "[0, 1)")),
    "threshold as text": ({"threshold": "0.01"}, ("threshold is '0.01'",)),
    "an unknown residual": ({"residual": "loose"}, ("residual is 'loose'", "live, fixed, coupled")),
    "an unknown scheme": ({"scheme": "NR-CA"}, ("scheme is 'NR-CA'", "'attention', 'dense', 'removed'")),
    "an unknown reinitialize": ({"reinitialize": "none"}, ("reinitialize is 'none'", "'rejuvenated', 'all'")),
    "round_to 0": ({"round_to": 0}, ("round_to is 0", "integer >= 1")),
    "round_to 1.5": ({"round_to": 1.5}, ("round_to is 1.5",)),
    "gamma0 0": ({"gamma0": 0}, ("gamma0 is 0", "positive number")),
    "gamma0 NaN": ({"gamma0": math.nan}, ("gamma0 is nan",)),
    "gamma_new -1": ({"gamma_new": -1.0}, ("gamma_new is -1.0", "a positive number")),
    "rescale_limit 1": ({"rescale_limit": 1}, ("rescale_limit is 1", "a factor above 1")),
    "an unknown cross": ({"cross": "random"}, ("cross is 'random'", "'zero', 'drawn'")),
    "cross weights that are drawn and removed": (
        {"cross": "drawn", "scheme": "removed"},
        ("cross is 'drawn'", 'scheme "attention" or "dense"'),
    ),
    "rescale as text": ({"rescale": "no"}, ("rescale is 'no'", "True or False")),
    "a seed for a generator": ({"generator": 0}, ("generator is 0", "torch.Generator()")),
    "a device for a generator": ({"generator": "cuda"}, ("generator is 'cuda'",)),
}


def taking(options: dict[str, Any], take: Callable[..., object]) -> Callable[[Any], object]:
    return lambda gm: take(gm, **options)


REFUSED_OPTIONS = {
    f"{name}, in {where}": row(traced, taking(options, take), AnalysisError, *words)
    for name, (options, words) in OPTIONS.items()
    for where, take in {"rejuvenate": rejuvenated, "a Rejuvenator": rejuvenator}.items()
}

TRAINING = {
    "a trigger of 0": row(traced, lambda gm: rejuvenator(gm, trigger=0), TrainingError, "trigger is 0", "such as 0.5"),
    "a trigger of 2": row(traced, lambda gm: rejuvenator(gm, trigger=2), TrainingError, "trigger is 2", "up to 1"),
    "an interval of 0": row(
        traced, lambda gm: rejuvenator(gm, interval=0), TrainingError, "interval is 0", "1 or more"
    ),
    "an interval of True": row(traced, lambda gm: rejuvenator(gm, interval=True), TrainingError, "interval is True"),
    "an end before the first measurement": row(
        traced, lambda gm: rejuvenator(gm, until=5), TrainingError, "until is 5", "step 1000", "interval shorter"
    ),
    "a delta_lambda below 0": row(
        traced, lambda gm: rejuvenator(gm, delta_lambda=-1), TrainingError, "delta_lambda is -1"
    ),
    "a delta_lambda as text": row(
        traced, lambda gm: rejuvenator(gm, delta_lambda="a"), TrainingError, "delta_lambda is 'a'"
    ),
    "an unknown option": row(
        traced, lambda gm: rejuvenator(gm, treshold=0.1), TrainingError, "unknown option 'treshold'", "threshold"
    ),
    "a budget as a number": row(
        traced, lambda gm: rejuvenator(gm, budget=10**6), TrainingError, "budget is 1000000", "Budget.relative"
    ),
    "a budget that the trigger cannot reach": row(
        traced, lambda gm: rejuvenator(gm, budget=nrfx.Budget(params=100)), TrainingError,
        "1,602 of the network's 3,205 params", "budget of 100", "Lower the trigger below 0.031",
    ),
    "no optimizer": row(
        traced, lambda gm: rejuvenator(gm, optimizer="sgd"), TrainingError, "optimizer is 'sgd'", "torch.optim"
    ),
    "the optimizer of another model": row(
        traced, lambda gm: rejuvenator(gm, optimizer=sgd(plain())),
        TrainingError, "none of the 3 gammas", "1.weight", "gm.parameters()"
    ),
    "an optimizer whose state is not known": row(
        traced, lambda gm: stepped(gm, Unknown), TrainingError, "Unknown", "nrfx.register_optimizer(Unknown, {"
    ),
    "no scheduler": row(traced, lambda gm: rejuvenator(gm, scheduler="cosine"), TrainingError, "scheduler is 'cosine'"),
    "a scheduler that cannot start over": row(
        traced, lambda gm: rejuvenator(gm, scheduler=ReduceLROnPlateau(sgd(gm))), TrainingError,
        "ReduceLROnPlateau cannot be set back", "StepLR",
    ),
    "the scheduler of another optimizer": row(
        traced, lambda gm: rejuvenator(gm, scheduler=StepLR(sgd(gm), 5)),
        TrainingError, "StepLR belongs to another optimizer"
    ),
    "training that has diverged": row(
        lambda: with_number("weight", math.nan), lambda gm: rejuvenator(gm, interval=1).step(),
        AnalysisError, "5.weight[2] is nan"
    ),
    "the state of something else": row(
        traced, lambda gm: rejuvenator(gm).load_state_dict({"epoch": 3}),
        TrainingError, "'epoch' is unknown", "state_dict returned"
    ),
    "no state": row(traced, lambda gm: rejuvenator(gm).load_state_dict(None), TrainingError, "None; expected a table"),
    "a state that holds no numbers": row(
        traced, lambda gm: rejuvenator(gm).load_state_dict({**rejuvenator(gm).state_dict(), "steps": "many"}),
        TrainingError, "steps is 'many'; expected a whole number",
    ),
}  # fmt: skip
