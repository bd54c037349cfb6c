"""One module tree takes over the contents of another, and its objects stay the same objects.

Whoever trains a network holds parts of it: optimizers and clipping hold parameters, wrappers and hooks hold modules. So
what has the same name in both trees stays the object that it was, with the other's contents: a parameter or buffer of
the same kind, dtype and device, a module, of whatever class it becomes (a convolution becomes a cross convolution).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from nrfx.tracing.graph.walk import named_modules

_OF_EVERY_MODULE = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}
_TENSORS = ("_parameters", "_buffers")
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


def exchange(target: nn.Module, source: nn.Module) -> dict[Tensor, Tensor]:
    """Gives `target` what `source` registers, and returns {tensor of the source: tensor of the target in its place}.

    Attributes of the root are left to the caller. `source` is used up: tensors and modules of it become the target's.
    Hooks of the target stay.
    """
    before = dict(named_modules(target, once=False))
    names = dict(named_modules(source, once=False))
    kept_tensors = _Kept(source, before, names)
    kept_modules = {id(source): target}
    taken = {id(target)}
    for path, module in names.items():
        old = before.get(path)
        if id(module) not in kept_modules and old is not None and id(old) not in taken and _may_become(old, module):
            kept_modules[id(module)] = old
            taken.add(id(old))
    for path, module in named_modules(source):
        kept = kept_modules.get(id(module), module)
        children = {
            name: None if child is None else kept_modules.get(id(child), child)
            for name, child in module._modules.items()
        }
        _refill(kept._modules, children)
        for registry in _TENSORS:
            contents = {name: kept_tensors.of(tensor) for name, tensor in getattr(module, registry).items()}
            _refill(getattr(kept, registry), contents)
        unsaved = set(module._non_persistent_buffers_set)
        kept._non_persistent_buffers_set.clear()
        kept._non_persistent_buffers_set.update(unsaved)
        if path and kept is not module:
            _take_attributes(kept, module)
    return kept_tensors.exchanged


class _Kept:
    """The tensors of a target that stay the same objects."""

    def __init__(self, source: nn.Module, before: dict[str, nn.Module], names: dict[str, nn.Module]) -> None:
        self.exchanged: dict[Tensor, Tensor] = {}
        self._keepable: dict[int, Tensor] = {}
        taken: set[int] = set()
        for path, module in names.items():
            if path not in before:
                continue
            for registry in _TENSORS:
                for name, tensor in getattr(module, registry).items():
                    old = getattr(before[path], registry).get(name)
                    if tensor is None or old is None or id(tensor) in self._keepable or id(old) in taken:
                        continue
                    if _alike(old, tensor):
                        self._keepable[id(tensor)] = old
                        taken.add(id(old))

    def of(self, tensor: Tensor | None) -> Tensor | None:
        """The object that stands for a tensor of the source, with its data."""
        if tensor is None or id(tensor) not in self._keepable:
            return tensor
        old = self._keepable[id(tensor)]
        if tensor not in self.exchanged:
            self.exchanged[tensor] = old
            put_data(old, tensor)
        return old


def _alike(old: Tensor, new: Tensor) -> bool:
    """Whether the old object can hold the data of the new one."""
    return (
        old is not new
        and type(old) is type(new)
        and old.dtype == new.dtype
        and old.device == new.device
        and old.requires_grad == new.requires_grad
        and old.is_leaf
        and not old.is_inference()
        and not new.is_inference()
    )


def put_data(tensor: Tensor, source: Tensor) -> None:
    """Makes a tensor hold the data of another one, of any shape, without a gradient.

    The node that accumulates its gradients lives as long as somebody holds a loss of before, and checks gradients for
    the shape that the tensor had when the node was made. Data of another dtype makes torch forget the node.
    """
    tensor.grad = None
    if tensor.requires_grad:
        other = torch.float32 if tensor.dtype == torch.float64 else torch.float64
        tensor.data = torch.empty(0, dtype=other, device=tensor.device)
    tensor.data = source.detach()


def _refill(registry: dict[str, Any], contents: dict[str, Any]) -> None:
    """Exchanges the contents of a dictionary, which others may hold too."""
    registry.clear()
    registry.update(contents)


def _take_attributes(kept: nn.Module, module: nn.Module) -> None:
    """Takes over widths and other plain values, and tensors that are no results; for layers of nrfx, everything."""
    own, new = vars(kept), vars(module)
    kept.training = module.training
    whole = _is_ours(type(module))
    if type(kept) is not type(module):
        kept.__class__ = type(module)
    for name in [name for name in own if name not in new and name not in _OF_EVERY_MODULE]:
        if _is_plain(own[name]):
            del own[name]
    for name, value in new.items():
        if name in _OF_EVERY_MODULE:
            continue
        if whole or name not in own or _is_plain(value) or (isinstance(value, Tensor) and value.is_leaf):
            own[name] = value


def _is_plain(value: Any) -> bool:
    """Whether a value holds numbers and text alone, and no module, hook or object of the user's own."""
    if isinstance(value, dict):
        return all(_is_plain(item) for pair in value.items() for item in pair)
    if isinstance(value, tuple | list | set | frozenset):
        return all(_is_plain(item) for item in value)
    return isinstance(value, _PLAIN)


def _may_become(old: nn.Module, new: nn.Module) -> bool:
    """Whether the old object can be what the new one is: it is, or one of both is a layer of nrfx."""
    kinds = type(old), type(new)
    return kinds[0] is kinds[1] or any(_is_ours(kind) for kind in kinds)


def _is_ours(kind: type[nn.Module]) -> bool:
    """Whether a class is of nrfx, and no graph module, each of which has a class of its own."""
    return kind.__module__.startswith("nrfx.") and not issubclass(kind, fx.GraphModule)


class Snapshot:
    """Everything that `exchange` changes in a module tree, to be put back after a failure."""

    def __init__(self, *roots: nn.Module) -> None:
        modules = [module for root in roots for _, module in named_modules(root)]
        self._modules = {id(module): (module, type(module), dict(vars(module))) for module in modules}.values()
        registries = {id(each): each for module in modules for each in _registries(module)}
        self._registries = [(each, dict(each)) for each in registries.values()]
        tensors = {id(each): each for _, contents in self._registries for each in contents.values()}
        self._tensors = [
            (each, each.detach(), each.grad) for each in tensors.values() if isinstance(each, Tensor) and each.is_leaf
        ]

    def restore(self) -> None:
        """Puts everything back."""
        for module, kind, attributes in self._modules:
            if type(module) is not kind:
                module.__class__ = kind
            vars(module).clear()
            vars(module).update(attributes)
        for registry, contents in self._registries:
            _refill(registry, contents)
        for tensor, data, grad in self._tensors:
            if tensor.data_ptr() != data.data_ptr() or tensor.shape != data.shape:
                put_data(tensor, data)
            tensor.grad = grad


def _registries(module: nn.Module) -> Iterator[dict[str, Any]]:
    yield module._modules
    for name in _TENSORS:
        yield getattr(module, name)
