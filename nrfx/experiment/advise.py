"""Whether a rejuvenation is worth it, from a short search and a short trial on the user's images, over a few seeds.

search   training under the penalty until r is below the trigger for every budget, for `steps` steps at most. What an
         event would make of the network is planned for each budget when its r gets there (nrfx/plan/advice.py), or
         behind the last step
trial    the network as it is, and the one that is planned within the budget that is asked for, both from scratch, on
         the same images in the same order, with a learning rate that falls to 0 along a half cosine in `steps` steps
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat

import torch
import torch.nn.functional as F
from torch import Tensor

from nrfx.analysis.gammas import gammas_of
from nrfx.analysis.liveness import prunable_gammas
from nrfx.analysis.spaces import channels_of
from nrfx.errors import TrainingError
from nrfx.experiment.config import RunConfig
from nrfx.experiment.data import Dataset, Images
from nrfx.experiment.fit import check_fit
from nrfx.experiment.loop import logits_of, optimizer_of
from nrfx.experiment.scores import scores
from nrfx.plan.advice import MEASURES, Advice, BudgetName, Prospect, Trial, joined
from nrfx.plan.advised import advised, asked_name, budgets_of
from nrfx.plan.budget import Budget
from nrfx.plan.options import Options
from nrfx.rewrite.rejuvenate import rewritten
from nrfx.tracing import TracedModule
from nrfx.training.arguments import check_search
from nrfx.training.events import Measurement
from nrfx.training.rejuvenator import Rejuvenator

STEPS, SEEDS = 300, 2
"""Steps of a search and of each training of a trial, and seeds, where nothing else is asked for."""

MEASUREMENTS = 30
"""In a search of all its steps; lambda rises with each at most."""

NEVER = 1e-9
"""A trigger that no utilization is below: the search of an advice has no event."""

OF_AN_EVENT = ("scheme", "rescale", "reallocate", "gamma_new", "rescale_limit", "cross")
"""The settings of a run that are options of a rewrite."""

Watch = Callable[[str, int], None]
"""Told what is done, and the step of it."""


def advise(
    build: Callable[[int], TracedModule],
    data: Dataset,
    config: RunConfig,
    budget: Budget | None = None,
    *,
    steps: int = STEPS,
    seeds: int = SEEDS,
    delta_lambda: float | None = None,
    trial: bool = True,
    watch: Watch = lambda what, step: None,
) -> Advice:
    """What a rejuvenation would do to a network, and whether a gain over plain training is to be expected.

    Args:
        build: makes the network as it is before the first step, from a seed.
        data: images; the test part is not looked at.
        config: how it is trained, and how it searches. The seeds are config.seed and those behind it.
        budget: what the network may cost; None for the params that it has.
        steps: of each search at most, and of each training of the trial; 60 or more.
        seeds: how many, 1 or more. One seed says nothing of steadiness.
        delta_lambda: see Rejuvenator; None chooses it by `steps`.
        trial: False leaves it out, and most of the time with it; the advice then is what `Rejuvenator.advice` says.
        watch: told of every step.

    Raises:
        TrainingError: steps or seeds are too few, no gamma can die, or a loss is not finite.
        UsageError: network, images and config do not fit each other.
    """
    if steps < 2 * MEASUREMENTS:
        raise TrainingError(
            f"steps is {steps}; expected {2 * MEASUREMENTS} or more: lambda rises {MEASUREMENTS} times, and "
            "gammas need time to fall."
        )
    check_search(config.trigger, 1, None, None, "slow")
    if seeds < 1:
        raise TrainingError(f"seeds is {seeds}; expected 1 or more, such as 2.")
    found = []
    for seed in range(config.seed, config.seed + seeds):
        gm, of_seed = build(seed), replace(config, seed=seed)
        check_fit(gm, data, of_seed)
        if note := gammas_of(gm, channels_of(gm), in_training=True).note:
            raise TrainingError(note)
        training = _Training(data, of_seed, steps, watch, f"seed {seed}", next(gm.parameters()).device)
        scratch = _from_scratch(_alive(gm), Budget(**_cost(gm)), _options(of_seed), of_seed.seed) if trial else None
        searched = _search(training, gm, budget, delta_lambda)
        found.append(searched.advice if scratch is None else _tried(training, searched, scratch))
    return joined(found)


@dataclass(frozen=True)
class _Training:
    """What the trainings of one seed have in common."""

    data: Dataset
    config: RunConfig
    steps: int
    watch: Watch
    title: str
    device: torch.device

    def batches(self) -> Iterator[tuple[int, Images]]:
        """The number of each step and its images: the same ones for every training."""
        generator = torch.Generator().manual_seed(self.config.seed)
        how, train = self.config, self.data.train.to(self.device)
        passes = (train.shuffled(how.batch_size, generator, how.shift, how.flip) for _ in repeat(None))
        return enumerate(islice(chain.from_iterable(passes), self.steps), 1)

    def told(self, what: str, step: int) -> None:
        self.watch(f"{self.title}, {what}", step)


@dataclass(frozen=True)
class _Searched:
    """The advice of a search, and the network that is planned, with new weights; None where nothing can be planned."""

    advice: Advice
    planned: TracedModule | None


def _search(training: _Training, gm: TracedModule, budget: Budget | None, delta_lambda: float | None) -> _Searched:
    config, asked, options = training.config, asked_name(budget), _options(training.config)
    budgets = budgets_of(gm, budget)
    optimizer = optimizer_of(gm, config)
    nr = Rejuvenator(
        gm,
        optimizer,
        budgets[asked],
        trigger=NEVER,
        interval=training.steps // MEASUREMENTS,
        delta_lambda=delta_lambda,
        delta_r=config.delta_r,
        until=training.steps,
        penalty=config.penalty,
        weighted=config.weighted,
        spare="none",  # what is asked for is what gammas do, and the network is thrown away
        raise_lambda=config.raise_lambda,
        shrink_beta=config.shrink_beta,
    )
    prospects: dict[BudgetName, Prospect] = {}
    notes: list[str] = []
    planned = None
    gm.train()
    for step, batch in training.batches():
        training.told("search", step)
        loss = _loss(gm, batch)
        optimizer.zero_grad()
        loss.backward()
        nr.penalize()
        optimizer.step()
        measured = nr.step()
        last = step == training.steps
        ready = [name for name in budgets if last or _below(measured, name, config.trigger)]
        if not ready:
            continue
        now = advised(gm, step, config.trigger, options, {name: budgets.pop(name) for name in ready}, asked)
        prospects |= {each.budget: each for each in now.prospects}
        notes += now.notes
        if now.prospect is not None:
            bounds = Budget(now.prospect.most_params, now.prospect.most_flops)
            dead = replace(options, threshold=now.prospect.threshold[0])
            planned = _from_scratch(gm, bounds, dead, config.seed)
        if not budgets:
            break
    whole = replace(now, prospects=tuple(prospects[name] for name in MEASURES if name in prospects), notes=tuple(notes))
    return _Searched(whole, planned)


def _below(measured: object, name: BudgetName, trigger: float) -> bool:
    """Whether the r of a budget is below the trigger in a measurement; False where nothing was measured."""
    if not isinstance(measured, Measurement):
        return False
    ratios = {"params": measured.params.ratio, "flops": measured.flops.ratio}
    return max(ratios[measure] for measure in MEASURES[name]) < trigger


def _tried(training: _Training, searched: _Searched, plain: TracedModule) -> Advice:
    """The advice with the trial, where something is planned."""
    if searched.planned is None:
        return searched.advice
    one, other = _trained(training, plain, "as it is"), _trained(training, searched.planned, "as planned")
    trial = Trial(training.steps, (one.loss,), (other.loss,), (one.error,), (other.error,))
    return replace(searched.advice, trial=trial)


@dataclass(frozen=True)
class _Learnt:
    """How well a network learns: loss as in Trial, validation error in percent."""

    loss: float
    error: float


def _trained(training: _Training, gm: TracedModule, what: str) -> _Learnt:
    """Trains a network for all steps."""
    config, optimizer, losses = training.config, optimizer_of(gm, training.config), []
    gm.train()
    for step, batch in training.batches():
        training.told(what, step)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * 0.5 * (1 + math.cos(math.pi * (step - 1) / training.steps))
        loss = _loss(gm, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    late = torch.stack(losses[-(training.steps // 3) :]).mean()
    if not math.isfinite(late.item()):
        raise TrainingError(
            f"The loss was not finite in {training.title}, {what}: lower the learning rate ({config.lr})."
        )
    seen = scores(gm, training.data.train.to(training.device), training.data.validation.to(training.device), config)
    return _Learnt((late.item() + seen.recalibrated.loss) / 2, seen.recalibrated.error)


def _loss(gm: TracedModule, batch: Images) -> Tensor:
    """The mean cross entropy of the heads."""
    return torch.stack([F.cross_entropy(logits, batch.y) for logits in logits_of(gm, batch.x)]).mean()


@torch.no_grad()
def _alive(gm: TracedModule) -> TracedModule:
    """A copy in which no gamma is dead: the architecture as it is, whatever weights it was given."""
    twin = copy.deepcopy(gm)
    for name in prunable_gammas(twin, "coupled"):
        twin.get_parameter(name).fill_(1.0)
    return twin


def _from_scratch(gm: TracedModule, budget: Budget, options: Options, seed: int) -> TracedModule:
    """The architecture within a budget, with new weights: so both networks of a trial begin in the same way."""
    generator = torch.Generator(next(gm.parameters()).device).manual_seed(seed)
    return rewritten(gm, budget, replace(options, reinitialize="all", check=False, generator=generator)).module


def _options(config: RunConfig) -> Options:
    return Options(**{name: getattr(config, name) for name in OF_AN_EVENT})


def _cost(gm: TracedModule) -> dict[str, int]:
    """What the network costs, as the arguments of a Budget."""
    return {name: bound for budget in budgets_of(gm).values() for name, bound in vars(budget).items() if bound}
