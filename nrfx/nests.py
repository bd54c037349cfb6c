"""Nests: values inside tuples, lists, mappings, dataclasses, and results of a class of the model's own.

A mapping is opened by its items and a dataclass by its fields. A result of another class is known by its state: its
attributes, and its items where it is a dictionary. `Maker` puts it together again without running its __init__, whose
work a graph has recorded already.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, fx
from torch.fx.immutable_collections import immutable_dict


def opened(value: Any) -> list[tuple[Any, Any]] | None:
    """(key, value) of all that a nest holds, in order; None for a leaf."""
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name, None)) for field in fields(value)]
    if isinstance(value, Mapping):
        return [(key, value[key]) for key in value]
    return list(enumerate(value)) if isinstance(value, tuple | list) else None


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, leaf) of all leaves in order, the path as Python writes it.

    >>> list(flat({"image": 1, "more": [2]}, "batch"))
    [("batch['image']", 1), ("batch['more'][0]", 2)]
    """
    inside = opened(value)
    if inside is None:
        yield path, value
        return
    for key, part in inside:
        yield from flat(part, step(path, value, key))


def step(path: str, nest: Any, key: Any) -> str:
    """The path of what a nest at `path` holds under `key`."""
    return f"{path}.{key}" if is_dataclass(nest) else f"{path}[{key!r}]"


def replaced(value: Any, change: Callable[[Any], Any], backwards: bool = False) -> Any:
    """A nest of the same classes with `change(leaf)` in the place of each leaf, in order.

    backwards: whether mappings hold their items in the opposite order.
    """
    inside = opened(value)
    if inside is None and is_made(value, Tensor):
        return made(type(value), replaced(state(value)[0], change), {})
    if inside is None:
        return change(value)
    parts = {key: replaced(part, change, backwards) for key, part in inside}
    kind = type(value)
    if is_dataclass(value):
        attributes, items = state(value)
        return made(kind, attributes | parts, {key: parts.get(key, item) for key, item in items.items()})
    if kind in (dict, immutable_dict):
        return dict(reversed(parts.items())) if backwards else parts
    if isinstance(value, Mapping):
        twin: Any = copy.copy(value)
        for key in reversed(parts) if backwards else parts:
            if backwards:
                del twin[key]
            twin[key] = parts[key]
        return twin
    return kind(*parts.values()) if hasattr(value, "_fields") else kind(parts.values())


def with_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """The nest with `change(tensor)` in the place of each tensor."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (tuple, list):  # nearly all nests; to ask what else it may be takes longer
        return type(value)([with_tensors(part, change) for part in value])
    if type(value) is dict:
        return {key: with_tensors(part, change) for key, part in value.items()}
    if type(value) in PLAIN:
        return value
    return replaced(value, lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf)


PLAIN = frozenset({int, float, bool, str, type(None)})
"""Classes of values that hold nothing."""


def tensors_of(value: Any) -> dict[str, Tensor]:
    """Path -> tensor of a model's result, in order; "output" where it is one tensor. Any object may hold some."""
    found = {}
    for path, leaf in flat(value):
        if isinstance(leaf, Tensor):
            found[path or "output"] = leaf
        elif _has_state(leaf):
            inner = tensors_of(vars(leaf))
            found |= {f"{path}{name}": tensor for name, tensor in inner.items()}
    return found


def is_made(value: Any, kind: type[Any]) -> bool:
    """Whether a value is of a class of the model's own and holds something of this kind, at any depth."""
    if type(value) in (tuple, list, dict) or isinstance(value, kind | tuple | list):
        return False
    if not (isinstance(value, Mapping) or is_dataclass(value) or _has_state(value)) or isinstance(value, type):
        return False
    return any(_holds(part, kind, frozenset({id(value)})) for part in state(value))


def _holds(value: Any, kind: type[Any], seen: frozenset[int] = frozenset()) -> bool:
    if isinstance(value, kind) or id(value) in seen:  # objects may refer to each other
        return isinstance(value, kind)
    inside = opened(value)
    if inside is None:
        inside = list(vars(value).items()) if _has_state(value) else []
    return any(_holds(part, kind, seen | {id(value)}) for _, part in inside)


def _has_state(value: Any) -> bool:
    """Whether a leaf is a plain object with attributes, such as torchvision's ImageList: no class, function, module."""
    package = type(value).__module__.partition(".")[0]
    return hasattr(value, "__dict__") and not callable(value) and package not in ("torch", "builtins", "enum", "numpy")


def state(value: Any) -> tuple[dict[str, Any], dict[Any, Any]]:
    """The attributes of an object, and its items where it is a dictionary."""
    attributes = dict(vars(value)) if hasattr(value, "__dict__") else {}
    if is_dataclass(value):  # slots are no part of __dict__
        attributes |= {field.name: getattr(value, field.name) for field in fields(value) if hasattr(value, field.name)}
    return attributes, dict(value) if isinstance(value, dict) else {}


def made(kind: Any, attributes: Mapping[str, Any], items: Mapping[Any, Any]) -> Any:
    """An object of a class with this state."""
    twin = kind.__new__(kind)
    for name, value in attributes.items():
        object.__setattr__(twin, name, value)
    base: Any = OrderedDict if issubclass(kind, OrderedDict) else dict
    for key, value in items.items():
        base.__setitem__(twin, key, value)
    return twin


class Maker:
    """A function that makes an object of a class from its state, which a graph can call by name."""

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind
        self.__name__, self.__qualname__, self.__module__ = kind.__name__, f"{kind.__qualname__}.made", kind.__module__

    def __call__(self, attributes: Mapping[str, Any], items: Mapping[Any, Any]) -> Any:
        proxy = _proxy_in([*attributes.values(), *items.values()])
        if proxy is None:
            return made(self.kind, attributes, items)
        return proxy.tracer.create_proxy("call_function", self, (attributes, items), {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Maker) and other.kind is self.kind

    def __hash__(self) -> int:
        return hash((Maker, self.kind))

    def __reduce__(self) -> tuple[Any, ...]:
        return Maker, (self.kind,)


def _proxy_in(value: Any) -> Any:
    """A proxy in lists, tuples and dicts: while torch.fx traces a graph module again, its calls are recorded."""
    if isinstance(value, fx.Proxy):
        return value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return next((proxy for proxy in map(_proxy_in, parts) if proxy is not None), None)
