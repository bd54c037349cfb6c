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


@dataclass(frozen=True)
class _Ran:
    """One call of a submodule or of a function in a run. around: what was running then, the outermost first."""

    name: str
    around: tuple[str, ...]
    output: Any
    flops: int


@dataclass(frozen=True)
class _Runs:
    """All calls in a run on the example inputs, on their reverse, and on the first example; None where it failed."""

    one: tuple[_Ran, ...]
    other: tuple[_Ran, ...] | None
    first: tuple[_Ran, ...] | None


class Probe:
    """Runs of a model, which serve all boxes that are asked for: three in each mode, and again for a new function."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> None:
        self._model, self._given = model, (args, dict(kwargs or {}))
        self._paths = {module: path for path, module in model.named_modules()}
        self._functions: dict[str, FunctionType] = {}
        self._runs: dict[bool, _Runs | None] = {}

    def of_boxes(self, path: str | None = "") -> Callable[[Boxes, bool], Calls]:
        """A function that tells of boxes, by their names below the submodule at `path`, what is known of their calls:
        in order, in train mode or not, without those inside of another box. Where train mode cannot run, they are those
        in eval mode; where neither can, or path is None, there are none."""

        def calls(boxes: Boxes, training: bool) -> Calls:
            if path is None:
                return {}
            if not boxes.functions.keys() <= self._functions.keys():
                self._functions |= boxes.functions
                self._runs.clear()
            runs = self._runs_in(training) or self._runs_in(False)
            return {} if runs is None else self._stable(runs, path, boxes)

        return calls

    def _stable(self, runs: _Runs, path: str, boxes: Boxes) -> Calls:
        """The calls of boxes; an output that differs in the run on other values counts as unknown."""
        inside = self._model.get_submodule(path)
        names = {self._paths[inside.get_submodule(box)]: box for box in boxes.paths} | {n: n for n in boxes.functions}
        one, other, first = (
            _of_boxes(run or (), self._paths[inside], names) for run in (runs.one, runs.other, runs.first)
        )
        one = _with_first(one, first)
        if runs.other is None:
            return one
        return {
            box: [
                call if index < len(other.get(box, ())) and alike(call.output, other[box][index].output)
                else replace(call, output=None)
                for index, call in enumerate(calls)
            ]
            for box, calls in one.items()
        }  # fmt: skip

    def _runs_in(self, training: bool) -> _Runs | None:
        """The runs in a mode, None where it cannot run on the example inputs."""
        if training not in self._runs:
            self._runs[training] = self._made(training)
        return self._runs[training]

    def _made(self, training: bool) -> _Runs | None:
        def run(change: Callable[[Tensor], Tensor]) -> tuple[_Ran, ...] | None:
            return _run(self._model, with_tensors(self._given, change), self._functions, training)

        one, first = run(Tensor.clone), _first_example(self._given)
        return None if one is None else _Runs(one, run(_reversed), None if first is None else run(first))


def _of_boxes(run: tuple[_Ran, ...], path: str, names: Mapping[str, str]) -> Calls:
    """The calls of boxes inside of the submodule at `path`, without those inside of another box."""
    calls: Calls = {}
    for call in run:
        if call.name in names and path in call.around:
            between = call.around[call.around.index(path) + 1 :]
            if names.keys().isdisjoint(between):
                calls.setdefault(names[call.name], []).append(Measured(call.output, call.flops))
    return calls


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


def _run(
    model: nn.Module, given: Any, functions: Mapping[str, FunctionType], training: bool
) -> tuple[_Ran, ...] | None:
    """All calls in one run of a copy, None where it fails. Buffers are cloned: a forward may write them."""
    root = shell(model, _cloned).train(training)
    record = _Record()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not see what it computes
    try:
        with torch.no_grad(), random_state_kept(), record.counter, _watching(root, record, functions):
            root(*given[0], **given[1])
    except Exception:  # whatever the model's forward raises: it has no run in this mode, or on these inputs
        return None
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return tuple(record.calls)


def _cloned(tensor: Tensor) -> Tensor:
    """A buffer of its own; a parameter without gradients, for torch's counter asks for the function that made what a
    module is given, and without gradients a view of a parameter has none.
    """
    return nn.Parameter(tensor.detach(), False) if isinstance(tensor, nn.Parameter) else tensor.clone()


class _Record:
    def __init__(self) -> None:
        from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415  it loads triton

        self.calls: list[_Ran] = []
        self.counter = FlopCounterMode(display=False)
        self._running: list[tuple[str, int]] = []

    def start(self, name: str) -> None:
        self._running.append((name, self.counter.get_total_flops()))

    def stop(self, output: Any) -> None:
        name, before = self._running.pop()
        flops = (self.counter.get_total_flops() - before) // 2
        self.calls.append(_Ran(name, tuple(each for each, _ in self._running), on_meta(output), flops))


@contextmanager
def _watching(root: nn.Module, record: _Record, functions: Mapping[str, FunctionType]) -> Iterator[None]:
    def before(path: str) -> Any:
        return lambda module, args: record.start(path)

    def counted(name: str) -> Any:
        def instead(function: FunctionType, original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                record.start(name)
                output = None
                try:
                    output = original(*args, **kwargs)
                finally:
                    record.stop(output)
                return output

            return call

        return instead

    with ExitStack() as active:
        for path, module in root.named_modules():
            # before all others, of which one may raise: what began ends
            active.callback(module.register_forward_pre_hook(before(path), prepend=True).remove)
            after = module.register_forward_hook(lambda *called: record.stop(called[-1]), always_call=True)
            active.callback(after.remove)
        for name, function in functions.items():
            active.enter_context(exchanged(function, counted(name)))
        yield
