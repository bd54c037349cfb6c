"""A graph module whose code is written and compiled when somebody asks for it: an analysis never does.

The first look at `forward`, on the module or on its class, makes the code: a call, torch.compile, another trace. From
then on every change of the graph does so at once, for what has compiled the module holds its class.
"""

import weakref
from typing import Any

from torch import fx


class LazyCode(fx.GraphModule):
    """A graph module without code, until the first look at its `forward` or `code`."""

    def recompile(self) -> Any:
        """Says that the graph has changed. Each graph module is of a class of its own, which holds its `forward`."""
        if "_code" in self.__dict__:
            return self.compiled()
        _code_class(type(self)).forward = _MadeWhenAsked(self)  # type: ignore[assignment]
        return None

    def __reduce_package__(self, exporter: Any) -> Any:
        self.compiled()  # fx takes the code of `recompile`, which is that from now on
        return super().__reduce_package__(exporter)

    def compiled(self) -> Any:
        """Makes the code of the graph as it is now."""
        kind = type(self)
        own = _code_class(kind)
        if own is kind:
            return super().recompile()
        self.__class__ = own  # fx would write into the class in front of it, whose call would then call itself
        try:
            return super().recompile()
        finally:
            self.__class__ = kind

    @property
    def code(self) -> str:
        """The code of the graph."""
        if "_code" not in self.__dict__:
            self.compiled()
        return super().code

    def __str__(self) -> str:
        if "_code" not in self.__dict__:  # fx prints what it finds there
            self.compiled()
        return super().__str__()


def _code_class(kind: type) -> type[LazyCode]:
    """The class that fx has made for a graph module: wrappers such as fully_shard put another one in front of it."""
    line = kind.__mro__
    ours = next(index for index, each in enumerate(line) if each.__module__.startswith("nrfx."))
    return line[max(ours - 1, 0)]


class _MadeWhenAsked:
    """The `forward` of a graph module that has no code yet."""

    def __init__(self, module: LazyCode) -> None:
        self._module = weakref.ref(module)

    def __get__(self, instance: LazyCode | None, kind: type[LazyCode]) -> Any:
        module = self._module() if instance is None else instance
        if module is None:
            raise AttributeError("forward")  # of a class whose module is gone
        module.compiled()
        return kind.forward if instance is None else instance.forward
