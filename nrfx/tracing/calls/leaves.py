"""Which modules and functions are recorded as one call: those that are asked for, and those that have a rule.

What has a rule of the user's own is recorded as one call wherever the forward calls it from: functions, and `apply` of
autograd functions, run other code while a forward is recorded. So is every autograd function that is loaded, for its
backward may be anything; those of torch's checkpoints are looked into.
"""

import functools
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import nn
from torch.fx import _symbolic_trace
from torch.fx._symbolic_trace import _wrapped_fns_to_patch
from torch.utils.checkpoint import CheckpointFunction

from nrfx.errors import TraceError
from nrfx.rules import OPS
from nrfx.rules.registry import AppliedFunction, is_of_torch


@dataclass(frozen=True)
class Leaves:
    """The modules that are not looked into, whatever their forward is: by class, and by path in the model."""

    kinds: tuple[type[nn.Module], ...] = ()
    paths: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: nn.Module, wanted: Iterable[type[nn.Module] | nn.Module | str]) -> Self:
        """What a user asks for, as classes, modules of the model or their paths.

        Raises:
            TraceError: `wanted` is no list of them; one of them is something else, or is not in the model.
        """
        if isinstance(wanted, str | type | nn.Module) or not isinstance(wanted, Iterable):
            raise TraceError(
                f"leaves is a {type(wanted).__name__}; expected a list of classes, modules or paths: leaves=[...]."
            )
        asked = [*wanted]
        path_of = {id(module): path for path, module in model.named_modules() if path} if asked else {}
        kinds, paths = [], []
        for item in asked:
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

    @property
    def are_wanted(self) -> bool:
        """Whether there are any."""
        return bool(self.kinds or self.paths)

    def has(self, module: nn.Module, path: str) -> bool:
        """Whether a module at that path is one of them."""
        return isinstance(module, self.kinds) or path in self.paths

    def and_paths(self, paths: Iterable[str]) -> Self:
        """These, and the modules at the given paths."""
        return replace(self, paths=self.paths.union(paths))

    def below(self, path: str) -> Self:
        """The same for the submodule at `path` as the root."""
        inner = (name.removeprefix(f"{path}.") for name in self.paths if name.startswith(f"{path}."))
        return type(self)(self.kinds, frozenset(inner))

    def in_model(self, model: nn.Module) -> tuple[str, ...]:
        """The paths of all of them in a model, which is itself always looked into."""
        if not self.are_wanted:
            return ()
        return tuple(path for path, module in model.named_modules() if path and self.has(module, path))


@contextmanager
def ruled_functions_recorded() -> Iterator[None]:
    """Functions and autograd functions with a rule of the user's own are recorded as calls in here."""
    functions = {id(function): function for key in OPS if (function := _function(key)) is not None}
    with ExitStack() as active:
        for function in functions.values():
            active.enter_context(exchanged(function, recorded_as_call))
        for kind in _applied():
            active.callback(_exchanged_forward(kind))
        active.callback(_exchanged_static(CheckpointFunction, {"forward": _looked_into}))
        yield


def _function(key: Any) -> types.FunctionType | None:
    """The function of the user's own that a key of a rule stands for, if it is loaded."""
    if type(key) is str:
        package, dotted, name = key.partition(":")
        if not dotted:  # a method of tensors
            return None
        key = functools.reduce(
            lambda owner, part: getattr(owner, part, None), name.split("."), sys.modules.get(package)
        )
    return key if type(key) is types.FunctionType and not is_of_torch(key) else None


def recorded_as_call(function: types.FunctionType, original: Callable[..., Any]) -> Callable[..., Any]:
    """What takes the place of a function: a call on traced values becomes a node of the graph."""

    def call(*args: Any, **kwargs: Any) -> Any:
        proxy = _symbolic_trace._find_proxy(args, kwargs)
        if proxy is None:
            return original(*args, **kwargs)
        return proxy.tracer.create_proxy("call_function", function, args, kwargs)

    return call


def _applied() -> list[Any]:
    """The autograd functions that are neither torch's nor ours, and those with a rule."""
    kinds: list[Any] = [torch.autograd.Function]
    for kind in kinds:  # it grows; a base comes before its subclasses
        kinds += [own for own in kind.__subclasses__() if own not in kinds]
    return [kind for kind in kinds if kind in OPS or not (is_of_torch(kind) or kind.__module__.startswith("nrfx.nn."))]


def _looked_into(ctx: Any, run_function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
    """The forward of a reentrant checkpoint, which has gradients again when it runs for the second time."""
    proxy: Any = _symbolic_trace._find_proxy(args)
    if proxy is None:
        return _FORWARD(ctx, run_function, preserve_rng_state, *args)
    with proxy.tracer.regions.modes_kept():
        return run_function(*args)


_FORWARD: Any = CheckpointFunction.forward


def _calls_instead(*args: Any, instead_: Callable[..., Any], **kwargs: Any) -> Any:
    return instead_(*args, **kwargs)


@contextmanager
def exchanged(function: Any, instead: Callable[[Any, Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Exchanges what a function does. Its code is exchanged, for the function itself may be kept under any name, in any
    table, class or closure."""
    code, named = function.__code__, function.__kwdefaults__
    original = types.FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    original.__kwdefaults__ = named
    # in this order, and back in the other: another thread may call the function in between
    function.__kwdefaults__ = {**(named or {}), "instead_": instead(function, original)}
    function.__code__ = _calls_instead.__code__.replace(co_freevars=code.co_freevars)
    try:
        yield
    finally:
        function.__code__ = code
        function.__kwdefaults__ = named


def _exchanged_forward(kind: Any) -> Callable[[], None]:
    """Exchanges the forward of an autograd function, in which whatever `apply` was kept under some name ends."""
    forward, setup = kind.forward, kind.setup_context
    function = AppliedFunction(kind)
    new_style = function.is_new_style

    @functools.wraps(forward)  # `apply` asks for its signature
    def recorded(*args: Any) -> Any:
        given = args if new_style else args[1:]
        proxy: Any = _symbolic_trace._find_proxy(given)
        if proxy is None or any(isinstance(arg, types.FunctionType | nn.Module) for arg in given):
            return forward(*args)
        with proxy.tracer.regions.modes_kept():
            return proxy.tracer.create_proxy("call_function", function, given, {})

    def set_up(ctx: Any, inputs: Any, output: Any) -> None:
        if _symbolic_trace._find_proxy(inputs) is None:
            setup(ctx, inputs, output)

    return _exchanged_static(kind, {"forward": recorded} | ({"setup_context": set_up} if new_style else {}))


def _exchanged_static(kind: Any, instead: dict[str, Callable[..., Any]]) -> Callable[[], None]:
    """Exchanges static methods of a class; returns what puts them back."""
    own = {name: vars(kind)[name] for name in instead if name in vars(kind)}
    for name, method in instead.items():
        setattr(kind, name, staticmethod(method))

    def restore() -> None:
        for name in instead:
            if name in own:
                setattr(kind, name, own[name])
            else:
                delattr(kind, name)

    return restore


_ENTERED = ("torchvision.models.", "timm.")
"""Packages whose functions marked with torch.fx.wrap are recorded op by op: attention, with weights and multiply-adds
that the graph must show. Marked functions of other packages stay one call, as their authors ask for."""


@contextmanager
def wrapped_functions_entered() -> Iterator[None]:
    """Functions that torchvision and timm mark with torch.fx.wrap are ordinary ones in here."""
    entered = {
        key: scope for key, scope in _wrapped_fns_to_patch.items() if scope.get("__name__", "").startswith(_ENTERED)
    }
    for key in entered:
        del _wrapped_fns_to_patch[key]
    try:
        yield
    finally:
        _wrapped_fns_to_patch.update(entered)
