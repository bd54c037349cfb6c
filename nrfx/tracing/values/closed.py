"""Forwards that work on nothing but their arguments and their modules: called again on the same, they do the same.

Their code is read, not run. It may use functions and classes of torch, the plainest ones of Python, methods of modules
and functions of files whose code is as this one, and attributes of modules that are numbers, texts, modules, parameters
and buffers. It may not set an attribute, nor read or write any other variable that is not its own.
"""

import builtins
import dis
import functools
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules import module as _of_all

_BUILTINS = frozenset(
    {abs, all, any, bool, dict, enumerate, filter, float, int, isinstance, len, list, map, max, min, range}
    | {reversed, round, set, slice, sorted, str, sum, tuple, zip}
)
_PLAIN = frozenset({bool, int, float, str, type(None)})
_HARMLESS = frozenset({"__init__", "__repr__", "__str__"})
"""The methods with such names that are called by their names alone."""


class ClosedForwards:
    """Which modules of a model have a forward of this kind. They have no hooks, and hold what they held."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        modules = list(modules)
        self._known: dict[tuple[types.CodeType, int], bool] = {}  # codes of two files may be equal
        self._named: dict[str, list[Any]] = {}  # what an attribute of this name may be, if it is one of a module
        for kind in {base: None for module in modules for base in type(module).__mro__}:
            for name, value in vars(kind).items() if not _is_of_torch(kind) and kind is not object else ():
                self._named.setdefault(name, []).append(value)
        for module in modules:
            for name, value in vars(module).items():
                if name not in _OF_MODULES and not _is_plain(value):
                    self._named.setdefault(name, []).append(value)
        # what Python calls where no name is: an operator, __getattr__, __call__
        self._acts = any(
            name.startswith("__") and name not in _HARMLESS and isinstance(value, types.FunctionType)
            for name, values in self._named.items()
            for value in values
        )

    def has(self, module: nn.Module) -> bool:
        """Whether the forward of this module is one, and nothing else runs where it is called."""
        if (
            _of_all._global_forward_hooks
            or _of_all._global_forward_pre_hooks
            or self._acts
            or "forward" in vars(module)
        ):
            return False
        return self._is_closed(type(module).forward)

    def _is_closed(self, value: Any) -> bool:
        """Whether this is a function whose code is closed, or one of torch."""
        if not isinstance(value, types.FunctionType) or _is_of_torch(value):
            return isinstance(value, types.FunctionType | types.BuiltinFunctionType) and _is_of_torch(value)
        defaults = (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        if value.__closure__ or not all(map(_is_plain, defaults)):
            return False
        return self._has_only_closed(value.__code__, value.__globals__)

    def _has_only_closed(self, code: types.CodeType, scope: Mapping[str, Any]) -> bool:
        key = code, id(scope)
        if key not in self._known:
            self._known[key] = True  # where it calls itself
            names = _names(code)
            self._known[key] = names is not None and (
                all(self._is_global(name, scope) for name in names.of_globals)
                and all(self._is_closed(value) for name in names.of_attributes for value in self._named.get(name, ()))
                and all(self._has_only_closed(part, scope) for part in names.parts)
            )
        return self._known[key]

    def _is_global(self, name: str, scope: Mapping[str, Any]) -> bool:
        """Whether code may read a global variable."""
        if name not in scope:
            return vars(builtins).get(name) in _BUILTINS
        value = scope[name]
        if isinstance(value, types.ModuleType):
            return value.__name__.partition(".")[0] in _TORCHS
        return _is_of_torch(value) if isinstance(value, type) else self._is_closed(value)


@dataclass(frozen=True)
class _Names:
    """What code reads by name: global variables and attributes; and the code of functions that it makes."""

    of_globals: frozenset[str]
    of_attributes: frozenset[str]
    parts: tuple[types.CodeType, ...]


@functools.lru_cache(1024)
def _names(code: types.CodeType) -> _Names | None:
    """What code reads by name; None where it does something else by a name, as to set or to import."""
    of_globals, of_attributes = set(), set()
    for one in dis.get_instructions(code):
        if one.opname == "LOAD_GLOBAL":
            of_globals.add(one.argval)
        elif one.opcode in dis.hasname:
            if one.opname not in ("LOAD_ATTR", "LOAD_METHOD") or one.argval.startswith("__"):
                return None
            of_attributes.add(one.argval)
    parts = tuple(part for part in code.co_consts if isinstance(part, types.CodeType))
    return _Names(frozenset(of_globals), frozenset(of_attributes), parts)


_OF_MODULES = frozenset(vars(nn.Module()))
_TORCHS = ("torch", "_operator", "math")


def _is_of_torch(value: Any) -> bool:
    """Whether a class or function is one of torch, or one of Python that is as plain."""
    return str(value.__module__).partition(".")[0] in _TORCHS


def _is_plain(value: Any) -> bool:
    """Whether nobody can change the value: a number, a text, or a tuple of such."""
    return type(value) in _PLAIN or (type(value) is tuple and all(map(_is_plain, value)))
