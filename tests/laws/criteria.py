"""The law of criteria: what is given up is replaced, and the rewrite computes what the replaced network computes."""

from zlib import crc32

import torch
from torch import Tensor, nn

import nrfx
from nrfx.analysis.asked_meter import AskedMeter
from nrfx.analysis.criterion import Criterion
from nrfx.analysis.ranking import Bound
from nrfx.errors import BudgetError
from tests.laws.trial import TOLERANCE, Trial, difference

SPARED = 0.6
"""The share of channels that a mask spares."""


def what_a_criterion_gives_up_is_replaced(trial: Trial) -> None:
    gm = nrfx.trace(trial.alive, trial.images())
    images = trial.images()
    criteria = _criteria(trial, images)
    criterion = criteria[crc32(repr(trial.plan).encode()) % len(criteria)]  # one for a trial, another for the next
    try:
        result = nrfx.rejuvenate(
            gm,
            trial.how.budget(gm),
            scheme=trial.how.scheme,
            residual=trial.how.residual,
            reallocate=trial.how.reallocate,
            rescale=trial.how.rescale,
            liveness=criterion,
            generator=torch.Generator().manual_seed(0),
        )
    except BudgetError as error:
        assert "Use reallocate=True" in str(error) or "may give up" in str(error)
        return
    assert nrfx.verify(gm, result, images) < TOLERANCE
    if result.keeps_function:
        assert difference(trial.outputs(gm), trial.outputs(result.module)) < TOLERANCE
    usage = nrfx.utilization(gm, residual=trial.how.residual, liveness=criterion)
    read = AskedMeter(gm, criterion, trial.how.residual).read()
    assert (read.params, read.flops) == (usage.params, usage.flops)


def _criteria(trial: Trial, images: Tensor) -> tuple[Criterion, ...]:
    """A mask at random, with means and without; dormant channels; and small filters, down to 0.8 of the params."""
    budget: Bound = nrfx.Budget.relative(trial.gm, params=0.8)
    return (
        nrfx.liveness.Scores(_mask, batches=[images]),
        nrfx.liveness.Scores(_mask, group="mean"),
        nrfx.liveness.Activation([images], tau=0.5, most=0.5),
        nrfx.liveness.Weight(budget=budget, batches=[images]),
    )


def _mask(name: str, module: nn.Module) -> Tensor | None:
    weight = getattr(module, "weight", None)
    plain = (nn.Linear, nn.Conv2d)  # whose first axis is that of their output; others may be read transposed
    if not isinstance(weight, Tensor) or type(module) not in plain:
        return None
    return torch.rand(weight.shape[0], generator=torch.Generator().manual_seed(crc32(name.encode()))) < SPARED
