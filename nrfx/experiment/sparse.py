"""Dense-sparse-dense training: for a while the smallest weights of every layer are held at 0, and then let go again.

The masks live in the layers only inside `sparse`: before and after it they have their plain parameters, the same
objects, so that the optimizer, analyses and checkpoints do not notice. What the mask left out starts again from 0.

Source: Han et al., DSD: Dense-Sparse-Dense Training for Deep Neural Networks, ICLR 2017.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from nrfx.errors import TrainingError
from nrfx.tracing import TracedModule


@dataclass(frozen=True)
class Phases:
    """The epochs (counted from 1) of a run's sparse phase: `first` up to `last`, both within; none if last < first."""

    first: int
    last: int

    def __contains__(self, epoch: int) -> bool:
        return self.first <= epoch <= self.last


def phases(since: int, epochs: int) -> Phases:
    """The sparse phase of a run of `epochs` whose last event lies in epoch `since` (0 for none).

    What is left after the event is dense for a half, sparse for a quarter, dense for a quarter. The paper does not say.

    >>> phases(since=20, epochs=60)
    Phases(first=41, last=50)
    """
    left = epochs - since
    return Phases(since + left // 2 + 1, since + left // 2 + left // 4)


@contextmanager
def sparse(gm: TracedModule, part: float) -> Iterator[None]:
    """Holds the `part` of each layer's weights with the smallest magnitude at 0 while it lasts.

    Weights are the parameters with two dims or more of the layers that the graph calls; norms and biases stay dense.

    Raises:
        TrainingError: part is not a fraction from 0 up to, but not, 1.

    >>> import nrfx
    >>> gm = nrfx.trace(nn.Sequential(nn.Linear(4, 2)), torch.zeros(1, 4))
    >>> weight = next(gm.parameters())
    >>> with sparse(gm, 0.5):
    ...     _ = gm(torch.ones(1, 4))
    >>> int((weight == 0).sum()), next(gm.parameters()) is weight
    (4, True)
    """
    if isinstance(part, bool) or not isinstance(part, int | float) or not 0 <= part < 1:
        raise TrainingError(f"dsd is {part!r}; expected the part of the weights to leave out, such as 0.3.")
    masked = _weights(gm) if part else []
    orders = {holder: [name for name, _ in holder.named_parameters(recurse=False)] for holder, _ in masked}
    rule = prune.L1Unstructured(part)
    for holder, name in masked:
        weight = holder.get_parameter(name)
        mask = rule.compute_mask(weight, torch.ones_like(weight))
        parametrize.register_parametrization(holder, name, _Masked(mask))
    try:
        yield
    finally:
        for holder, name in masked:
            parametrize.remove_parametrizations(holder, name)
        for holder, names in orders.items():
            _reorder(holder, names)


def _reorder(holder: nn.Module, names: list[str]) -> None:
    """Registers parameters anew in that order: a parametrization that goes leaves its own as the last one."""
    for name in names:
        parameter = getattr(holder, name)
        delattr(holder, name)
        holder.register_parameter(name, parameter)


class _Masked(nn.Module):
    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def _weights(gm: TracedModule) -> list[tuple[nn.Module, str]]:
    """Who holds the weights that may be masked, and their names; tied ones stay as they are."""
    called = {str(node.target) for graph in gm.graphs.values() for node in graph.nodes if node.op == "call_module"}
    holders = dict.fromkeys(module for path in sorted(called) for module in gm.get_submodule(path).modules())
    owners = Counter(id(parameter) for module in gm.modules() for parameter in module.parameters(recurse=False))
    return [
        (holder, name)
        for holder in holders
        for name, parameter in holder.named_parameters(recurse=False)
        if parameter.dim() > 1 and owners[id(parameter)] == 1
    ]
