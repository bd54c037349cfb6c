"""The calls of submodules in one run of a model: what each was called with, and where operations took its parameters.

Not handled: calls of a submodule through methods other than its forward, which hooks do not see.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nrfx.errors import TraceError
from nrfx.nests import with_tensors
from nrfx.tracing.graph.arguments import Arguments
from nrfx.tracing.graph.clone import shell
from nrfx.tracing.graph.shapes import InputSpec
from nrfx.tracing.recording.draws import random_state_kept

_LEAVES = (Tensor, type(None), bool, int, float, str, torch.dtype, torch.device)


@dataclass(frozen=True)
class Call:
    """The arguments of a call of a submodule, and the structure of its output.

    None for either where it holds more than tensors and constants.
    """

    arguments: Arguments | None
    output: pytree.TreeSpec | None


@dataclass
class Record:
    """The record of one run of the model.

    Attributes:
        calls: path of a submodule -> its calls, in order.
        reads: parameter or buffer -> for each operation that took it, the submodules then running, outermost first.
    """

    calls: dict[str, list[Call]] = field(default_factory=dict)
    reads: dict[str, set[tuple[str, ...]]] = field(default_factory=dict)


def recorded(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Record:
    """Runs a copy of the model in eval mode. Buffers and inputs are cloned, for the forward may write into them."""
    root = shell(model, lambda tensor: tensor if isinstance(tensor, nn.Parameter) else tensor.clone()).eval()
    record, stack = Record(), list[str]()
    names = {id(t): name for name, t in (*root.named_parameters(), *root.named_buffers())}
    given, named = with_tensors((args, dict(kwargs)), Tensor.clone)
    with torch.no_grad(), random_state_kept(), _watched(root, record, stack), _Reads(names, record, stack):
        try:
            root(*given, **named)
        except Exception as error:  # whatever the model's forward raises
            kind = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise TraceError(
                f"{type(model).__name__} does not run on the example inputs in eval mode ({kind}). To be traced in "
                "parts it must: a tuple holds the arguments, anything else is the only one."
            ) from error
    return record


@contextmanager
def _watched(root: nn.Module, record: Record, stack: list[str]) -> Iterator[None]:
    """While active, the calls of every submodule are recorded; `stack` holds those that are running."""

    # closures, for a hook is given the module and not its path; the root, which has no path, is not recorded
    def before(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            stack.append(path)
            record.calls.setdefault(path, []).append(Call(_arguments(path, args, kwargs), None))

        return hook

    def after(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            stack.pop()
            calls = record.calls[path]
            calls[-1] = replace(calls[-1], output=_structure(output))

        return hook

    with ExitStack() as handles:
        for path, module in root.named_modules():
            if path:
                handles.callback(module.register_forward_pre_hook(before(path), with_kwargs=True).remove)
                handles.callback(
                    module.register_forward_hook(after(path), prepend=True, with_kwargs=True, always_call=True).remove
                )
        yield


def _arguments(path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
    leaves, structure = pytree.tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not tensors or not all(isinstance(leaf, _LEAVES) for leaf in leaves):
        return None
    constants = tuple(None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves)
    stem = path.replace(".", "_")
    names = tuple(f"{stem}_{index}" for index in range(len(tensors)))
    return Arguments(tuple(_spec(tensor) for tensor in tensors), constants, structure, names)


def _spec(tensor: Tensor) -> InputSpec:
    """An empty batch (no detections) is traced as a batch of one, which has channels."""
    return tuple(size or 1 for size in tensor.shape), tensor.dtype


def _structure(output: Any) -> pytree.TreeSpec | None:
    leaves, structure = pytree.tree_flatten(output)
    return structure if all(isinstance(leaf, _LEAVES) for leaf in leaves) else None


# functions and attributes that look at a tensor and do not read its values
_ABOUT = {
    *("size", "dim", "numel", "stride", "is_floating_point", "is_complex", "is_contiguous", "element_size", "__len__"),
    *("get_device", "__hash__", "__repr__", "__format__"),
}
_VIEWS = {"data", "T", "mT", "H", "mH", "real", "imag"}


class _Reads(TorchFunctionMode):
    """Records which parameters and buffers operations take, and which submodules are running then."""

    def __init__(self, names: dict[int, str], record: Record, stack: list[str]) -> None:
        super().__init__()
        self._names, self._record, self._stack = names, record, stack

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        about = name in _ABOUT or (name == "__get__" and func.__self__.__name__ not in _VIEWS)
        for leaf in () if about else pytree.tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and id(leaf) in self._names:
                self._record.reads.setdefault(self._names[id(leaf)], set()).add(tuple(self._stack))
        return func(*args, **(kwargs or {}))
