"""Loops in which a search would do nothing, or train nobody, in silence: found by looking, without a device sync.

Each becomes an error where training would be lost, and a warning where it may be meant.
"""

import warnings
from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer

from nrfx.errors import TrainingError, TrainingWarning
from nrfx.tracing import TracedModule


def check_held(optimizers: Iterable[Optimizer], module: TracedModule, gammas: Iterable[str]) -> None:
    """Raises TrainingError where no optimizer holds a gamma that can die, and warns of parameters that none holds."""
    held = {parameter for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]}
    names = list(gammas)
    missing = [name for name in names if module.get_parameter(name) not in held]
    if names and len(missing) == len(names):
        raise TrainingError(
            f"The optimizer holds none of the {len(missing)} gammas that can die, such as {missing[0]}: no channel "
            "would ever die. Build it over gm.parameters() of the module given to the Rejuvenator."
        )
    left_out = [name for name, each in module.named_parameters() if each.requires_grad and each not in held]
    if left_out:
        more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
        warnings.warn(
            f"No optimizer holds {left_out[0]}{more}, which require a gradient: they stay as they are. Give the "
            "Rejuvenator all optimizers, optimizer=[one, other], or freeze them by requires_grad_(False).",
            TrainingWarning,
            stacklevel=4,
        )


class GradientGuard:
    """Sees whether the loss was computed with the network: then some of its gammas have gradients."""

    def __init__(self, after_event: bool) -> None:
        self._after_event = after_event
        self._seen = False

    def look(self, gammas: Iterable[nn.Parameter]) -> None:
        """Once a gradient has been seen, nothing. Call it before the optimizer's step.

        Raises:
            TrainingError: after an event, no gamma that can be trained has a gradient.
        """
        if self._seen:
            return
        trained = [gamma for gamma in gammas if gamma.requires_grad]
        self._seen = not trained or any(gamma.grad is not None for gamma in trained)
        if not self._seen and self._after_event:
            raise TrainingError(
                "Since the last event no gamma has a gradient: the loss was not computed with this network. With "
                "inplace=False an event replaces the module: compute the loss with nr.module, taken anew in every "
                "step. Otherwise call penalize after backward, and look for a copy of the network in the loop."
            )


class CallGuard:
    """Sees whether `penalize` is called between two measurements."""

    def __init__(self) -> None:
        self.called = False
        self._warned = False

    def measured(self, lam: float) -> None:
        """Warns, once, where lambda was above 0 and nothing was penalized since the last measurement."""
        if lam > 0 and not self.called and not self._warned:
            self._warned = True
            warnings.warn(
                f"lambda is {lam:.2g}, and penalize has not been called since the last measurement: no channel dies. "
                "Call nr.penalize() between backward and optimizer.step(), or nr.attach() once before the loop.",
                TrainingWarning,
                stacklevel=4,
            )
        self.called = False
