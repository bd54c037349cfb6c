"""Params and flops counted on the module itself, independently of nrfx."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def params(module: nn.Module) -> int:
    """Learnable numbers, tied ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def flops(module: nn.Module, images: Tensor | tuple[Tensor, ...]) -> int:
    """Multiply-adds of an eval-mode forward of the first image (of the first of each of several inputs).

    FlopCounterMode counts each as two.
    """
    return flops_by_module(module, images)[""]


def flops_of_batch(module: nn.Module, images: Tensor | tuple[Tensor, ...]) -> int:
    """Multiply-adds of an eval-mode forward of all images."""
    with counted(module, images, first=False) as counter:
        return counter.get_total_flops() // 2


def flops_by_module(module: nn.Module, images: Tensor | tuple[Tensor, ...]) -> Mapping[str, int]:
    """Multiply-adds by module path, "" for all; a module's number includes those of its children."""
    with counted(module, images) as counter:
        counts: Mapping[str, Mapping[Any, int]] = counter.get_flop_counts()
    root = type(module).__name__
    by_path = {name.removeprefix(root).removeprefix("."): sum(ops.values()) // 2 for name, ops in counts.items()}
    return {**{path: count for path, count in by_path.items() if path != "Global"}, "": counter.get_total_flops() // 2}


@contextmanager
def counted(module: nn.Module, images: Tensor | tuple[Tensor, ...], first: bool = True) -> Iterator[FlopCounterMode]:
    """A counter that has seen one eval-mode forward of the first image, or of all.

    The counter does not see the work of fused attention: the fast path of nn.MultiheadAttention and the fused kernels
    of scaled_dot_product_attention are off meanwhile. When gradients are off, it refuses a parameter that requires one
    as the input of a module: no parameter requires a gradient meanwhile.
    """
    training, fast_path = module.training, torch.backends.mha.get_fastpath_enabled()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    torch.backends.mha.set_fastpath_enabled(False)
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            given = images if isinstance(images, tuple) else (images,)
            module.eval()(*((x[:1] if first else x).clone() for x in given))
        yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        module.train(training)
        for parameter in trained:
            parameter.requires_grad_(True)
