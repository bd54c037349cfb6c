"""TorchScript modules inside of a model: plain modules that hold their parameters and buffers, and call them.

Nothing can be exchanged in a TorchScript module by the ways of Python: no hook is registered on it, no tensor of it is
shared with a copy. A plain module in its place has the same names and tensors, and binds them before each call.
"""

import copy
import io
from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn


class Held(nn.Module):
    """The parameters and buffers of one module inside of a TorchScript module, without its code."""

    def __init__(self, script: Any, tensor: Callable[[Tensor], Any]) -> None:
        super().__init__()
        for name, value in script._parameters.items():
            self.register_parameter(name, tensor(value))
        for name, value in script._buffers.items():
            self.register_buffer(name, tensor(value))
        for name, child in script._modules.items():
            self.add_module(name, Held(child, tensor))
        self.training = getattr(script, "training", False)  # a frozen one has no mode

    def forward(self, *_: Any, **__: Any) -> Any:
        """Refused: the code is that of the whole TorchScript module."""
        raise NotImplementedError("It holds the tensors of a part of a TorchScript module, which runs as a whole.")


class Scripted(Held):
    """A TorchScript module as one call, with parameters and buffers that others may exchange.

    Args:
        script: stays as it is; a copy of it runs.
        tensor: gives the tensor that stands for each of its parameters and buffers.
    """

    def __init__(self, script: Any, tensor: Callable[[Tensor], Any]) -> None:
        super().__init__(script, tensor)
        self.__dict__["script"] = copy.deepcopy(script)  # not registered: its tensors have the same names

    script: Any

    @property
    def kind(self) -> str:
        """The name of the class that the TorchScript module was made from."""
        name: str = getattr(self.script, "original_name", type(self.script).__name__)
        return name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the TorchScript module gives with these parameters and buffers, in this mode."""
        self._bind()
        try:
            result = self.script(*args, **kwargs)
        except torch.jit.Error as error:  # its first lines say no more than that something failed
            lines = str(error).strip().splitlines()
            raise RuntimeError(next((line for line in lines if "Error: " in line), str(error))) from error
        for own, held in _pairs(self.script, self):
            for name in held._buffers:
                held._buffers[name] = getattr(own, name)  # it may have set another one
        return result

    def bound(self) -> Any:
        """The TorchScript module itself, with these parameters and buffers, in this mode."""
        self._bind()
        return self.script

    def _bind(self) -> None:
        for own, held in _pairs(self.script, self):
            if hasattr(own, "training"):
                own.training = held.training
            for name, value in (*held._parameters.items(), *held._buffers.items()):
                setattr(own, name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        contents = {key: value for key, value in vars(self).items() if key != "script"}
        twin.__dict__.update(copy.deepcopy(contents, memo), script=copy.deepcopy(self.script))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        self._bind()
        file = io.BytesIO()
        torch.jit.save(self.script, file)
        return {**vars(self), "script": file.getvalue()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        script = torch.jit.load(io.BytesIO(state["script"]))
        super().__setstate__({**state, "script": script})  # type: ignore[no-untyped-call]


def _pairs(own: Any, held: nn.Module) -> Iterator[tuple[Any, nn.Module]]:
    """Each module of a TorchScript module, with the one that holds its tensors."""
    yield own, held
    for name, child in held._modules.items():
        assert child is not None
        yield from _pairs(getattr(own, name), child)
