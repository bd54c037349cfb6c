"""The names of parameters and buffers: all names of each tensor, and which of them is its first."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter, then every buffer, by each of its names."""
    return tensors_in(list(module.named_modules(remove_duplicate=False)))


def tensors_in(modules: Sequence[tuple[str, nn.Module]]) -> dict[str, Tensor]:
    """The same of the modules at these paths."""
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
