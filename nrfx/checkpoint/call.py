"""How a network is called, as plain data: which nests its tensors stand in, and the constants beside them.

Objects of classes and constants of torch have a name alone: nothing is imported because a file says so.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nrfx.errors import CheckpointError
from nrfx.tracing import TracedModule

Plain = None | bool | int | float | str

_KINDS: Mapping[type, Literal["tuple", "list", "dict"]] = {tuple: "tuple", list: "list", dict: "dict"}
_CONSTANTS = (type(None), bool, int, float, str)


@dataclass(frozen=True)
class Piece:
    """An argument, or what one holds: "tensor" is the next input; `value` is that of a "value", and of an "object" the
    name of its class; `keys` are those of a "dict"."""

    kind: Literal["tensor", "value", "tuple", "list", "dict", "object"]
    value: Plain = None
    keys: tuple[Plain, ...] = ()
    parts: tuple["Piece", ...] = ()


class _Input:
    """Stands for a tensor."""


def call_of(traced: TracedModule) -> Piece | None:
    """(args, kwargs) of a call of the network; None where its tensors are the arguments, one by one."""
    if traced.facts.form is None:
        return None
    return _piece(traced.facts.call([_Input() for _ in traced.inputs]))


def _piece(value: Any) -> Piece:
    if isinstance(value, _Input):
        return Piece("tensor")
    if type(value) in _CONSTANTS:
        return Piece("value", value)
    kind = _KINDS.get(type(value))
    keys = tuple(value) if kind == "dict" else ()
    if kind is None or not all(type(key) in _CONSTANTS for key in keys):
        return Piece("object", type(value).__name__)
    return Piece(kind, keys=keys, parts=tuple(_piece(part) for part in (value.values() if keys else value)))


def arguments(piece: Piece | None, tensors: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, kwargs) of a call with these tensors.

    Raises:
        CheckpointError: an argument is an object, whose class is not looked for; or the file is not as nrfx writes it.
    """
    if piece is None:
        return tuple(tensors), {}
    rest = iter(tensors)
    call = _made(piece, rest)
    if type(call) is not tuple or [type(part) for part in call] != [tuple, dict] or next(rest, None) is not None:
        raise CheckpointError("its call is no pair of positional and keyword arguments that hold all its inputs.")
    args, kwargs = call
    return args, kwargs


def _made(piece: Piece, tensors: Iterator[Any]) -> Any:
    if piece.kind == "tensor":
        tensor = next(tensors, None)
        if tensor is None:
            raise CheckpointError("its call has more tensors than inputs.")
        return tensor
    if piece.kind == "value":
        return piece.value
    if piece.kind == "object":
        raise CheckpointError(
            f"it was traced on an argument that is or holds a {piece.value}, and classes are not looked for: load it "
            "into nrfx.trace(model, example_inputs) instead of the model."
        )
    parts = [_made(part, tensors) for part in piece.parts]
    if piece.kind == "dict":
        return dict(zip(piece.keys, parts, strict=False))
    return tuple(parts) if piece.kind == "tuple" else parts
