"""What a network gives: eval outputs, how far two sets of them are apart, and what a train-mode backward reaches."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree


def leaves(nest: Any) -> tuple[Tensor, ...]:
    """The tensors in a nest of outputs, in order."""
    return tuple(leaf for leaf in _pytree.tree_leaves(nest) if isinstance(leaf, Tensor))


def evaluated(module: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """The tensors of the eval-mode output. Leaves the module in eval mode."""
    with torch.no_grad():
        return leaves(module.eval()(images))


def relative(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest expected value; infinite where the outputs do not correspond."""
    if [leaf.shape for leaf in expected] != [leaf.shape for leaf in found]:
        return float("inf")
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(expected, found, strict=True))


def backward(module: nn.Module, images: Tensor) -> tuple[tuple[int, ...], ...]:
    """Gradients of the mean squares of all train-mode outputs; returns their shapes. The module stays in train mode."""
    module.zero_grad()
    outputs = leaves(module.train()(images))
    torch.stack([leaf.square().mean() for leaf in outputs]).sum().backward()
    return tuple(tuple(leaf.shape) for leaf in outputs)


def finite(gradient: Tensor | None) -> bool:
    """Whether there is a gradient, without NaN or infinity."""
    return gradient is not None and bool(gradient.isfinite().all())
