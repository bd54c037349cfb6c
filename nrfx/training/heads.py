"""A loss for each head of a network whose generations do not meet before its output (scheme "removed", NR-CR)."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from nrfx.errors import TrainingError
from nrfx.rewrite.heads import Heads, heads


class HeadLoss:
    """The sum of the criterion over all heads' outputs; for a network without heads the criterion of its output.

    It takes the place of `criterion(module(x), y)` in a loop, from the first step on, before and after every event.
    `module(x)` itself goes on returning the sum of the heads.

    Args:
        criterion: the criterion of the loop: a function of (output, *targets). Each head's output has the structure of
            the network's own.

    >>> import nrfx, torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))
    >>> with torch.no_grad():
    ...     _ = net[1].weight[:4].zero_()
    >>> x, y = torch.randn(6, 3, 2, 2), torch.randint(4, (6,))
    >>> gm = nrfx.trace(net, x)
    >>> head_loss, criterion = HeadLoss(nn.CrossEntropyLoss()), nn.CrossEntropyLoss()
    >>> bool(head_loss(gm.eval(), x, y) == criterion(gm(x), y))
    True
    >>> gm = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme="removed").module
    >>> survivors, rejuvenated = nrfx.heads(gm)(x)
    >>> bool(head_loss(gm, x, y) == criterion(survivors, y) + criterion(rejuvenated, y))
    True

    Source: Neural Rejuvenation, Sec. 3.3, and its authors' code: two heads with two losses on the same batch.
    """

    def __init__(self, criterion: Callable[..., Tensor]) -> None:
        if not callable(criterion):
            raise TrainingError(f"criterion is {criterion!r}; expected a function of output and targets.")
        self.criterion = criterion

    def __call__(self, module: nn.Module, inputs: Tensor | tuple[Any, ...], *targets: Any) -> Tensor:
        """The loss of `module(inputs)`, or of `module(*inputs)` for a tuple.

        Args:
            module: `nr.module`; or the result of `nrfx.heads` on it, perhaps compiled or wrapped for several devices.

        Raises:
            RewriteError: a network with heads is wrapped in another module, so that its heads cannot be taken.
        """
        arguments = inputs if isinstance(inputs, tuple) else (inputs,)
        by_head = module if any(isinstance(part, Heads) for part in module.modules()) else heads(module)
        first, *others = (self.criterion(output, *targets) for output in by_head(*arguments))
        return sum(others, start=first)
