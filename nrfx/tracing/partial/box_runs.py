"""What boxes give when a copy of the model is run: the shapes that a run on meta tensors cannot tell, and the flops.

The copy is run on the example inputs, and on the same numbers in reverse order and with the other sign: an output whose
structure or sizes are others then depends on values, and no graph can be sure of it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nrfx.nests import tensors_of, with_tensors
from nrfx.tracing.calls.boxes import Boxes, alike, on_meta
from nrfx.tracing.calls.leaves import exchanged
from nrfx.tracing.graph.clone import shell
from nrfx.tracing.recording.draws import random_state_kept


@dataclass(frozen=True)
class Measured:
    """One call of a box in a run: its output on meta, None where that cannot be relied on; its multiply-adds, and those
    of the same call in a run on the first example alone, None where that is not known."""

    output: Any
    flops: int
    of_one: int | None = None


Calls = dict[str, list[Measured]]


class Probe:
    """Runs of a model, each made once. `paths` and `functions` are the boxes."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> None:
        self._model, self._given = model, (args, dict(kwargs or {}))
        self._known: dict[tuple[_Watched, bool], Calls] = {}

    def of_boxes(self, path: str | None = "") -> Callable[[Boxes, bool], Calls]:
        """A function that tells of boxes, by their names below the submodule at `path`, what is known of their calls:
        in order, in train mode or not, without those inside of another box. Where train mode cannot run, they are those
        in eval mode; where neither can, or path is None, there are none."""

        def calls(boxes: Boxes, training: bool) -> Calls:
            if path is None:
                return {}
            return self._calls(_Watched(path, boxes.paths, tuple(boxes.functions.items())), training)

        return calls

    def _calls(self, watched: "_Watched", training: bool) -> Calls:
        key = watched, training
        if key not in self._known:
            found = self._stable(watched, training)
            if found is None:
                found = self._calls(watched, False) if training else {}
            self._known[key] = found
        return self._known[key]

    def _stable(self, watched: "_Watched", training: bool) -> Calls | None:
        def run(change: Callable[[Tensor], Tensor]) -> Calls | None:
            return _run(self._model, with_tensors(self._given, change), watched, training)

        one, other = run(Tensor.clone), run(_reversed)
        if one is None:
            return one
        first = _first_example(self._given)
        one = _with_first(one, (None if first is None else run(first)) or {})
        if other is None:
            return one
        return {
            box: [
                call if index < len(other.get(box, ())) and alike(call.output, other[box][index].output)
                else replace(call, output=None)
                for index, call in enumerate(calls)
            ]
            for box, calls in one.items()
        }  # fmt: skip


def _first_example(given: Any) -> Callable[[Tensor], Tensor] | None:
    """What cuts each tensor to the first of the examples that all tensors hold; None where there are not several."""
    sizes = {x.shape[:1] for x in tensors_of(given).values() if x.dim()}
    if len(sizes) != 1 or next(iter(sizes))[0] < 2:
        return None
    return lambda x: x[:1].clone() if x.dim() else x.clone()


def _with_first(calls: Calls, first: Calls) -> Calls:
    """The calls, with the multiply-adds of those of a run on the first example, where each box is called as often."""
    return {
        box: [replace(call, of_one=alone.flops) for call, alone in zip(own, first[box], strict=True)]
        if len(first.get(box, ())) == len(own)
        else own
        for box, own in calls.items()
    }


def _reversed(x: Tensor) -> Tensor:
    turned = x.flip(tuple(range(x.dim()))) if x.dim() else x.clone()
    return -turned if x.is_floating_point() else turned


@dataclass(frozen=True)
class _Watched:
    """The boxes of the submodule at `path`, which is called once: its submodules at `paths`, and functions by name."""

    path: str
    paths: frozenset[str]
    functions: tuple[tuple[str, FunctionType], ...]


def _run(model: nn.Module, given: Any, watched: _Watched, training: bool) -> Calls | None:
    """The calls of boxes in one run of a copy, None where it fails. Buffers are cloned: a forward may write them."""
    root = shell(model, _cloned).train(training)
    record = _Record()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not see what it computes
    try:
        with torch.no_grad(), random_state_kept(), record.counter, _watching(root, record, watched):
            root(*given[0], **given[1])
    except Exception:  # whatever the model's forward raises: it has no run in this mode, or on these inputs
        return None
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return record.calls


def _cloned(tensor: Tensor) -> Tensor:
    """A buffer of its own; a parameter without gradients, for torch's counter asks for the function that made what a
    module is given, and without gradients a view of a parameter has none.
    """
    return nn.Parameter(tensor.detach(), False) if isinstance(tensor, nn.Parameter) else tensor.clone()


class _Record:
    def __init__(self) -> None:
        self.calls: Calls = {}
        self.counter = FlopCounterMode(display=False)
        self._running: list[int] = []
        self._inside = False

    def enter(self, inside: bool) -> None:
        """Notes that the submodule is entered, or left."""
        self._inside = inside

    def start(self) -> None:
        self._running.append(self.counter.get_total_flops())

    def stop(self, box: str, output: Any) -> None:
        before = self._running.pop()
        if self._inside and not self._running:  # else it is inside of another box, where no graph sees it
            flops = (self.counter.get_total_flops() - before) // 2
            self.calls.setdefault(box, []).append(Measured(on_meta(output), flops))


@contextmanager
def _watching(root: nn.Module, record: _Record, watched: _Watched) -> Iterator[None]:
    inside = root.get_submodule(watched.path)

    def after(path: str) -> Any:
        return lambda module, args, kwargs, output: record.stop(path, output)

    def counted(name: str) -> Any:
        def instead(function: FunctionType, original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                record.start()
                output = None
                try:
                    output = original(*args, **kwargs)
                finally:
                    record.stop(name, output)
                return output

            return call

        return instead

    with ExitStack() as active:
        for path, module in inside.named_modules():
            if path in watched.paths:
                active.callback(module.register_forward_pre_hook(lambda *_: record.start()).remove)
                hook = module.register_forward_hook(after(path), with_kwargs=True, always_call=True)
                active.callback(hook.remove)
        active.callback(inside.register_forward_pre_hook(lambda *_: record.enter(True)).remove)
        leave = inside.register_forward_hook(lambda *_: record.enter(False), always_call=True)
        active.callback(leave.remove)
        for name, function in watched.functions:
            active.enter_context(exchanged(function, counted(name)))
        yield
