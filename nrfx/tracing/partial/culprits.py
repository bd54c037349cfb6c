"""Which submodules and functions an error of a trace came out of: those that were running when it was raised."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType, FunctionType
from typing import Any

import torch
from torch import nn

from nrfx.errors import TraceError
from nrfx.tracing.calls import leaves
from nrfx.tracing.calls.boxes import dotted
from nrfx.tracing.graph.module import imported
from nrfx.tracing.graph.shapes import Shapes
from nrfx.tracing.recording.recorder import Recorder
from nrfx.tracing.values.causes import is_users


@dataclass(frozen=True)
class Culprit:
    """A submodule, by its path, or a function of the user's own, as "package.module:name", that was running."""

    name: str
    function: Any = None


def culprits(error: TraceError) -> list[Culprit]:
    """Those that were running when the error was raised while a model was recorded, the innermost first.

    A function is among them if its name leads to it: the graph calls it by that name, also after it was pickled.
    """
    found = [culprit for frame in _frames(error) if (culprit := _culprit(frame)) is not None]
    return list(dict.fromkeys(reversed(found)))


def _frames(error: BaseException | None) -> Iterator[FrameType]:
    """The frames from the outermost to that of the error or, where this was raised from another, to that of the other.

    What runs on meta tensors, to find the shape of a value, is not recorded.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # an error may be raised from itself
        seen.add(id(error))
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code is Shapes.fill.__code__:
                return
            yield trace.tb_frame
            trace = trace.tb_next
        error = error.__cause__


def _culprit(frame: FrameType) -> Culprit | None:
    if frame.f_code is Recorder.call_module.__code__:
        path = frame.f_locals["self"].submodule_paths.get(frame.f_locals["m"])
        return Culprit(path) if path else None
    if frame.f_code.co_filename == _LEAVES and frame.f_code.co_qualname == _RECORDED:
        return _of_function(frame.f_locals["function"])
    return _of_function(_function(frame))


def _of_function(function: FunctionType | None) -> Culprit | None:
    return None if function is None else Culprit(dotted(function), function)


_LEAVES = leaves.__file__
_RECORDED = f"{leaves.recorded_as_call.__name__}.<locals>.call"
_CALLS = ("forward", "__call__")
_GENERATORS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def _function(frame: FrameType) -> FunctionType | None:
    """The function that runs in a frame, decorators included, if its name leads to it."""
    code = frame.f_code
    if not is_users(code) or code.co_name in _CALLS or code.co_flags & _GENERATORS:
        return None
    try:
        found: Any = imported(f"{frame.f_globals.get('__name__')}.{code.co_qualname}")
    except (AttributeError, ImportError, ValueError):
        return None
    inner = found
    while getattr(inner, "__code__", None) is not code and hasattr(inner, "__wrapped__"):
        inner = inner.__wrapped__
    runs = isinstance(found, FunctionType) and getattr(inner, "__code__", None) is code
    return found if runs and not _is_of_container(found) else None


def _is_of_container(function: FunctionType) -> bool:
    """Whether it is a method that torch itself gives its modules."""
    return getattr(nn.Module, function.__name__, None) is function or function.__module__.startswith(
        torch.__name__ + "."
    )
