"""The mode of a model, in one walk over its modules: nn.Module.train goes through every attribute that it sets."""

from collections.abc import Iterable

import torch
from torch import nn


def are_only_switched(modules: Iterable[nn.Module]) -> bool:
    """Whether `train` does nothing else to these modules than to set their attribute `training`.

    >>> are_only_switched([nn.BatchNorm2d(3), nn.ReLU()])
    True
    """
    modules = list(modules)
    return all(map(_is_only_switched, set(map(type, modules)))) and not any("train" in vars(each) for each in modules)


def _is_only_switched(kind: type[nn.Module]) -> bool:
    plain = all(getattr(kind, name) is getattr(nn.Module, name) for name in _ASKED)
    own = (base for base in kind.__mro__ if base is not nn.Module)
    return plain and not issubclass(kind, torch.jit.ScriptModule) and not any("training" in vars(base) for base in own)


_ASKED = ("train", "children", "named_children", "__setattr__")
"""What nn.Module.train goes by: who hides a module from its children keeps it in its mode."""


def switch(modules: Iterable[nn.Module], mode: bool) -> None:
    """Sets the mode of modules that are only switched."""
    for module in modules:
        vars(module)["training"] = mode
