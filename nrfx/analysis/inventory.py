"""What a network registers at one moment: the classes of its modules and the shapes of its parameters, by name."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import nn

from nrfx.records import record
from nrfx.tracing import TracedModule

_NONE: Mapping[str, torch.Size] = {}


@record
class Registered:
    """A module under one of its paths: its class, and the shapes of its own parameters by their names in it."""

    path: str
    kind: type[nn.Module]
    shapes: Mapping[str, torch.Size]
    first: bool  # whether it is the first path of the module


@dataclass(frozen=True)
class Inventory:
    """The modules of a network under all their paths, in order, and its parameters, each under its first name."""

    modules: Sequence[Registered]
    parameters: Mapping[str, torch.Size]

    @classmethod
    def of(cls, traced: TracedModule) -> Self:
        """What a network registers now."""
        modules, seen = [], set[int]()
        for path, module in traced.named_modules(remove_duplicate=False):
            registry = module._parameters
            shapes = {name: own.shape for name, own in registry.items() if own is not None} if registry else _NONE
            modules.append(Registered(path, type(module), shapes, id(module) not in seen))
            seen.add(id(module))
        return cls(modules, {name: parameter.shape for name, parameter in traced.named_parameters()})

    def names_below(self, path: str) -> Iterator[str]:
        """The names of the parameters of the module at a path, and of the modules in it."""
        inside, at = f"{path}." if path else "", self._place.get(path, len(self.modules))
        while at < len(self.modules):
            module = self.modules[at]
            if module.path != path and not module.path.startswith(inside):
                return
            yield from (f"{module.path}.{name}" if module.path else name for name in module.shapes)
            at += 1

    @cached_property
    def _place(self) -> dict[str, int]:
        """Path -> the index of its module; those below it come next."""
        return {module.path: index for index, module in enumerate(self.modules)}
