"""Where recording a forward failed, why, and what to write instead, in one sentence for the user."""

import functools
import os
import sys
import traceback
import types
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import fx

from nrfx.errors import TraceError

_HERE = str(Path(__file__).parent.parent) + os.sep
_TORCH = str(Path(torch.__file__).parent) + os.sep  # with the separator, or torchvision would count as torch


def is_users(code: types.CodeType) -> bool:
    """Whether code is neither torch's nor ours."""
    return _is_file_of_users(code.co_filename)


@functools.cache
def _is_file_of_users(name: str) -> bool:
    return not name.startswith((_HERE, _TORCH, "<"))


def user_frame() -> types.FrameType | None:
    """The innermost frame whose code is neither torch's nor ours."""
    # a walk up the frames: traceback.extract_stack reads source files, and this runs for every node
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if is_users(frame.f_code):
            return frame
        if frame.f_code is fx.Tracer.trace.__code__:
            return None
        frame = frame.f_back
    return None


def codes_of_users(frame: types.FrameType | None) -> Iterator[types.CodeType]:
    """The code of a frame, and of those around it that is neither torch's nor ours, up to the trace."""
    while frame is not None and frame.f_code is not fx.Tracer.trace.__code__:
        if is_users(frame.f_code):
            yield frame.f_code
        frame = frame.f_back


def user_line() -> str | None:
    """The innermost line of code that is neither torch's nor ours, in the form of a traceback."""
    frame = user_frame()
    if frame is None:
        return None
    return _told(frame.f_code, frame.f_lineno)


_LOOP = "it loops over a tensor. Loop over a number that is known when the model is built, and index with it."
_PLAIN = (
    "it gives a traced value to a function that wants a plain one (torch.zeros(n), torch.tensor(x)). Write "
    "it from a tensor of the forward, such as x.new_zeros, or mark the function with torch.fx.wrap."
)
_NUMPY = "it gives a traced tensor to numpy, which needs its values. Write it with operations of torch."
# What Python, torch or fx says in each case -> what the forward does. The first key that is in the message counts, so
# that "Proxy", which many messages name, comes last.
_CAUSES = {
    "cannot be iterated": _LOOP,
    "control flow": "an `if`, `while` or assert depends on the values of a tensor. Use torch.where, or "
    "move it out of the forward.",
    "'len' is not supported": "it calls len() of a traced value. Use x.shape[0].",
    "not installed as a submodule": "it calls a module that is not registered. Keep modules in attributes, "
    "nn.ModuleList or nn.ModuleDict.",
    "num_batches_tracked is traced": "it averages its running statistics over all batches so far (momentum=None), by a "
    "count that a graph cannot hand on as a Python number. Give it a momentum such as 0.1 (nrfx.recalibrate takes "
    "such averages), or use the batch norms of torch.nn, which stay whole.",
    "cannot be interpreted as an integer": "it uses a traced tensor as a Python number (range, int, float). Use a "
    "number that is known when the model is built.",
    "__array__ method": _NUMPY,
    "__array_ufunc__": _NUMPY,
    "np.ndarray": _NUMPY,
    "argument of type: <class 'function'>": "it gives a function to an operation (a hook on a tensor, a callback), "
    "which a graph does not record. Do it outside the model.",
    "Proxy": _PLAIN,
}


def explained(path: str, kind: str, error: Exception) -> TraceError:
    """The error of a forward that cannot be recorded, with the module, the line, the cause and a way out."""
    said = " ".join(str(error).split())
    itself = f"{type(error).__name__}: {said}"
    if isinstance(error, TypeError):
        itself = f"{itself}. If traced values are involved, {_PLAIN}"
    cause = next((cause for key, cause in _CAUSES.items() if key in said), itself)
    line = _line_of(error)
    where = "" if line is None else f"{line}: "
    return TraceError(f"{place(path, kind)} cannot be traced: {where}{cause}" + ("" if cause.endswith(".") else "."))


def _line_of(error: Exception) -> str | None:
    """The innermost line of code that is neither torch's nor ours in which it was raised."""
    steps = traceback.walk_tb(error.__traceback__)
    found = [(frame.f_code, number) for frame, number in steps if is_users(frame.f_code)]
    return None if not found else _told(*found[-1])


def _told(code: types.CodeType, number: int) -> str:
    """A line of a code in the form of a traceback."""
    return f'File "{code.co_filename}", line {number}, in {code.co_name}'


def place(path: str, kind: str) -> str:
    """A module in words: its path and class, or "The model" for the root."""
    return f"{path} ({kind})" if path else f"The model ({kind})"
