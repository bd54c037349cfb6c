"""Which modules and functions are recorded as one call: those that are asked for, and those that have a rule.

What has a rule of the user's own is recorded as one call wherever the forward calls it from: functions are exchanged in
every file that names them while a forward is recorded, and autograd functions get another `forward`.
"""

import functools
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from torch.fx import _symbolic_trace

from nrfx.errors import TraceError
from nrfx.rules import OPS
from nrfx.rules.registry import AppliedFunction


@dataclass(frozen=True)
class Leaves:
    """The modules that are not looked into, whatever their forward is: by class, and by path in the model."""

    kinds: tuple[type[nn.Module], ...] = ()
    paths: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: nn.Module, wanted: Iterable[type[nn.Module] | nn.Module | str]) -> Self:
        """What a user asks for, as classes, modules of the model or their paths.

        Raises:
            TraceError: one of them is something else, or is not in the model.
        """
        path_of = {id(module): path for path, module in model.named_modules() if path}
        kinds, paths = [], []
        for item in wanted:
            if isinstance(item, type) and issubclass(item, nn.Module):
                kinds.append(item)
            elif isinstance(item, str) and item in path_of.values():
                paths.append(item)
            elif isinstance(item, nn.Module) and id(item) in path_of:
                paths.append(path_of[id(item)])
            else:
                example = next(iter(path_of.values()), "layer1.0")
                raise TraceError(
                    f"leaves has {item!r}; expected a class of modules, a module of the model, or the path of one, "
                    f"such as {example!r}."
                )
        return cls(tuple(kinds), frozenset(paths))

    def has(self, module: nn.Module, path: str) -> bool:
        """Whether a module at that path is one of them."""
        return isinstance(module, self.kinds) or path in self.paths

    def below(self, path: str) -> Self:
        """The same for the submodule at `path` as the root."""
        inner = (name.removeprefix(f"{path}.") for name in self.paths if name.startswith(f"{path}."))
        return type(self)(self.kinds, frozenset(inner))

    def in_model(self, model: nn.Module) -> tuple[str, ...]:
        """The paths of all of them in a model."""
        return tuple(path for path, module in model.named_modules() if self.has(module, path))


@contextmanager
def ruled_functions_recorded() -> Iterator[None]:
    """Functions and autograd functions with a rule of the user's own are recorded as calls in here."""
    functions = [key for key in OPS if isinstance(key, types.FunctionType) and not _is_of_torch(key)]
    applied = [key for key in OPS if isinstance(key, type) and issubclass(key, torch.autograd.Function)]
    undo: list[Callable[[], None]] = []
    try:
        for kind in applied:
            undo.append(_exchanged_forward(kind))
        for restore in _exchanged_names(functions) if functions else ():
            undo.append(restore)
        yield
    finally:
        for restore in reversed(undo):
            restore()


def _is_of_torch(function: Any) -> bool:
    """Whether torch itself records the function: what works on proxies needs no help."""
    return str(function.__module__).partition(".")[0] in ("torch", "_operator", "builtins")


def _recorded(original: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but a call on traced values becomes a node of the graph."""

    @functools.wraps(original, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        proxy = _symbolic_trace._find_proxy(args, kwargs)
        if proxy is None:
            return original(*args, **kwargs)
        return proxy.tracer.create_proxy("call_function", original, args, kwargs)

    return call


def _exchanged_forward(kind: Any) -> Callable[[], None]:
    """Exchanges the forward of an autograd function, which whatever `apply` was kept under some name ends in."""
    own = {name: vars(kind)[name] for name in ("forward", "setup_context") if name in vars(kind)}
    forward, setup = kind.forward, kind.setup_context
    new_style = setup is not torch.autograd.Function.setup_context  # forward then takes no ctx

    def recorded(*args: Any) -> Any:
        given = args if new_style else args[1:]
        proxy = _symbolic_trace._find_proxy(given)
        if proxy is None:
            return forward(*args)
        with torch.enable_grad():  # which `apply` switches off
            return proxy.tracer.create_proxy("call_function", AppliedFunction(kind), given, {})

    def set_up(ctx: Any, inputs: Any, output: Any) -> None:
        if _symbolic_trace._find_proxy(inputs) is None:
            setup(ctx, inputs, output)

    kind.forward = staticmethod(recorded)
    if new_style:
        kind.setup_context = staticmethod(set_up)

    def restore() -> None:
        for name in ("forward", "setup_context") if new_style else ("forward",):
            if name in own:
                setattr(kind, name, own[name])
            else:
                delattr(kind, name)

    return restore


def _exchanged_names(functions: list[Any]) -> Iterator[Callable[[], None]]:
    """Exchanges the functions under every global name that they have."""
    exchange = {id(function): _recorded(function) for function in functions}
    for module in list(sys.modules.values()):
        names = vars(module) if type(module) is types.ModuleType else {}
        for name, value in list(names.items()):
            if id(value) in exchange:
                names[name] = exchange[id(value)]
                yield functools.partial(names.__setitem__, name, value)
