"""A Rejuvenator for the network of a trainer, attached to its optimizers, from the start or where a checkpoint was."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nrfx.integrations.architecture import Kept, arrange
from nrfx.plan.budget import Budget
from nrfx.plan.budget_request import parse_budget
from nrfx.tracing import TracedModule
from nrfx.training.events import Event, Measurement
from nrfx.training.rejuvenator import Rejuvenator


def attached(
    traced: TracedModule,
    optimizers: Sequence[Optimizer],
    budget: Budget | str,
    root: nn.Module,
    loaded: Kept | None,
    scheduler: LRScheduler | None,
    options: Mapping[str, Any],
) -> Rejuvenator:
    """The Rejuvenator, which goes on where the one of a checkpoint was if one was loaded.

    Args:
        budget: as text, of what the network costs now; with `loaded`, that of the run that was saved.
        root: the module by whose names the checkpoint calls the parameters of the optimizers.

    Raises:
        TrainingError: what Rejuvenator raises.
        CheckpointError: the optimizers are not those of the checkpoint.
    """
    if loaded is not None:
        bound = Budget(**loaded["budget"])
        for optimizer, groups in zip(optimizers, loaded["optimizers"], strict=True):
            arrange(optimizer, groups, root)
    else:
        bound = parse_budget(budget).of(traced) if isinstance(budget, str) else budget
    nr = Rejuvenator(traced, optimizers, bound, scheduler=scheduler, **options)
    if loaded is not None:
        nr.load_state_dict(loaded["state"])
    return nr.attach()


def numbers(seen: Measurement | Event, nr: Rejuvenator) -> dict[str, float]:
    """What is logged of a measurement or an event: nrfx/r, nrfx/lambda, nrfx/params, nrfx/flops, nrfx/events."""
    if isinstance(seen, Event):
        params, flops = seen.result.after.params.total, seen.result.after.flops.total
    else:
        params, flops = seen.params.total, seen.flops.total
    values = {"r": seen.r, "lambda": nr.lam, "params": params, "flops": flops, "events": nr.events}
    return {f"nrfx/{name}": float(value) for name, value in values.items()}
