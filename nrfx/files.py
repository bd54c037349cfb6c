# ruff: noqa: PLC0415  pydantic takes 50 ms to import, and only files and settings need it
"""Files: written whole or not at all, and read as values of a class whose annotations say what may stand in them."""

import os
import reprlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from difflib import get_close_matches
from functools import cache, wraps
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from typing_extensions import is_typeddict

from nrfx.errors import CheckpointError, NrfxError

Location = str | os.PathLike[str]
T = TypeVar("T")

LIMIT = 64 * 2**20
"""Characters that are read at most. The metadata of a ResNet-50 with its AdamW have a thousandth of them."""

WORDS = {
    "bool_type": "true or false",
    "dataclass_type": "a table",
    "dict_type": "a table",
    "float_type": "a number",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of {ge:g} or more",
    "int_type": "a whole number",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of {le:g} or less",
    "list_type": "a list",
    "string_pattern_mismatch": "a text of the form {pattern}",
    "string_type": "a text",
    "tuple_type": "a list",
    "value_error": "{error}",
}
"""What is expected, by pydantic's names of errors; of others, pydantic's own words are said."""


def write(path: Location, content: bytes) -> None:
    """Replaces the file in one step, on the disk before it has its name; a CheckpointError leaves what was there."""
    if not isinstance(path, str | os.PathLike):
        raise CheckpointError(f"The path is {path!r}; expected the name of a file.")
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise CheckpointError(
            f"{os.fspath(path)} cannot be written: there is no folder {target.parent}. Make it first."
        )
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise CheckpointError(
            f"{os.fspath(path)} cannot be written ({error.strerror or error}); what was there is as it was. "
            "Choose a place that is writable and has room."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def text_of(path: Path, error: type[NrfxError]) -> str:
    """The text in a file; `error` where it cannot be read, or is longer than LIMIT."""
    try:
        with path.open("rb") as file:
            content = file.read(LIMIT + 1)
        check_length(content, str(path), error)
        return content.decode()
    except (OSError, UnicodeDecodeError) as found:
        raise error(f"{path} cannot be read: {found}.") from found


def check_length(content: str | bytes, place: str, error: type[NrfxError]) -> None:
    """Raises `error` for what is longer than LIMIT."""
    if len(content) > LIMIT:
        raise error(f"{place} is longer than {LIMIT:,} characters, which is more than nrfx writes.")


def parsed(
    kind: type[T],
    content: str | Mapping[str, Any],
    place: str,
    error: type[NrfxError],
    extra: Literal["forbid", "ignore"] = "forbid",
) -> T:
    """The value of a dataclass that JSON describes, or of a TypedDict that a Mapping does.

    No value is made fit: a whole number may stand for a float, and nothing else for another type. What is to become of
    fields that the class has not is said by `extra`.

    Raises:
        NrfxError: of the class `error`, in a sentence that begins with `place`: the field, what was found there, what
            was expected.
    """
    from pydantic import ValidationError

    validate = _adapter(kind).validate_json if isinstance(content, str) else _adapter(kind).validate_python
    try:
        found: T = validate(content, strict=True, extra=extra)
    except ValidationError as problem:
        raise error(_sentence(problem, kind, place)) from problem
    except NrfxError as problem:
        raise error(f"{place}: {problem}") from problem
    return found


def validated(error: type[NrfxError]) -> Callable[[type[T]], type[T]]:
    """Decorates a dataclass, whose constructor then raises `error` for a value that its field's annotation forbids."""

    def made(kind: Any) -> Any:
        @wraps(kind.__init__)
        def __init__(self: T, *args: Any, **values: Any) -> None:
            from pydantic_core import ArgsKwargs, ValidationError

            try:
                _adapter(kind).validator.validate_python(ArgsKwargs(args, values), self_instance=self)
            except ValidationError as problem:
                raise error(_sentence(problem, kind, "")) from problem

        kind.__init__ = __init__
        kind.__pydantic_config__ = {"strict": True, "extra": "forbid", "allow_inf_nan": False}
        return kind

    return made


def _adapter_of(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


_adapter: Callable[[Any], Any] = cache(_adapter_of)


def _sentence(problem: Any, kind: Any, place: str) -> str:
    """The first thing that is wrong, an unknown field before others: it may be what another should have been."""
    unknown = ("unexpected_keyword_argument", "extra_forbidden")
    first = min(problem.errors(include_url=False), key=lambda each: each["type"] not in unknown)
    reason, at, about = first["type"], ".".join(map(str, first["loc"])), first.get("ctx", {})
    if reason == "json_invalid":
        return f"{place} cannot be read as JSON: {about['error']}."
    inside = f"{place}: " if place else ""
    if reason in unknown:
        known = _known(kind, first["loc"])
        close = get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"; close to it: {close[0]}" if close else ""
        return f"{inside}{at!r} is unknown{hint}. Known are {', '.join(known)}."
    if reason == "missing":
        return f"{place or kind.__name__} lacks {at!r}. Known are {', '.join(_known(kind, first['loc']))}."
    expected = WORDS[reason].format(**about) if reason in WORDS else first["msg"].removeprefix("Input should be ")
    return f"{inside + at if at else place} is {reprlib.repr(first['input'])}; expected {expected}."


def _known(kind: Any, path: tuple[int | str, ...]) -> list[str]:
    """The names of the fields beside the one that the path leads to."""
    hints = get_type_hints(kind)
    for step in path[:-1]:
        if (inner := _model(hints.get(str(step)))) is not None:
            hints = get_type_hints(inner)
    return list(hints)


def _model(hint: Any) -> Any:
    """The class with fields in a type, such as that of a tuple's items."""
    if is_dataclass(hint) or is_typeddict(hint):
        return hint
    return next((found for each in get_args(hint) if (found := _model(each)) is not None), None)
