"""The tensors of a new network, and where each comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nrfx.plan.origins import Factors, Origins, is_whole


@dataclass
class NewTensors:
    """Collects tensors by name. `old`: the parameters and buffers of the network before."""

    old: Mapping[str, Tensor]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    origins: dict[str, Origins] = field(default_factory=dict)
    parents: dict[str, str | None] = field(default_factory=dict)
    factors: dict[str, Factors] = field(default_factory=dict)

    def keep(self, name: str, parent: str | None, value: Tensor, origins: Origins, factors: Factors) -> None:
        """Remembers a new tensor, in the dtype and memory format of its parent, with its origins and factors."""
        old = self.old[parent] if parent is not None else self._like(name)
        value = value if value.dtype == old.dtype else value.to(old.dtype)
        value = value.clone() if value.data_ptr() == old.data_ptr() else value  # old and new share no memory
        self.tensors[name] = (
            value.contiguous(memory_format=_memory_format(old)) if value.dim() == 4 else value.contiguous()
        )
        self.origins[name] = tuple(
            None if parent is not None and _unchanged(part, old, dim) else part for dim, part in enumerate(origins)
        )
        self.parents[name] = parent
        self.factors[name] = tuple(None if part is None or bool((part == 1).all()) else part for part in factors)

    def _like(self, name: str) -> Tensor:
        """Another tensor of the same module, for the dtype and device of a parameter that comes from no old one."""
        owner = name.rpartition(".")[0].removesuffix(".weights")
        return next(tensor for other, tensor in self.old.items() if other.startswith(f"{owner}."))


def _unchanged(places: Tensor | None, old: Tensor, dim: int) -> bool:
    return places is None or is_whole(places, old.shape[dim])


def _memory_format(tensor: Tensor) -> torch.memory_format:
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format
