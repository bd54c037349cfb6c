# ruff: noqa: PLC0415  pydantic takes 50 ms to import, and only reading a file needs it
"""Files: written whole or not at all, and read as values of a class whose annotations say what may stand in them."""

import os
import re
import reprlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, get_args, get_type_hints

from typing_extensions import is_typeddict

from nrfx.errors import CheckpointError, NrfxError
from nrfx.locks import locked

Location = str | os.PathLike[str]
T = TypeVar("T")

LIMIT = 64 * 2**20
"""Characters that are read at most. The metadata of a ResNet-50 with its AdamW have a thousandth of them."""

MOST = 10_000
"""Faults that are looked at, to say the first of them."""

WORDS = {"bool": "true or false", "float": "a number", "int": "a whole number", "string": "a text"}
WORDS |= dict.fromkeys(("dataclass", "dict"), "a table") | dict.fromkeys(("list", "tuple"), "a list")
"""What is expected, by pydantic's names of types; for the rest, its own words are said."""


def write(path: Location, *pieces: bytes | memoryview) -> None:
    """Replaces the file by these pieces in one step, on the disk before it has its name.

    Raises:
        CheckpointError: it cannot be written; what was there is as it was.
    """
    if not isinstance(path, str | os.PathLike):
        raise CheckpointError(f"The path is {path!r}; expected the name of a file.")
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise CheckpointError(
            f"{os.fspath(path)} cannot be written: there is no folder {target.parent}. Make it first."
        )
    temporary: Path | None = None
    try:
        remove_left(target.parent, target.name)
        with _temporary(target) as file:
            temporary = Path(file.name)
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise CheckpointError(
            f"{os.fspath(path)} cannot be written ({error.strerror or error}); what was there is as it was. "
            "Choose a place that is writable and has room."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _temporary(target: Path) -> BinaryIO:
    """A new file beside the target, locked as long as it is open, so that remove_left leaves it alone."""
    while True:
        file = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp").open("xb")
        if locked(file.fileno()) is not False and os.path.exists(file.name):
            return file
        file.close()  # remove_left came between open and lock


def remove_left(folder: Path, name: str | None = None) -> None:
    """Removes temporary files that killed writers of the file `name` (None: of any) left in the folder."""
    pattern = re.compile(rf"\.{'.+' if name is None else re.escape(name)}\.[0-9a-f]{{8}}\.tmp")
    for entry in [entry for entry in os.scandir(folder) if pattern.fullmatch(entry.name)]:
        with suppress(OSError), open(entry.path, "rb") as file:
            if locked(file.fileno()):  # its writer lives no more
                os.unlink(entry.path)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Makes a CheckpointError that names the place of what the system refuses."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{place} cannot be written ({error.strerror or error}). Choose a place that is writable and has room."
        ) from error


def text_of(path: Path, error: type[NrfxError]) -> str:
    """The text in a file; `error` where it cannot be read, or is longer than LIMIT."""
    try:
        if path.stat().st_size > LIMIT:
            raise error(f"{path} is longer than {LIMIT:,} characters, which is more than nrfx writes.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failure:
        raise error(f"{path} cannot be read: {failure}.") from failure


def parsed(
    kind: Callable[..., T], content: str | Mapping[str, Any], place: str, error: type[NrfxError], **how: Any
) -> T:
    """The value of a dataclass that JSON describes, or of a TypedDict that a Mapping does; nothing is made to fit.

    Raises:
        NrfxError: of the class `error`: place and field, what was found there, what was expected.
    """
    from pydantic import ValidationError

    if isinstance(content, str) and len(content) > LIMIT:
        raise error(f"{place} is longer than {LIMIT:,} characters, which is more than nrfx writes.")
    validator = _adapter(kind)
    validate = validator.validate_json if isinstance(content, str) else validator.validate_python
    try:
        value: T = validate(content, **{"strict": True, "extra": "forbid", **how})
    except ValidationError as problem:
        raise error(place + _sentence(problem, kind)) from problem
    except NrfxError as problem:
        raise error(f"{place}: {problem}") from problem
    return value


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter
    from pydantic_core import SchemaValidator

    return SchemaValidator(_failing_fast(TypeAdapter(kind).core_schema))


def _failing_fast(schema: Any) -> Any:
    """A schema of pydantic whose lists and tables end at their first fault: a million of them would take a gigabyte."""
    if isinstance(schema, list):
        return [_failing_fast(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: _failing_fast(value) for key, value in schema.items()}
    return inner | ({"fail_fast": True} if schema.get("type") in ("list", "tuple", "dict") else {})


def _sentence(problem: Any, kind: Any) -> str:
    """What goes on behind the place: the first that is wrong, unknown fields before what they may have meant to be."""
    unknown = ("unexpected_keyword_argument", "extra_forbidden")
    if problem.error_count() > MOST:
        return f" has {problem.error_count():,} fields that do not fit."
    first = min(problem.errors(include_url=False), key=lambda each: each["type"] not in unknown)
    reason, path, at = first["type"], first["loc"], ".".join(map(str, first["loc"]))
    if reason == "json_invalid":
        return f" cannot be read as JSON: {first['ctx']['error']}."
    if reason in (*unknown, "missing"):
        known = _fields(kind, [step for step in path[:-1] if isinstance(step, str)])
        close = get_close_matches(str(path[-1]), known, n=1)
        state = (
            f" lacks {at!r}" if reason == "missing" else f": {'; close to it: '.join([f'{at!r} is unknown', *close])}"
        )
        return f"{state}. Known are {', '.join(known)}."
    expected = WORDS.get(reason[:-5], first["msg"].removeprefix("Input should be ").removeprefix("Value error, "))
    return f"{at and f': {at}'} is {reprlib.repr(first['input'])}; expected {expected}."


def _fields(hint: Any, path: list[str]) -> list[str]:
    """The fields of the class in a type, or of the one in it to which the path leads."""
    if is_dataclass(hint) or is_typeddict(hint):
        hints = get_type_hints(hint)
        return _fields(hints.get(path[0]), path[1:]) if path else list(hints)
    return next(filter(None, (_fields(inner, path) for inner in get_args(hint))), [])
