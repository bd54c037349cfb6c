"""The names of parameters and buffers: all names of each tensor, and which of them is its first."""

from collections.abc import Mapping

from torch import Tensor, nn

from nrfx.tracing.graph.walk import held


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter, then every buffer, by each of its names."""
    return dict(held(module).tensors)


def first_names(named: Mapping[str, Tensor]) -> dict[str, str]:
    """Every name of a tensor -> the first name of the same one."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in named.items()}
