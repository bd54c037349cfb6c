"""What the processes of a training agree on: its settings, its weights, a measurement, the network of an event."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from nrfx.analysis.meter import MeterReading
from nrfx.analysis.utilization import Share
from nrfx.plan.budget import Budget
from nrfx.plan.options import Options
from nrfx.rewrite.result import Rejuvenation
from nrfx.training.processes import Alone, digests

FIRST_STEP = "the first step after the Rejuvenator was built or loaded"
GATHERING = "a measurement, for which the parameters are gathered"
MEASUREMENT = "a measurement"
NEW_NETWORK = "the new network of an event"
DRAWN = "the new weights of an event"
END = "the end of an event"


def settings(budget: Budget, options: Options, **others: object) -> dict[str, object]:
    """Name -> value of all that decides when and how a network is rejuvenated, generators apart."""
    # criteria are compared by what they are called: each process may have batches of its own, and plans are compared
    told = "gamma" if options.criterion is None else options.criterion.title
    plain = asdict(replace(options, generator=None, liveness=told))
    return {**others, **{f"budget {name}": value for name, value in asdict(budget).items()}, **plain}


def weights(module: nn.Module) -> dict[str, object]:
    """A digest of each parameter."""
    return {f"digest of {name}": number for name, number in digests(module).items()}


def agreed_reading(processes: Alone, facts: Mapping[str, object], module: nn.Module, own: MeterReading) -> MeterReading:
    """The reading of the first process: those of others may differ, for they have other running statistics.

    Raises:
        TrainingError: a process has other weights or is at another step.
    """
    if processes.size == 1:
        return own
    said = [[share.live, share.total] for share in (own.params, own.flops)]
    params, flops = processes.agree(MEASUREMENT, {**facts, **weights(module)}, said)
    return MeterReading(Share(*params), Share(*flops))


@contextmanager
def first_statistics(processes: Alone, module: nn.Module) -> Iterator[None]:
    """Gives all processes the buffers of the first one, for an event; an error gives each its own back."""
    if processes.size == 1:
        yield
        return
    buffers = list(module.buffers())
    before = [buffer.clone() for buffer in buffers]
    processes.spread(buffers)
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
        raise


def agree_on(processes: Alone, result: Rejuvenation) -> None:
    """Checks that all processes have planned the same network, from the same positions of the old one.

    Raises:
        TrainingError: they have not.
    """
    if processes.size == 1:
        return
    tensors = dict([*result.module.named_parameters(), *result.module.named_buffers()])
    facts = {name: (*tensor.shape, _digest(result.origins.get(name, ()))) for name, tensor in tensors.items()}
    processes.agree(NEW_NETWORK, {"changed": result.changed, "alpha": result.alpha, **facts})


def spread_new(processes: Alone, module: nn.Module) -> None:
    """Gives all processes the parameters and buffers of the first one's new network."""
    processes.spread([*module.parameters(), *module.buffers()])


def _digest(origins: Any) -> str:
    whole = hashlib.sha256()
    for places in origins:
        whole.update(places.numpy().tobytes() if isinstance(places, Tensor) else b"whole")
    return whole.hexdigest()[:16]
