"""Python values as JSON, their tensors beside them by name: what an optimizer and a Rejuvenator keep is of any shape.

{"tensor": place}   a tensor, kept in the file under the name of its place, such as `optimizer/state/0.weight/step`
{"tuple": [...]}    a tuple; a list stands for itself, as do numbers, text, true, false and null
{"dict": {...}}     a dict whose keys are text
{"pairs": [...]}    a dict with other keys, as lists of key and value; {"counter": pairs} a Counter
"""

import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from nrfx.errors import CheckpointError

PARTS = ("optimizer", "rejuvenator", "extra")
"""What a file holds beside the network; the places of their tensors begin with these, and a slash."""

_KEYS = (str, bool, int, float, type(None))


def is_place(name: str) -> bool:
    """Whether a tensor of that name belongs to another part of the file than the network, by its name."""
    part, slash, _ = name.partition("/")
    return bool(slash) and part in PARTS


def encoded(value: Any, place: str) -> Any:
    """The value as JSON: {"tensor": place}, {"tuple": [...]}, {"dict": {...}} and so on; all else stands for itself."""
    if isinstance(value, Tensor):
        return {"tensor": place}
    if isinstance(value, tuple | list):
        items = [encoded(item, inner) for inner, item in _inside(value, place)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, Counter):
        return {"counter": encoded(dict(value), place)}
    if isinstance(value, dict):
        if odd := [key for key in value if not isinstance(key, _KEYS)]:
            raise CheckpointError(f"{place} has a key {odd[0]!r:.60}; expected numbers and text.")
        if all(isinstance(key, str) for key in value):
            return {"dict": {key: encoded(value[key], f"{place}/{key}") for key in value}}
        return {"pairs": [[key, encoded(value[key], f"{place}/{key}")] for key in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CheckpointError(f"{place} is a {type(value).__name__}, and a file holds numbers, text and tensors only.")


def tensors_in(value: Any, place: str) -> dict[str, Tensor]:
    """The tensors of a value, by the places that encoded gives them.

    Raises:
        CheckpointError: two have one place, for keys differ only in type, or hold a '/'.
    """
    tensors: dict[str, Tensor] = {}
    for inner, tensor in _placed(value, place):
        if inner in tensors:
            raise CheckpointError(
                f"{inner} is the place of two tensors: give them keys that differ as text, without '/'."
            )
        tensors[inner] = tensor
    return tensors


def _placed(value: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield place, value
        return
    for inner, item in _inside(value, place):
        yield from _placed(item, inner)


def tensors_named(value: Any) -> Iterator[str]:
    """The places of the tensors that encoded JSON names."""
    if isinstance(value, dict) and isinstance(value.get("tensor"), str):
        yield value["tensor"]
        return
    for _, item in _inside(value, ""):
        yield from tensors_named(item)


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], _KEYS)


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
    made: Any = value
    match value:
        case list():
            made = [decoded(item, tensors, inner, about) for inner, item in _inside(value, place)]
        case {"tuple": list(items), **others} if not others:
            made = tuple(decoded(items, tensors, place, about))
        case {"counter": dict(items), **others} if not others and items.keys() <= {"dict", "pairs"}:
            made = Counter(decoded(items, tensors, place, about))
        case {"dict": dict(items), **others} if not others:
            made = _decoded_pairs(items.items(), tensors, place, about)
        case {"pairs": [*pairs], **others} if not others and all(_is_pair(pair) for pair in pairs):
            made = _decoded_pairs(pairs, tensors, place, about)
        case {"tensor": str(name), **others} if not others and name == place and name in tensors:
            made = tensors[name].clone()
        case dict():
            raise CheckpointError(
                f"{about}{place} is {reprlib.repr(value)}; expected a tuple, a dict or the tensor of that place."
            )
    return made


def _decoded_pairs(pairs: Iterable[Any], tensors: Mapping[str, Tensor], place: str, about: str) -> dict[Any, Any]:
    return {key: decoded(item, tensors, f"{place}/{key}", about) for key, item in pairs}
