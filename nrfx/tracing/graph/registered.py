"""A graph module whose own attributes do not hide what a model registers under the same names (a layer named `graph`).

`gm.graph` is the graph; the layer is `gm.get_submodule("graph")`, and so it is called in the code of the graph. Its
parameters have the model's names everywhere: `graph.weight`.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx, nn

from nrfx.tracing.graph import walk
from nrfx.tracing.graph.lazy_code import LazyCode

HOST = "_host"
"""The attribute that holds an instance of the model's class around what a traced module registers (hosted.py)."""
ORIGINAL = "_original"
"""The attribute that holds a weak reference to the model that was traced (original.py)."""
ENTRY = "_entry"
"""The attribute that keeps the entry of a rewritten network's state dict, with the facts it is of (stated.py)."""
_SET = ("facts", "_by_mode", HOST, ORIGINAL, ENTRY, "_log", "_part_codes")
"""Attributes of a traced module, or of one in parts, that are set on the instance."""


class Registered(LazyCode):
    """Looks names of the model up among what is registered."""

    def registered(self, name: str) -> Any:
        """The submodule, parameter or buffer of that name, even where an attribute of graph modules has the same."""
        for registry in (self._modules, self._parameters, self._buffers):
            if name in registry:
                return registry[name]
        return getattr(self, name)

    def get_submodule(self, target: str) -> nn.Module:
        """As for any module, by its path; a rewrite asks thousands of times."""
        found: nn.Module | None = self
        for name in target.split(".") if target else ():
            found = found._modules.get(name) if found is not None else None
        if found is not None:
            return found
        first, _, rest = target.partition(".")  # an error, or what is a plain attribute
        child = self._modules.get(first)
        return super().get_submodule(target) if child is None else child.get_submodule(rest)

    def get_parameter(self, target: str) -> nn.Parameter:
        """As for any module, by its path."""
        own = self._parameters.get(target)
        return super().get_parameter(target) if own is None else own

    def get_buffer(self, target: str) -> Tensor:
        """As for any module, by its path."""
        own = self._buffers.get(target)
        return super().get_buffer(target) if own is None else own

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """As for any module, in half the time: an analysis asks often (walk.py)."""
        if memo is None and not prefix:
            return iter(walk.held(self).modules if remove_duplicate else walk.held(self).paths)
        modules: Iterator[tuple[str, nn.Module]] = super().named_modules(memo, prefix, remove_duplicate)
        return modules

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """As for any module, in less than half the time."""
        if recurse and remove_duplicate and not prefix:
            return iter(walk.held(self).parameters)
        return super().named_parameters(prefix, recurse, remove_duplicate)

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """As for any module, in less than half the time."""
        if recurse and remove_duplicate and not prefix:
            return iter(walk.held(self).buffers)
        return super().named_buffers(prefix, recurse, remove_duplicate)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in own_names():  # a submodule of that name would refuse it
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)


def registered(module: nn.Module, path: str) -> Any:
    """What is registered at a path in any module, or is an attribute there."""
    owner, _, name = path.rpartition(".")
    holder = module.get_submodule(owner)
    return holder.registered(name) if isinstance(holder, Registered) else getattr(holder, name)


_OWN_NAMES: list[frozenset[str]] = []


def own_names() -> frozenset[str]:
    """The attributes that traced modules have and other modules have not."""
    if not _OWN_NAMES:  # torch.compile looks into this, and warns of functools.cache
        _OWN_NAMES.append(_own_names())
    return _OWN_NAMES[0]


def _own_names() -> frozenset[str]:
    kinds = [Registered]
    for kind in kinds:
        kinds += [sub for sub in kind.__subclasses__() if sub.__module__.startswith("nrfx.")]
    own = {name for kind in kinds for name in dir(kind)} | {*_SET, *vars(fx.GraphModule(nn.Module(), fx.Graph()))}
    return frozenset(own - set(dir(nn.Module())))
