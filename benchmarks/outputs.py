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


def evaluated(module: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """The tensors of the eval-mode output. Leaves the module in eval mode."""
    return leaves(forward(module.eval(), images))


def relative(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest expected value; infinite where the outputs do not correspond."""
    if [leaf.shape for leaf in expected] != [leaf.shape for leaf in actual]:
        return float("inf")
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(expected, actual, strict=True))


def backward(module: nn.Module, images: Tensor) -> tuple[tuple[int, ...], ...]:
    """Gradients of the mean squares of all train-mode outputs; returns their shapes. The module stays in train mode."""
    module.zero_grad()
    outputs = leaves(module.train()(images))
    torch.stack([leaf.square().mean() for leaf in outputs]).sum().backward()
    return tuple(tuple(leaf.shape) for leaf in outputs)


def training_facts(module: nn.Module, images: Tensor) -> tuple[frozenset[str], tuple[tuple[int, ...], ...]]:
    """Names of the parameters that get a gradient in train mode, and the shapes of the train-mode outputs.

    Changes the running statistics; the module stays in train mode.
    """
    shapes = backward(module, images)
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
