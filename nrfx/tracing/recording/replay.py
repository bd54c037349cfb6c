"""What a submodule did in the recording of eval mode, repeated in that of train mode without its forward.

Where a forward asks for the mode, it is recorded in each, and most of its submodules do the same in both. One of them
is repeated if it gets what it got in eval mode, its forward has not looked at the mode, and works on nothing but its
arguments and modules (closed.py), which hold at each run what they held when the recording began. The graph of eval
mode must check nothing, have no regions, and hold no tensors of the forward's own.
"""

import types
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import is_
from typing import Any

from torch import fx, nn

from nrfx.tracing.graph.copies import SET_ARGS, SET_KWARGS
from nrfx.tracing.graph.guards import is_guard
from nrfx.tracing.graph.regions import is_border
from nrfx.tracing.graph.twins import Twins
from nrfx.tracing.recording.modeless import Answer
from nrfx.tracing.values.closed import ClosedForwards
from nrfx.tracing.values.proxies import SizedProxy


@dataclass(frozen=True)
class Run:
    """One run of a submodule's forward.

    Attributes:
        within: the modules that it was called in, as keys of `module_stack`.
        given: the nodes of its arguments, which are traced values alone.
        nodes: what it recorded, in order.
        gave: the node of its result, one of `nodes`.
        called: the paths of the module and of those that it called, each once.
        entered: those of them whose forward ran.
    """

    within: tuple[str, ...]
    given: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]
    gave: fx.Node
    called: tuple[str, ...]
    entered: tuple[str, ...]


@dataclass(frozen=True)
class _Begun:
    """How things were when a forward began: the last node, and how many modules had been called and entered, and how
    often the mode had been looked at."""

    last: fx.Node
    called: int
    entered: int
    looks: int


def may_ask(kinds: Iterable[type[nn.Module]]) -> bool:
    """Whether the code of some of these classes names the mode. To watch a recording takes a millisecond."""
    named = {base: None for kind in kinds for base in kind.__mro__ if not str(base.__module__).startswith("torch.")}
    functions = (value for base in named for value in vars(base).values() if isinstance(value, types.FunctionType))
    return any("training" in function.__code__.co_names for function in functions)


class _Held:
    """What modules hold when a recording begins."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._before = {module: tuple([dict(part) for part in _contents(module)]) for module in modules}

    def is_kept(self, module: nn.Module) -> bool:
        """Whether a module and those below it hold the same, also in their registries, whoever may have set it."""
        before = self._before.get(module)
        if before is None or not all(map(_are_the_same, before, _contents(module))):
            return False
        return all(self.is_kept(child) for child in module._modules.values() if child is not None)


def _contents(module: nn.Module) -> tuple[dict[str, Any], ...]:
    own = vars(module)
    return own, own["_modules"], own["_parameters"], own["_buffers"]


def _are_the_same(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether both have the same keys, in their order, with the same objects."""
    return len(before) == len(now) and all(map(is_, before, now)) and all(map(is_, before.values(), now.values()))


class Runs:
    """The runs of one recording in no mode.

    Attributes:
        known: path -> the first run of a module.
    """

    def __init__(self, answer: Answer, modules: Iterable[nn.Module]) -> None:
        """Takes the modules as they are when the recording begins."""
        self.known: dict[str, Run] = {}
        self._held = _Held(modules)
        self._answer = answer
        self._called: list[str] = []
        self._times = Counter[str]()
        self._entered: list[str] = []

    def call(self, path: str, enters: bool) -> None:
        """Notes that a module is called, and whether its forward runs."""
        self._called.append(path)
        self._times[path] += 1
        if enters:
            self._entered.append(path)

    def begin(self, graph: fx.Graph, module: nn.Module) -> _Begun | None:
        """How things are before a module is called; None where it is no longer what it was."""
        if not self._held.is_kept(module):
            return None
        return _Begun(graph._root.prev, len(self._called), len(self._entered), self._answer.looks)

    def end(self, begun: _Begun, within: Mapping[str, Any], args: tuple[Any, ...], result: Any) -> None:
        """Notes the run of a module's forward, if it may be repeated."""
        called = self._called[begun.called :]
        once = all(self._times[path] == 1 for path in called)
        if once and self._answer.looks == begun.looks and all(map(_is_traced, (*args, result))):
            nodes, given = tuple(_behind(begun.last)), tuple([arg.node for arg in args])
            if result.node in nodes:
                entered = tuple(self._entered[begun.entered :])
                self.known[called[0]] = Run(tuple(within), given, nodes, result.node, tuple(called), entered)


def is_repeatable(graph: fx.Graph) -> bool:
    """Whether a graph holds nothing that belongs to a forward as a whole: tensors of it, checks, regions."""
    return not any(node.op == "get_attr" or is_guard(node) or is_border(node) for node in graph.nodes)


def _is_traced(value: Any) -> bool:
    """Whether it is a traced value, to which the forward has added no attributes of its own."""
    return type(value) is SizedProxy and vars(value).keys() == _OF_PROXIES


_OF_PROXIES = {"tracer", "node"}


def _behind(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes behind a node, in order."""
    end = node.graph._root
    while (node := node.next) is not end:
        yield node


class Replay:
    """The recording of train mode, beside that of eval mode.

    Attributes:
        twins: of the nodes, those of eval mode.
    """

    def __init__(self, evaluated: fx.Graph, runs: Mapping[str, Run], modules: Mapping[str, nn.Module]) -> None:
        """Takes the graph and the runs of eval mode, and the modules by their paths."""
        self.twins = Twins(evaluated)
        self._runs, self._modules = runs, modules
        self._closed, self._held = ClosedForwards(modules.values()), _Held(modules.values())
        self._stopped = False

    def stop(self) -> None:
        """From now on, nothing is repeated, and no node has a twin."""
        self._stopped = True

    def follow(self, node: fx.Node) -> None:
        """Notes a new node."""
        if is_border(node):
            self.stop()
        elif not self._stopped:
            self.twins.find(node, node.all_input_nodes)

    def repeated(self, path: str, recorder: fx.Tracer, args: tuple[Any, ...]) -> fx.Node | None:
        """The node of the result of a module's run, which is repeated; None where its forward must run."""
        run = self._runs.get(path)
        if (
            run is None
            or self._stopped
            or run.within != tuple(recorder.module_stack)
            or any(called in recorder.num_calls for called in run.called)
            or not all(map(_is_traced, args))
            or tuple([self.twins.of.get(arg.node) for arg in args]) != run.given
            or not self._held.is_kept(self._modules[path])
            or not all(self._closed.has(self._modules[entered]) for entered in run.entered)
        ):
            return None
        recorder.num_calls.update(dict.fromkeys(run.called, 1))
        for node in run.nodes:
            twin = recorder.graph.create_node(node.op, node.target, None, None, None, node.type)
            SET_ARGS(twin, fx.map_arg(node.args, self.twins.back.__getitem__))
            if node.kwargs:
                SET_KWARGS(twin, fx.map_arg(node.kwargs, self.twins.back.__getitem__))
            twin.meta.update(node.meta)
            twin.meta.pop("val", None)
            self.twins.pair(twin, node)
        return self.twins.back[run.gave]
