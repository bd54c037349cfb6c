"""The rows that are not Neural Rejuvenation's: plain training, controls, and the two methods closest to it."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

import nrfx
from benchmarks.study.fashion.loop import Training
from benchmarks.study.fashion.plan import BUDGETS, Curve, Task
from benchmarks.study.fashion.searches import Found, budget_of, traced
from nrfx.analysis.liveness import prunable_gammas
from nrfx.choices import Measure
from nrfx.experiment.data import Dataset
from nrfx.plan.budget import Budget
from nrfx.rewrite.result import Rejuvenation
from nrfx.tracing import TracedModule
from nrfx.training.baselines import morph, penalize, slim
from nrfx.training.gamma_weights import gamma_weights

STRENGTH: Mapping[str, float] = {"Network Slimming": 1e-3, "MorphNet": 3e-3}
"""The weight of the penalty on the gammas; MorphNet's is relative to the mean over all gammas."""

LEAST = 0.1
"""The smallest share of a layer that the control with random widths leaves alive."""


def plain(task: Task, data: Dataset, curve: Curve) -> Found:
    """BL: all steps, the learning rate falling from the first one."""
    return _trained(traced(task), task, data, curve, task.settings.steps)


def held(task: Task, data: Dataset, curve: Curve) -> Found:
    """BL whose learning rate falls from the end of a search's time, as in a search without an event."""
    how = task.settings
    return _trained(traced(task), task, data, curve, how.steps, fall_from=int(how.steps * how.until))


def longer(task: Task, data: Dataset, curve: Curve) -> Found:
    """BL with as many more steps as a restart can give: those of a whole search."""
    return _trained(traced(task), task, data, curve, int(task.settings.steps * (1 + task.settings.until)))


def towers(task: Task, data: Dataset, curve: Curve) -> Found:
    """Two networks of half the cost with a loss each, their logits added: NR-CR without a search."""
    gm = traced(task)
    _kill(gm, lambda size: torch.arange(size) < size // 2)
    halves = nrfx.rejuvenate(
        gm,
        budget_of(task),
        scheme="removed",
        reinitialize="all",
        rescale=False,
        residual=task.settings.residual,
        generator=torch.Generator().manual_seed(task.seed),
    )
    return _trained(halves.module, task, data, curve, task.settings.steps)


def at_random(task: Task, data: Dataset, curve: Curve) -> Found:
    """Widths by chance: each layer keeps a random share, then all widen to the budget; trained for all steps."""
    gm, generator = traced(task), torch.Generator().manual_seed(10_000 + task.seed)

    def dead(size: int) -> Tensor:
        share = LEAST + (1 - LEAST) * float(torch.rand((), generator=generator))
        return torch.arange(size) >= max(1, round(share * size))

    _kill(gm, dead)
    result = morph(gm, budget_of(task), residual=task.settings.residual, generator=generator)
    found = _trained(result.module, task, data, curve, task.settings.steps)
    return Found(found.module, found.steps, alpha=result.alpha)


def slimmed(task: Task, data: Dataset, curve: Curve) -> Found:
    """Network Slimming from a network of twice the cost: half of the steps with its penalty, then cut and tuned."""
    how, budget = task.settings, budget_of(task)
    wide = _twice(task)
    training = Training(wide, data, how, task.seed, curve, how.steps, fall_from=None)
    weights = gamma_weights(wide, residual=how.residual)
    training.pull = lambda: penalize(wide, weights, STRENGTH["Network Slimming"])
    training.steps(how.steps // 2)
    result = _within(wide, budget, task)
    rest = Training(result.module.train(), data, how, task.seed, curve, how.steps, how.steps // 2, step=how.steps // 2)
    rest.steps(how.steps)
    return Found(result.module, rest.step, how.steps // 2, 1)


def morphed(task: Task, data: Dataset, curve: Curve) -> Found:
    """MorphNet: its penalty for the time of a search, one expansion, and all steps from scratch behind it."""
    how, gm = task.settings, traced(task)
    measure: Measure = "flops" if task.budget == "flops" else "params"
    training = Training(gm, data, how, task.seed, curve, how.steps, fall_from=None)
    for part in range(1, 6):  # its weights follow the channels that die
        weights = gamma_weights(gm, measure, residual=how.residual)
        mean = torch.cat([weight[weight > 0] for weight in weights.values()]).mean()
        strength = STRENGTH["MorphNet"] / float(mean)
        training.pull = lambda weights=weights, strength=strength: penalize(gm, weights, strength)
        training.steps(int(how.steps * how.until) * part // 5)
    generator = torch.Generator().manual_seed(task.seed)
    result = morph(gm, budget_of(task), residual=how.residual, generator=generator)
    found = _trained(result.module, task, data, curve, how.steps)
    return Found(found.module, training.step + found.steps, training.step, 1, alpha=result.alpha)


def _trained(gm: TracedModule, task: Task, data: Dataset, curve: Curve, steps: int, fall_from: int = 0) -> Found:
    training = Training(gm.train(), data, task.settings, task.seed, curve, steps, fall_from)
    training.steps(steps)
    return Found(gm, training.step)


@torch.no_grad()
def _kill(gm: TracedModule, dead: Callable[[int], Tensor]) -> None:
    """Sets the gammas that can die to 0 where `dead`, a mask for so many channels, is True."""
    for name, mask in prunable_gammas(gm, "live").items():
        gamma = gm.get_parameter(name)
        gamma[dead(gamma.numel()) & mask] = 0


def _twice(task: Task) -> TracedModule:
    """The family's network, wider everywhere, at twice the cost, with weights of its own."""
    gm = traced(task)
    name, mask = next(iter(prunable_gammas(gm, task.settings.residual).items()))
    with torch.no_grad():  # something has to be dead for a rewrite
        gm.get_parameter(name)[mask.nonzero()[-1]] = 0
    budget = Budget.relative(gm, **{measure: 2 * times for measure, times in BUDGETS[task.budget].items()})
    generator = torch.Generator().manual_seed(task.seed)
    return morph(gm, budget, residual=task.settings.residual, generator=generator).module.train()


def _within(gm: TracedModule, budget: Budget, task: Task) -> Rejuvenation:
    """The network without as many of its weakest gammas as the budget asks for."""
    low, high = 0.0, 0.99
    for _ in range(8):
        middle = (low + high) / 2
        cost = slim(gm, middle, residual=task.settings.residual).after
        fits = all(
            bound is None or total <= bound
            for bound, total in ((budget.params, cost.params.total), (budget.flops, cost.flops.total))
        )
        low, high = (low, middle) if fits else (middle, high)
    return slim(gm, high, residual=task.settings.residual)


ROWS: Mapping[str, Callable[[Task, Dataset, Curve], Found]] = {
    "BL": plain,
    "BL held": held,
    "BL longer": longer,
    "two towers": towers,
    "random widths": at_random,
    "Network Slimming": slimmed,
    "MorphNet": morphed,
}
"""Row -> how it is trained."""
