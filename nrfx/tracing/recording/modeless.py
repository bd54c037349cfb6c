"""One recording for both modes, where a forward never asks in which mode it runs.

A module's mode is its attribute `training`. Here it is taken from every module of a shell, and a descriptor of
nn.Module answers in its place: as in eval mode, and that it was asked. Then the recording is that of eval mode. Other
modules have the attribute themselves, which hides the descriptor from them.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from nrfx.tracing.graph.walk import named_modules


class ModeSet(Exception):
    """The forward changes the mode of a module."""


class Answer:
    """`training` of modules that are in no mode: False.

    Attributes:
        asked: whether somebody has asked.
    """

    def __init__(self) -> None:
        self.asked = False
        self._thread = threading.get_ident()

    def __get__(self, module: Any, kind: Any) -> bool:
        if module is None or threading.get_ident() != self._thread:  # another thread has modules of other kinds
            raise AttributeError(f"'{kind.__name__}' object has no attribute 'training'")
        self.asked = True
        return False


@contextmanager
def without_modes(root: nn.Module) -> Iterator[Answer]:
    """The modules of `root` are in no mode in here, and afterwards in theirs.

    Raises:
        ModeSet: at the end, where the forward has set a mode.
    """
    contents = [vars(module) for _, module in named_modules(root)]
    modes = [(own, own.pop("training")) for own in contents if "training" in own]
    around, answer = vars(nn.Module).get("training"), Answer()
    _answer_with(answer)
    try:
        yield answer
    finally:
        _answer_with(around)
    if any("training" in vars(module) for _, module in named_modules(root)):
        raise ModeSet
    for own, training in modes:
        own["training"] = training


def _answer_with(answer: Answer | None) -> None:
    if answer is None:
        delattr(nn.Module, "training")
    else:
        setattr(nn.Module, "training", answer)  # noqa: B010  for mypy, which knows it as a bool


def may_share(model: nn.Module) -> bool:
    """Whether `train` of the model does nothing but to switch the mode of every module."""
    modules = [module for _, module in named_modules(model)]
    return all(map(_is_plain, set(map(type, modules)))) and not any("train" in vars(module) for module in modules)


def _is_plain(kind: type[nn.Module]) -> bool:
    own = {name for base in kind.__mro__ if base is not nn.Module for name in vars(base)}
    return own.isdisjoint({"train", "training"}) and not issubclass(kind, torch.jit.ScriptModule)
