"""Questions that a graph cannot answer: does this run have gradients, is this tensor contiguous?

Where a forward asks one, it is recorded a second time with the other answer (both_modes.py): the graph stands for both
only if it is the same. Whether fx traces is answered as in an ordinary run. And `type(x)` is the type of the value: it
is the one question of Python that a proxy does not get to see.
"""

import functools
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.fx import _symbolic_trace

from nrfx.tracing.values.decisions import Decisions
from nrfx.tracing.values.plain import type_stand_in

_SETTLED_BY = {
    "is_grad_enabled": ("no_grad", "enable_grad", "set_grad_enabled"),
    "is_autocast_enabled": ("autocast",),
    "is_inference_mode_enabled": (),
}
"""What is asked, and the regions of a graph (regions.py) that say the answer for what runs in them."""

_DENIED = ("is_fx_tracing", "is_fx_symbolic_tracing")
_LIBRARY = os.path.dirname(os.__file__)
_MACHINERY = ("torch.", "nrfx.tracing.", "nrfx.nests.")


class Questions:
    """What stands in the place of torch's functions, and of `type`, in the files of the forwards of one recording."""

    def __init__(self, decisions: Decisions, otherwise: str) -> None:
        """`otherwise`: the function to which the answer is the other one."""
        asked = {name: getattr(torch, name) for name in _SETTLED_BY}
        denied = {name: getattr(_symbolic_trace, name) for name in _DENIED}
        self._originals = {id(function): (name, function) for name, function in (asked | denied).items()}
        self._instead = {name: _noting(function, decisions, name == otherwise) for name, function in asked.items()}
        self._instead |= {name: _denying(function) for name, function in denied.items()}
        self._seen: set[int] = set()
        self._entered: set[type] = set()

    def enter(self, patcher: Any, module: nn.Module) -> None:
        """Exchanges the functions in the files that the forward of a module, or a function that they import, is in."""
        if not self._seen:
            self._exchange(patcher, vars(torch))
            self._exchange(patcher, vars(_symbolic_trace))
        if type(module) not in self._entered:
            self._entered.add(type(module))
            for scope in _scopes(module):
                self._follow(patcher, scope)

    def _follow(self, patcher: Any, scope: dict[str, Any]) -> None:
        if id(scope) in self._seen or f"{scope.get('__name__')}.".startswith(_MACHINERY):
            return
        of_python = _is_of_python(scope)
        if of_python:
            self._seen.add(id(scope))
        else:
            self._exchange(patcher, scope)
        for name, stand_in in type_stand_in(scope).items():
            patcher.patch(scope, name, stand_in)
        for other in _imported_in_python(scope["__name__"]) if of_python else _imported(scope):
            self._follow(patcher, other)

    def _exchange(self, patcher: Any, scope: dict[str, Any]) -> None:
        self._seen.add(id(scope))
        if self._originals.keys().isdisjoint(map(id, scope.values())):  # nearly all files
            return
        asking = [(key, value) for key, value in scope.items() if id(value) in self._originals]
        for key, value in asking:
            name, original = self._originals[id(value)]
            if value is original:
                patcher.patch(scope, key, self._instead[name])


def _scopes(module: nn.Module) -> Iterator[dict[str, Any]]:
    """The globals of a module's own forward, and of the files of its classes."""
    yield getattr(module.forward, "__globals__", {})
    for kind in type(module).__mro__:
        if kind.__module__ in sys.modules:
            yield vars(sys.modules[kind.__module__])


def _imported(scope: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The globals of the functions and files that a file imports out of its own package."""
    package = str(scope.get("__name__")).partition(".")[0]
    found: dict[int, dict[str, Any]] = {}
    for value in list(scope.values()):
        if isinstance(value, types.FunctionType):
            found[id(value.__globals__)] = value.__globals__
        elif isinstance(value, types.ModuleType) and not hasattr(value, "__path__"):
            found[id(vars(value))] = vars(value)
    for inner in found.values():
        name = str(inner.get("__name__"))
        if (name.partition(".")[0] == package or "." not in name) and "__file__" in inner:
            yield inner


def _is_of_python(scope: dict[str, Any]) -> bool:
    """Whether these are the globals of a file of Python's own library, none of which asks torch."""
    name = str(scope.get("__name__"))
    own = name in sys.stdlib_module_names and getattr(sys.modules.get(name), "__dict__", None) is scope
    return own and str(scope.get("__file__", _LIBRARY)).startswith(_LIBRARY)


@functools.cache
def _imported_in_python(name: str) -> tuple[dict[str, Any], ...]:
    """The same for a file of Python itself, which imports the same in every trace."""
    return tuple(_imported(vars(sys.modules[name])))


def _noting(original: Callable[..., Any], decisions: Decisions, flipped: bool) -> Callable[..., Any]:
    thread = threading.get_ident()

    def asked(*args: Any) -> Any:
        scope = f"{sys._getframe(1).f_globals.get('__name__')}."
        if scope.startswith(_MACHINERY) or threading.get_ident() != thread:
            return original(*args)
        if not decisions.is_settled(_SETTLED_BY[original.__name__]):
            decisions.ask(original.__name__)
            return original(*args) != flipped
        return original(*args)

    return asked


def _denying(original: Callable[[], bool]) -> Callable[[], bool]:
    def denied() -> bool:
        scope = f"{sys._getframe(1).f_globals.get('__name__')}."
        return original() if scope.startswith(_MACHINERY) else False

    return denied
