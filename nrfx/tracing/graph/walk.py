"""The modules and tensors of a model, in the order and under the names of torch's own iterators.

torch's named_modules and named_parameters are generators in generators, one for each level of the tree; a trace asks a
dozen times. What it asks of a model that does not change meanwhile, it finds in one walk (Contents).
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn


@dataclass(frozen=True)
class Contents:
    """What the modules of a model hold at one moment.

    Attributes:
        root: the model.
        modules: (path, module) of each module, under its first path.
        by_path: the module at every path.
        parameters, buffers: (name, tensor) of each, under its first name.
        odd: (path, name, value) of the attributes that are no plain values and containers, as nearly all are.
    """

    root: nn.Module
    modules: Sequence[tuple[str, nn.Module]]
    by_path: Mapping[str, nn.Module]
    parameters: Sequence[tuple[str, nn.Parameter]]
    buffers: Sequence[tuple[str, Tensor]]
    odd: Sequence[tuple[str, str, Any]]

    @classmethod
    def of(cls, root: nn.Module) -> Self:
        """What the modules of a model hold now."""
        modules, every = named_modules(root), dict(named_modules(root, once=False))
        return cls(root, modules, every, named_parameters(modules), named_buffers(modules), _odd_attributes(modules))


def named_modules(root: nn.Module, once: bool = True) -> list[tuple[str, nn.Module]]:
    """(path, module) of the root, "", and of every module below it: once, under its first path, or under each.

    >>> [path for path, _ in named_modules(nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU())))]
    ['', '0', '1', '1.0']
    """
    found: list[tuple[str, nn.Module]] = []
    seen: set[nn.Module] = set()
    left: list[tuple[str, nn.Module]] = [("", root)]
    while left:
        path, module = entry = left.pop()
        if once:
            if module in seen:
                continue
            seen.add(module)
        found.append(entry)
        if module._modules:
            prefix = f"{path}." if path else ""
            left += [(prefix + name, child) for name, child in reversed(module._modules.items()) if child is not None]
    return found


def named_parameters(modules: Iterable[tuple[str, nn.Module]]) -> list[tuple[str, nn.Parameter]]:
    """(name, parameter) of every parameter of these modules, each once, under its first name."""
    return _each_once(modules, "_parameters")


def named_buffers(modules: Iterable[tuple[str, nn.Module]]) -> list[tuple[str, Tensor]]:
    """(name, buffer) of every buffer of these modules, each once, under its first name."""
    return _each_once(modules, "_buffers")


def _each_once(modules: Iterable[tuple[str, nn.Module]], registry: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    seen: set[int] = set()
    for path, module in modules:
        for name, tensor in getattr(module, registry).items():
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                found.append((f"{path}.{name}" if path else name, tensor))
    return found


def _odd_attributes(modules: Iterable[tuple[str, nn.Module]]) -> list[tuple[str, str, Any]]:
    return [
        (path, name, value)
        for path, module in modules
        for name, value in module.__dict__.items()
        if type(value) not in _COMMON
    ]


_COMMON = frozenset({bool, int, float, str, tuple, list, dict, set, OrderedDict, type(None)})
