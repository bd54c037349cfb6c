"""A traced module with an instance of the model's class around what it registers, whose own code can run on it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from nrfx.tracing.graph.module import Facts, TracedModule
from nrfx.tracing.graph.registered import HOST


class HostedModule(TracedModule):
    """A traced module that keeps the model's class and plain attributes beside the graph, in `_host`.

    The host has the same dictionaries of parameters, buffers and submodules: a layer that is put here is put there.
    """

    _host: Any

    def __init__(self, root: nn.Module, graphs: Mapping[str, fx.Graph], facts: Facts, name: str) -> None:
        """Takes over `root`, an instance of the model's class."""
        super().__init__(root, graphs, facts, name)
        host = _instance_like(vars(root).get(HOST, root))  # of a traced model that is traced again, its host's
        for field in vars(nn.Module()):
            host.__dict__[field] = self.__dict__[field]
        host.__dict__.update(_forward_hooks={}, _forward_pre_hooks={})  # they are this module's, and run around it
        host.__dict__.pop(HOST, None)
        self.__dict__[HOST] = host

    def train(self, mode: bool = True) -> "HostedModule":
        """Switches the mode, also that of the host."""
        super().train(mode)
        if HOST in self.__dict__:
            self._host.__dict__["training"] = self.training
        return self

    def become(self, other: TracedModule) -> dict[Tensor, Tensor]:
        """Takes over another one's contents. The host keeps its plain attributes."""
        exchanged = super().become(other)
        self.share_with_host()
        return exchanged

    def share_with_host(self) -> None:
        """Gives the host the dictionaries of parameters, buffers and submodules that are here."""
        for field in vars(nn.Module()):
            if not field.startswith("_forward"):
                self._host.__dict__[field] = self.__dict__[field]

    def _contents(self) -> nn.Module:
        """An instance of the model's class with everything that is registered here."""
        plain = _instance_like(self._host)
        for key, value in vars(super()._contents()).items():
            plain.__dict__[key] = value
        return plain


def _instance_like(module: nn.Module) -> nn.Module:
    twin = type(module).__new__(type(module))
    twin.__dict__.update(vars(module))
    return twin
