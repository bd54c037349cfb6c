"""The names of parameters and buffers: all names of each tensor, and which of them is its first."""

from collections.abc import Mapping

from torch import Tensor, nn


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter, then every buffer, by each of its names, in one walk over the modules."""
    modules = list(module.named_modules(remove_duplicate=False))
    return {
        (f"{path}.{name}" if path else name): tensor
        for kind in ("_parameters", "_buffers")
        for path, owner in modules
        for name, tensor in getattr(owner, kind).items()
        if tensor is not None
    }


def first_names(named: Mapping[str, Tensor]) -> dict[str, str]:
    """Every name of a tensor -> the first name of the same one."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in named.items()}
