"""Parameters and buffers by name: the tied ones once, under the first of their names."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


def registered(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under all of its names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def named_once(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under its first name."""
    aliases = aliases_of(module)
    return {name: tensor for name, tensor in registered(module).items() if name not in aliases}


def aliases_of(module: nn.Module) -> dict[str, str]:
    """Second and further names of tied parameters and buffers -> the first name."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(tensor), name) for name, tensor in registered(module).items()}
    return {name: known for name, known in names.items() if name != known}


def relative_of(name: str, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """The tensor of that name, else one of the same layer (whose weight may be in blocks on one side)."""
    if name in tensors:
        return tensors[name]
    owner = name.rpartition(".")[0].removesuffix(".weights")
    return next((tensor for other, tensor in tensors.items() if other.startswith(f"{owner}.")), None)


CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_channels_last(tensor: Tensor) -> bool:
    """By its strides: is_contiguous says yes to both formats for a 1x1 kernel, and convolutions tell them apart."""
    if tensor.dim() not in CHANNELS_LAST:
        return False
    plain, last = (
        torch.empty(tensor.shape, device="meta", memory_format=memory_format).stride()
        for memory_format in (torch.contiguous_format, CHANNELS_LAST[tensor.dim()])
    )
    return plain != tensor.stride() == last


def listed(names: Iterable[str]) -> str:
    """The first four in order, and how many more there are."""
    ordered = sorted(names)
    return ", ".join(ordered[:4]) + (f" and {len(ordered) - 4} more" if len(ordered) > 4 else "")
