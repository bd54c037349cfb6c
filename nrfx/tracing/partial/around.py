"""Tracing around what cannot be traced: it becomes a box, a single call of the graph, and the rest is traced.

A box is the innermost submodule or function that was running when the trace failed. Where a graph cannot hold what
that takes or gives, it is the one around it; never the model itself.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from torch import nn

from nrfx.errors import TraceError
from nrfx.tracing.calls.boxes import NO_BOXES, Boxes, Calls
from nrfx.tracing.partial.culprits import Culprit, culprits

T = TypeVar("T")


def around(attempt: Callable[[Boxes], T], model: nn.Module, calls: Callable[[Boxes, bool], Calls]) -> tuple[T, Boxes]:
    """What `attempt` gives with the fewest boxes, and these.

    Args:
        attempt: traces the model with the given boxes; raises a TraceError where it cannot.
        calls: what is known of the calls of boxes, in train mode or not.

    Raises:
        TraceError: no submodule or function can stand for what cannot be traced.
    """
    with suppress(TraceError):  # without boxes no value is asked for before it is needed: several times as fast
        return attempt(NO_BOXES), NO_BOXES
    boxes, barred = Boxes(calls=calls), set[str]()
    while True:
        try:
            return attempt(boxes), boxes
        except TraceError as error:
            running = culprits(error)
            failed = [each.name for each in running if each.name in boxes.reasons]
            barred.update(failed)
            culprit = next((each for each in running if each.name not in barred), None)
            if culprit is None:
                raise
            why = boxes.reasons[failed[0]] if failed else _reason(error)
            boxes = _with(boxes.without(failed), culprit, model, why)


def _with(boxes: Boxes, culprit: Culprit, model: nn.Module, why: str) -> Boxes:
    """The boxes and the culprit; from the second submodule of a class on, all of its class, which fail alike."""
    if culprit.function is not None:
        functions = {**boxes.functions, culprit.name: culprit.function}
        return replace(boxes, reasons={**boxes.reasons, culprit.name: why}, functions=functions)
    kind = type(model.get_submodule(culprit.name))
    plain = kind.__module__.startswith("torch.")  # a Sequential fails for what is in it
    again = not plain and any(type(model.get_submodule(path)) is kind for path in boxes.paths)
    alike = [path for path, module in model.named_modules() if path and type(module) is kind] if again else []
    reasons = {**boxes.reasons, **dict.fromkeys((*alike, culprit.name), why)}
    return replace(boxes, reasons=reasons).without(())


def _reason(error: TraceError) -> str:
    """Why something is a box, from the error of the trace."""
    said = str(error)
    _, found, cause = said.partition(" cannot be traced: ")
    return f"it cannot be traced: {cause if found else said}"
