"""The outputs of a network, their difference to other outputs, and the gradients of a train-mode backward."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

import nrfx

TOLERANCE: Mapping[torch.dtype, float] = {torch.float64: 1e-7, torch.float32: 1e-4}
"""Largest difference of the outputs after a rewrite, relative to the largest output.

Rounding explains 1e-13 in float64; in float32 the original alone differs from its float64 form by up to 3e-5.
"""

LISTENS = 1e-3
"""Least relative change of the outputs with the input: below it a broken rewrite could pass."""


def leaves(nest: Any) -> tuple[Tensor, ...]:
    """The tensors in a nest of outputs, in order."""
    return tuple(leaf for leaf in _pytree.tree_leaves(nest) if isinstance(leaf, Tensor))


def forward(module: nn.Module, images: Tensor) -> Any:
    """The output without gradients, in the mode that the module is in."""
    with torch.no_grad():
        return module(images)


def evaluated(module: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The tensors of the eval-mode output, with the random numbers of one seed. Leaves the module in eval mode."""
    with torch.random.fork_rng(devices=()), torch.no_grad():
        torch.manual_seed(0)
        return leaves(module.eval()(*(x.clone() for x in inputs)))


def relative(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest finite value expected; infinite where the outputs do not
    correspond, NaN where one of them is NaN and the other is not."""
    if [leaf.shape for leaf in expected] != [leaf.shape for leaf in actual]:
        return float("inf")
    differences = [_difference(a, b) for a, b in zip(expected, actual, strict=True) if a.numel()]
    return float(torch.tensor([0.0, *differences], dtype=torch.float64).max())  # NaN if one of them is


def _difference(a: Tensor, b: Tensor) -> float:
    if not (a.is_floating_point() or a.is_complex()):
        a, b = a.double(), b.double()
    gap = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs())
    if not bool(gap.any()):
        return 0.0
    scale = a.abs()[a.isfinite()].max() if bool(a.isfinite().any()) else 1.0
    return float(gap.max() / scale)


def backward(module: nn.Module, *inputs: Tensor) -> tuple[tuple[int, ...], ...]:
    """Gradients of the mean squares of all train-mode outputs; returns their shapes. The module stays in train mode."""
    module.zero_grad()
    outputs = leaves(module.train()(*(x.clone() for x in inputs)))
    torch.stack([leaf.square().mean() for leaf in outputs]).sum().backward()
    return tuple(tuple(leaf.shape) for leaf in outputs)


def training_facts(module: nn.Module, *inputs: Tensor) -> tuple[frozenset[str], tuple[tuple[int, ...], ...]]:
    """Names of the parameters that get a gradient in train mode, and the shapes of the train-mode outputs.

    Changes the running statistics; the module stays in train mode.
    """
    shapes = backward(module, *inputs)
    trained = frozenset(name for name, parameter in module.named_parameters() if parameter.grad is not None)
    module.zero_grad()
    return trained, shapes


def without_gradient(result: nrfx.Rejuvenation, trained: frozenset[str]) -> list[str]:
    """Parameters of the new network without a finite gradient, of those that are new or come from one in `trained`."""
    parameters = dict(result.module.named_parameters())
    wanted = [child for child, parent in result.parents.items() if parent is None or parent in trained]
    return [name for name in wanted if name in parameters and not finite(parameters[name].grad)]


def finite(gradient: Tensor | None) -> bool:
    """Whether there is a gradient, without NaN or infinity."""
    return gradient is not None and bool(gradient.isfinite().all())
