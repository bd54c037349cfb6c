"""Steps that nobody counts: an optimizer trains the network, and its Rejuvenator is not told.

So it is where `nr.step()` or `nr.attach()` is forgotten, or where the loop goes on with an optimizer that was built
later. Both would train the network to the end without a measurement. torch tells of every step of every optimizer.
"""

import threading
import warnings
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn
from torch._compile import _disable_dynamo
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from nrfx.errors import TrainingWarning

LEAST = 50
"""Uncounted steps that are no reason to speak, such as a warm-up before `attach`."""


class Counting(Protocol):
    """What a witness asks of a Rejuvenator."""

    steps: int
    optimizers: Any

    @property
    def interval(self) -> int:
        """Steps between two measurements."""

    @property
    def module(self) -> nn.Module:
        """The network."""

    @property
    def searching(self) -> bool:
        """Whether a measurement is to come."""


class StepWitness:
    """Warns, once, where optimizers made steps for two intervals (50 at least) and a Rejuvenator counted none.

    It holds no Rejuvenator alive, and ends with it.
    """

    def __init__(self, counting: Counting) -> None:
        self._counting = weakref.ref(counting)
        self._holds: weakref.WeakKeyDictionary[Optimizer, bool] = weakref.WeakKeyDictionary()
        self._counted, self._uncounted = counting.steps, 0
        with _LOCK:
            if not _WITNESSES:
                register_optimizer_step_post_hook(_told)
            _WITNESSES[:] = [*(each for each in _WITNESSES if each() is not None), weakref.ref(self)]

    def see(self, optimizer: Optimizer) -> None:
        """A step was made."""
        counting = self._counting()
        if counting is None or self._uncounted < 0 or not self._concerns(optimizer, counting.module):
            return
        if counting.steps != self._counted:
            self._counted, self._uncounted = counting.steps, 0
        self._uncounted += 1
        if self._uncounted <= max(2 * counting.interval, LEAST) * len(counting.optimizers) or not counting.searching:
            return
        warnings.warn(_sentence(optimizer, self._uncounted, counting), TrainingWarning, stacklevel=4)
        self._uncounted = -1

    def __reduce__(self) -> tuple[Any, ...]:
        """A copied or pickled Rejuvenator has none."""
        return _none, ()

    def _concerns(self, optimizer: Optimizer, module: nn.Module) -> bool:
        if optimizer not in self._holds:
            parameters = {*module.parameters()}
            self._holds[optimizer] = any(parameters & {*group["params"]} for group in optimizer.param_groups)
        return self._holds[optimizer]


def _none() -> None:
    """In the place of a witness."""


_LOCK = threading.Lock()
_WITNESSES: list["weakref.ref[StepWitness]"] = []
"""All that are there, and some that were. One hook of torch tells them, which stays: torch goes through its hooks in
each step, and one that went when a witness is collected could go in the middle of that.
"""


@_disable_dynamo
def _told(optimizer: Optimizer, args: Sequence[Any], kwargs: Any) -> None:
    """Tells all witnesses of a step; no code for a compiler."""
    for each in tuple(_WITNESSES):
        witness = each()
        if witness is not None:
            witness.see(optimizer)


def _sentence(optimizer: Optimizer, uncounted: int, counting: Counting) -> str:
    name, seen = type(optimizer).__name__, f"{uncounted} steps, and the Rejuvenator has counted none of them"
    if not any(optimizer is known for known in counting.optimizers):
        return (
            f"A {name} that the Rejuvenator was not given trains the network: {seen}, so that nothing is measured. "
            "Give the optimizer that makes the steps to a Rejuvenator, and build both anew together."
        )
    return (
        f"The {name} has made {seen}, so that nothing is measured. Call nr.penalize() before optimizer.step() and "
        "nr.step() after it, or nr.attach() once before the loop."
    )
