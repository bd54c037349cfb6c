"""The lines of a loop that a Rejuvenator needs, as hooks of optimizers: before a step and after it."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from torch import nn
from torch._compile import _disable_dynamo
from torch.optim import Optimizer

from nrfx.errors import TrainingError

Called = Callable[[Optimizer], None]


def has_hooks(optimizer: Optimizer) -> bool:
    """Whether hooks around its steps can be registered: not on wrappers that step another one, which has them."""
    return hasattr(optimizer, "_optimizer_step_pre_hooks")


class StepHooks:
    """Calls `before` ahead of each step of an optimizer, when its gradients are there, and `after` behind it.

    A closure that computes the gradients inside of the step (LBFGS, Lightning) has `before` called behind it. A step
    that a GradScaler leaves out has neither.
    """

    def __init__(self, optimizers: Sequence[Optimizer], before: Called, after: Called) -> None:
        self._before = before
        optimizers = [each for each in optimizers if has_hooks(each)]

        def ahead(optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
            return self._ahead(optimizer, args, kwargs)

        def behind(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            after(optimizer)

        # torch.compile(optimizer.step) would compile them too, which takes minutes and looks at the network's numbers
        self._handles = [each.register_step_pre_hook(_disable_dynamo(ahead)) for each in optimizers]
        self._handles += [each.register_step_post_hook(_disable_dynamo(behind)) for each in optimizers]

    def __reduce__(self) -> NoReturn:
        raise TrainingError(
            "A Rejuvenator that is attached cannot be copied or pickled: a copy of its optimizer has no hooks. Keep "
            "nr.state_dict() or a file of nrfx.save and build another one, or call nr.detach() before."
        )

    def remove(self) -> None:
        """Takes the hooks out again."""
        for handle in self._handles:
            handle.remove()

    def _ahead(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """Wraps the closure of a step, if there is one; torch hands over (optimizer, *arguments)."""
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._before(optimizer)
            return None

        def with_penalty() -> Any:
            loss = closure()
            self._before(optimizer)
            return loss

        if len(args) > 1:
            return (args[0], with_penalty, *args[2:]), kwargs
        return args, {**kwargs, "closure": with_penalty}


def clock(optimizers: Sequence[Any], module: nn.Module) -> Any:
    """The optimizer whose steps are counted: the last one that holds parameters of the network, of those with hooks."""
    parameters = set(module.parameters())
    stepping = [one for one in optimizers if has_hooks(one)] or optimizers
    holders = [one for one in stepping if any(parameters & {*group["params"]} for group in one.param_groups)]
    return (holders or stepping)[-1]
