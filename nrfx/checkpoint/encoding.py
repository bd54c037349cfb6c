"""Python values as JSON, their tensors beside them by name: what an optimizer and a Rejuvenator keep is of any shape.

{"tensor": place}   a tensor, kept in the file under the name of its place, such as `optimizer/state/0.weight/step`
{"tuple": [...]}    a tuple; a list stands for itself, as do numbers, text, true, false and null
{"dict": {...}}     a dict, its keys as text
"""

import reprlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from nrfx.errors import CheckpointError


def encoded(value: Any, place: str) -> Any:
    """The value as JSON: {"tensor": place}, {"tuple": [...]}, {"dict": {...}}; all else stands for itself."""
    if isinstance(value, Tensor):
        return {"tensor": place}
    if isinstance(value, tuple | list):
        items = [encoded(item, inner) for inner, item in _inside(value, place)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict):
        return {"dict": {str(key): encoded(value[key], f"{place}/{key}") for key in value}}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CheckpointError(f"{place} is a {type(value).__name__}, and a file holds numbers, text and tensors only.")


def tensors_in(value: Any, place: str) -> dict[str, Tensor]:
    """The tensors of a value, by the places that encoded gives them."""
    if isinstance(value, Tensor):
        return {place: value}
    return {name: tensor for inner, item in _inside(value, place) for name, tensor in tensors_in(item, inner).items()}


def tensors_named(value: Any) -> Iterator[str]:
    """The places of the tensors that encoded JSON names."""
    if isinstance(value, dict) and isinstance(value.get("tensor"), str):
        yield value["tensor"]
        return
    for _, item in _inside(value, ""):
        yield from tensors_named(item)


def _inside(value: Any, place: str) -> list[tuple[str, Any]]:
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, tuple | list):
        pairs = enumerate(value)
    return [(f"{place}/{key}", item) for key, item in pairs]


def decoded(value: Any, tensors: Mapping[str, Tensor], place: str, about: str = "") -> Any:
    """The value of which encoded made this JSON, with copies of its tensors.

    Raises:
        CheckpointError: encoded makes no such JSON at this place; `about` stands before the place.
    """
    match value:
        case list():
            return [decoded(item, tensors, inner, about) for inner, item in _inside(value, place)]
        case {"tuple": list(items), **others} if not others:
            return tuple(decoded(items, tensors, place, about))
        case {"dict": dict(items), **others} if not others:
            return {key: decoded(item, tensors, f"{place}/{key}", about) for key, item in items.items()}
        case {"tensor": str(name), **others} if not others and name == place and name in tensors:
            return tensors[name].clone()
        case dict():
            raise CheckpointError(
                f"{about}{place} is {reprlib.repr(value)}; expected a tuple, a dict or the tensor of that place."
            )
        case _:
            return value
