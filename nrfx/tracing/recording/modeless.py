"""One recording for both modes, where a forward never asks in which mode it runs.

A module's mode is its attribute `training`. Here it is taken from every module of a shell, and a descriptor of
nn.Module answers in its place: as in eval mode, and that it was asked. Then the recording is that of eval mode. Other
modules have the attribute themselves, which hides the descriptor from them.

Code that only hands the mode on, to ops such as dropout, gets a `Flag`, which is both modes: then the one recording
holds for both, with `BOTH` where the mode stands.
"""

import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from nrfx.tracing.graph.switch import are_only_switched
from nrfx.tracing.graph.walk import named_modules
from nrfx.tracing.values.bytecode import catches, loads
from nrfx.tracing.values.causes import codes_of_users
from nrfx.tracing.values.handed_on import only_handed_on


class ModeSet(Exception):
    """The forward changes the mode of a module."""


class Flag:
    """The mode of a module, True in train mode and False in eval mode. Asked for its truth it is False, and notes that.

    An op that gets no traced value raises for it, and the recording fails.
    """

    def __init__(self, answer: "Answer") -> None:
        self._answer = answer

    def __bool__(self) -> bool:
        self._answer.asked = True
        return False


class Answer:
    """`training` of modules that are in no mode: False, or a flag where code only hands it on.

    Attributes:
        asked: whether somebody has asked.
        looks: how often somebody has looked at it, to ask or to hand it on.
    """

    def __init__(self) -> None:
        self.asked = False
        self.looks = 0
        self._flag = Flag(self)
        self._thread = threading.get_ident()
        self._known: dict[tuple[types.CodeType, int], bool] = {}

    def __get__(self, module: Any, kind: Any) -> Any:
        if module is None or threading.get_ident() != self._thread:  # another thread has modules of other kinds
            raise AttributeError(f"'{kind.__name__}' object has no attribute 'training'")
        self.looks += 1
        if self._is_handed_on(sys._getframe(1)):
            return self._flag
        self.asked = True
        return False

    def _is_handed_on(self, frame: types.FrameType) -> bool:
        """Whether the code that asks does no more with it, and no code around it would catch the error of an op.

        It must ask itself: what `getattr` gives goes elsewhere.
        """
        place = frame.f_code, frame.f_lasti
        if place not in self._known:
            self._known[place] = loads(*place) == "training" and only_handed_on(
                frame.f_code, frame.f_globals, ".training"
            )
        return self._known[place] and not any(map(catches, codes_of_users(frame)))


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
    return are_only_switched(module for _, module in named_modules(model))
