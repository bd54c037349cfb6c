"""Tracing a model in parts: the largest submodules that can be traced, where the model cannot be traced whole.

A copy of the model is run once on the example inputs, in eval mode, and every call of a submodule is recorded
(run.py). A submodule is a part if it takes and gives tensors (or lists, tuples, dicts of them), can be traced on the
shapes of each of its calls with the same graph for all, and if nothing outside of it reads its parameters. Where a
submodule is no part, its children may be.

Not handled: submodules that are called through methods other than their forward, and those that the run does not reach.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from nrfx.errors import TraceError
from nrfx.tracing.calls.boxes import Boxes
from nrfx.tracing.calls.leaves import Leaves
from nrfx.tracing.graph.arguments import Arguments, arguments_of
from nrfx.tracing.graph.modes import alike
from nrfx.tracing.graph.module import TracedModule
from nrfx.tracing.graph.registered import HOST
from nrfx.tracing.partial.around import around
from nrfx.tracing.partial.box_runs import Probe
from nrfx.tracing.partial.free_share import hidden_params, open_params
from nrfx.tracing.partial.parts import PartCall, PartialModule
from nrfx.tracing.partial.run import Record, recorded
from nrfx.tracing.recording.both_modes import MODES, Capture, capture, combined, shell_of, trace_whole, unmoved
from nrfx.tracing.recording.unsupported import refuse_unsupported
from nrfx.tracing.values.causes import place


def trace_parts(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], leaves: Leaves) -> TracedModule:
    """The model as a whole graph if there is one, else as a `PartialModule`.

    Raises:
        TraceError: the model does not run on the example inputs, or no submodule with parameters can be traced.
    """
    refuse_unsupported(model)
    probe, whole, why = Probe(model, args, kwargs), None, ""
    try:
        arguments = arguments_of(model.forward, args, kwargs)
        whole, boxes = around(lambda boxes: trace_whole(model, arguments, leaves, boxes), model, probe.of_boxes())
        if not hidden_params(whole.graphs.values(), whole):
            return whole
        why = _instead(boxes)
    except TraceError as error:
        why = str(error)
    try:
        choice = _Choice(model, recorded(model, args, kwargs), leaves, probe)
    except TraceError:
        if whole is not None:
            return whole
        raise
    choice.make()
    if whole is not None and open_params([whole.graphs["eval"]], whole) >= choice.worth(choice.parts):
        return whole
    return _in_parts(model, choice, why)


def _instead(boxes: Boxes) -> str:
    """Why the model is in parts although there is a graph of the whole."""
    name, reason = next(iter(boxes.reasons.items()))
    others = f" and {len(boxes.reasons) - 1} more" if len(boxes.reasons) > 1 else ""
    return f"parts leave more of it free than one graph, in which {name}{others} would be a single call: {reason}"


def _in_parts(model: nn.Module, choice: "_Choice", why: str) -> TracedModule:
    """The model as a `PartialModule` of the parts that were chosen. `why`: it is not one graph."""
    if not choice.parts:
        obstacles = "".join(f"\n  {line}" for line in choice.outside[:5])
        raise TraceError(
            f"No part of {type(model).__name__} can be traced. The whole: {why} Its submodules:{obstacles}"
        )
    whole = (
        ()
        if any(line.endswith(f": {why}") for line in choice.outside)
        else (f"{place('', type(model).__name__)}: {why}",)
    )
    outside = (*whole, *choice.outside)
    parts = tuple(part for path in choice.parts for part in choice.calls(path))
    captures = {mode: _joined(model, choice, parts, mode) for mode in MODES}
    inputs = tuple(spec for part in parts for spec in part.arguments.inputs)
    return combined(
        model, captures, lambda facts: replace(facts, parts=parts, outside=outside), inputs, make=PartialModule
    )


class _Choice:
    """Which submodules are parts, with their graphs, and why the others are not."""

    def __init__(self, model: nn.Module, record: Record, leaves: Leaves, probe: Probe) -> None:
        self.model, self.record, self.leaves, self.probe = model, record, leaves, probe
        self.parts: list[str] = []
        self.outside: list[str] = []
        self._read_outside: set[str] = set()
        self._boxed: dict[str, str] = {}  # part -> why it has a box
        self._known: dict[str, dict[str, list[tuple[Arguments, Capture]]] | str] = {}

    def make(self) -> None:
        """Chooses the parts; and again without those whose parameters something outside reads, until there are none.

        Each round but the last bars a part for good, so that the loop ends.
        """
        while True:
            self.parts, self.outside = [], []
            seen: set[nn.Module] = set()
            for name, child in self.model.named_children():
                self._ask(name, child, seen)
            leaks = self._leaks()
            if not leaks:
                return
            self._read_outside |= leaks

    def calls(self, path: str) -> list[PartCall]:
        """The calls of a part."""
        return [PartCall(path, call.arguments, call.output) for call in self.record.calls[path]]  # type: ignore[arg-type]

    def captured(self, part: PartCall, mode: str) -> Capture:
        """The graph of a call in a mode."""
        known = self._known[part.path]
        assert not isinstance(known, str)
        return next(capture for arguments, capture in known[mode] if arguments == part.arguments)

    def worth(self, paths: Iterable[str]) -> int:
        """The parameters that these parts leave free, as far as a look at their graphs tells."""
        known = {path: self._known[path] for path in paths}
        first = {path: each["eval"][0][1].graph for path, each in known.items() if not isinstance(each, str)}
        return sum(open_params([graph], self.model.get_submodule(path)) for path, graph in first.items())

    def _ask(self, path: str, module: nn.Module, seen: set[nn.Module]) -> None:
        """Makes the module a part, or asks its children; a module without parameters is of no interest."""
        if module in seen or next(module.parameters(), None) is None:
            return
        seen.add(module)
        if self.leaves.has(module, path):
            self.outside.append(f"{path} ({type(module).__name__}): it is a leaf.")
            return
        obstacle = self._obstacle(path, module)
        if obstacle is None and path not in self._boxed:
            self.parts.append(path)
            seen.update(module.modules())
            return
        others, before = len(self.parts), len(self.outside)
        for name, child in module.named_children():
            self._ask(f"{path}.{name}", child, seen)
        if obstacle is None:
            if self.worth([path]) >= self.worth(self.parts[others:]):
                del self.outside[before:]
                self.parts[others:] = [path]
                seen.update(module.modules())
                return
            obstacle = self._boxed[path]
        # a child that has the same obstacle says it more precisely
        theirs = any(line.endswith(f": {obstacle}") for line in self.outside[before:])
        if not theirs and (path in self.record.calls or next(module.children(), None) is None):
            self.outside.insert(before, f"{path} ({type(module).__name__}): {obstacle}")

    def _obstacle(self, path: str, module: nn.Module) -> str | None:
        """Why the module cannot be a part, None where it can. Its graphs are captured once and remembered."""
        calls = self.record.calls.get(path)
        if not calls:
            return "the run on the example inputs does not call it."
        if path in self._read_outside:
            return "something outside of it reads its parameters."
        first = calls[0].arguments
        if first is None or any(call.arguments is None for call in calls):
            return "it takes more than tensors and constants."
        if any(call.output is None for call in calls):
            return "it gives more than tensors and constants."
        if any(not _called_alike(first, call.arguments) or call.output != calls[0].output for call in calls):
            return "its calls differ in their arguments or results."
        if path not in self._known:
            self._known[path] = self._captures(path, module)
        known = self._known[path]
        return known if isinstance(known, str) else None

    def _captures(self, path: str, module: nn.Module) -> dict[str, list[tuple[Arguments, Capture]]] | str:
        distinct: list[Arguments] = []
        for call in self.record.calls[path]:
            if call.arguments is not None and call.arguments not in distinct:
                distinct.append(call.arguments)
        try:
            refuse_unsupported(module)
            inside = self.leaves.below(path)

            def attempt(boxes: Boxes) -> dict[str, list[tuple[Arguments, Capture]]]:
                return {
                    mode: [(given, capture(module, given, mode, inside, True, boxes)) for given in distinct]
                    for mode in MODES
                }

            once = len(self.record.calls[path]) == 1
            captured, boxes = around(attempt, module, self.probe.of_boxes(path if once else None))
        except TraceError as error:
            return str(error)
        for captures in captured.values():
            if not all(alike(captures[0][1].graph, other.graph) for _, other in captures[1:]):
                return "its graph depends on the sizes of its inputs."
        output = self.record.calls[path][0].output
        assert output is not None
        last = next(node for node in reversed(captured["eval"][0][1].graph.nodes) if node.op == "output")
        if len(pytree.tree_leaves(last.meta["val"])) != output.num_leaves:
            return "its graph gives another number of values than its forward."
        if hidden_params((one.graph for captures in captured.values() for _, one in captures), module):
            self._boxed[path] = ": ".join(next(iter(boxes.reasons.items())))
        return captured

    def _leaks(self) -> set[str]:
        """The parts that hold a parameter or buffer which was read while no part was running."""
        chosen = set(self.parts)
        leaks = set()
        names = {id(t): name for name, t in (*self.model.named_parameters(), *self.model.named_buffers())}
        for path in self.parts:
            module = self.model.get_submodule(path)
            for tensor in (*module.parameters(), *module.buffers()):
                stacks = self.record.reads.get(names[id(tensor)], set())
                if any(chosen.isdisjoint(stack) for stack in stacks):
                    leaks.add(path)
        return leaks


def _called_alike(one: Arguments, other: Arguments | None) -> bool:
    """Whether two calls differ at most in the sizes of their tensors."""
    return other is not None and (one.structure, one.leaves, _kinds(one)) == (
        other.structure,
        other.leaves,
        _kinds(other),
    )


def _kinds(arguments: Arguments) -> list[tuple[int, torch.dtype]]:
    return [(len(shape), dtype) for shape, dtype in arguments.inputs]


def _joined(model: nn.Module, choice: _Choice, parts: tuple[PartCall, ...], mode: str) -> Capture:
    """The graphs of all calls in one, names as the whole model has them."""
    graph = fx.Graph()
    constants: dict[str, Tensor] = {}
    captures = [choice.captured(part, mode) for part in parts]
    nodes: list[dict[fx.Node, fx.Node]] = []
    for index, (part, captured) in enumerate(zip(parts, captures, strict=True)):
        own: dict[fx.Node, fx.Node] = {}
        for node in captured.graph.nodes:
            if node.op == "placeholder":
                own[node] = graph.placeholder(f"part_{part.path.replace('.', '_')}_{len(own)}_of_{index}")
                own[node].meta["part"] = index
        nodes.append(own)
    outputs = [
        _append(graph, index, part, captured, own, model)
        for index, (part, captured, own) in enumerate(zip(parts, captures, nodes, strict=True))
    ]
    for part, captured in zip(parts, captures, strict=True):
        constants |= {_constant(part, name): value for name, value in captured.constants.items()}
    graph.output(tuple(outputs))
    return Capture(graph, constants, unmoved(shell_of(model).train(mode == "train"), mode))


def _append(
    graph: fx.Graph, index: int, part: PartCall, captured: Capture, nodes: dict[fx.Node, fx.Node], model: nn.Module
) -> Any:
    """Copies the nodes of a call to the end of the graph; returns the call's output."""
    kind, first = type(model.get_submodule(part.path)), _first_paths(model)
    result: Any = None
    for node in captured.graph.nodes:
        if node.op == "output":
            result = fx.map_arg(node.args[0], nodes.__getitem__)
        elif node.op != "placeholder":
            twin = nodes[node] = graph.node_copy(node, nodes.__getitem__)
            if node.op in ("call_module", "get_attr"):
                target = str(node.target)
                inner = f"{part.path}.{target}" if target else part.path
                twin.target = _constant(part, target) if target in captured.constants else first.get(inner, inner)
                if target == HOST:
                    twin.target = part.path
            if "opaque" in node.meta:
                twin.meta["opaque"] = node.meta["opaque"].below(part.path)
            twin.meta["part"] = index
            twin.meta["nn_module_stack"] = dict(_stack(part.path, kind, node.meta.get("nn_module_stack", {})))
    return result


def _first_paths(model: nn.Module) -> dict[str, str]:
    """Every path of a submodule -> its first one: a graph names a module that parts share by that."""
    first: dict[int, str] = {}
    return {path: first.setdefault(id(m), path) for path, m in model.named_modules(remove_duplicate=False)}


def _stack(path: str, kind: type[nn.Module], inner: Any) -> Iterable[tuple[str, tuple[str, Any]]]:
    yield path, (path, kind)
    for key, (own, module) in inner.items():
        yield f"{path}.{key}", (f"{path}.{own}", module)


def _constant(part: PartCall, name: str) -> str:
    return f"_{part.path.replace('.', '_')}{name}"
