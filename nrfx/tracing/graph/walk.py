"""The modules and tensors of a model, in the order and under the names of torch's own iterators.

torch's named_modules and named_parameters are generators in generators, one for each level of the tree; a trace asks a
dozen times. What it asks of a model that does not change meanwhile, it finds in one walk (Contents). A rewrite asks
of the old network and of the new one in many places, and neither changes meanwhile (`unchanged`).
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
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
        now = held(root)
        return cls(root, now.modules, dict(now.paths), now.parameters, now.buffers, _odd_attributes(now.modules))


class Held:
    """What the modules of a model hold, each list made when it is first asked for."""

    def __init__(self, root: nn.Module) -> None:
        self._root = root

    @cached_property
    def modules(self) -> Sequence[tuple[str, nn.Module]]:
        """(path, module) of each module, under its first path."""
        return _walked(self._root, True)

    @cached_property
    def paths(self) -> Sequence[tuple[str, nn.Module]]:
        """(path, module) of each module, under each of its paths."""
        return _walked(self._root, False)

    @cached_property
    def parameters(self) -> Sequence[tuple[str, nn.Parameter]]:
        """(name, parameter) of each, under its first name."""
        return named_parameters(self.modules)

    @cached_property
    def buffers(self) -> Sequence[tuple[str, Tensor]]:
        """(name, buffer) of each, under its first name."""
        return named_buffers(self.modules)

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """Every parameter, then every buffer, by each of its names."""
        return {
            (f"{path}.{name}" if path else name): tensor
            for kind in ("_parameters", "_buffers")
            for path, owner in self.paths
            for name, tensor in getattr(owner, kind).items()
            if tensor is not None
        }


_UNCHANGED = threading.local()
"""`roots`: id of a model that does not change at present -> what it holds."""


def held(root: nn.Module) -> Held:
    """What the modules of a model hold; asked again while it is `unchanged`, the same lists."""
    roots: dict[int, Held] | None = vars(_UNCHANGED).get("roots")
    known = None if roots is None else roots.get(id(root))
    return Held(root) if known is None else known


@contextmanager
def unchanged(*roots: nn.Module) -> Iterator[None]:
    """Whoever opens it says that until its end no module, parameter or buffer comes, goes or is exchanged in these.

    >>> net = nn.Sequential(nn.ReLU())
    >>> with unchanged(net):
    ...     held(net) is held(net)
    True
    >>> held(net) is held(net)
    False
    """
    before = vars(_UNCHANGED).get("roots")
    _UNCHANGED.roots = {id(root): Held(root) for root in roots} | (before or {})
    try:
        yield
    finally:
        _UNCHANGED.roots = before


def unchanged_too(root: nn.Module) -> None:
    """Says the same of one more module, which may have been made within the block, until the block ends; says nothing
    where no block is open.

    >>> net = nn.Sequential(nn.ReLU())
    >>> with unchanged():
    ...     unchanged_too(net)
    ...     held(net) is held(net)
    True
    >>> held(net) is held(net)
    False
    """
    roots = vars(_UNCHANGED).get("roots")
    if roots is not None and id(root) not in roots:
        _UNCHANGED.roots = roots | {id(root): Held(root)}


def named_modules(root: nn.Module, once: bool = True) -> list[tuple[str, nn.Module]]:
    """(path, module) of the root, "", and of every module below it: once, under its first path, or under each.

    >>> [path for path, _ in named_modules(nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU())))]
    ['', '0', '1', '1.0']
    """
    return list(held(root).modules if once else held(root).paths)


def _walked(root: nn.Module, once: bool) -> list[tuple[str, nn.Module]]:
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
        for name, tensor in getattr(module, registry).items():  # a TorchScript module has no such entry in its __dict__
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
