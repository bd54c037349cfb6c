"""The interpretation of a graph on label tensors, one rule an op, at the widths that it has."""

import warnings
from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn

from nrfx.analysis.channels import Step
from nrfx.analysis.effects import effect_of, op_at, plain_value
from nrfx.analysis.in_place import Memory
from nrfx.analysis.names import first_names, named_tensors
from nrfx.analysis.reinterpret import arguments
from nrfx.analysis.repeats import Repeats
from nrfx.errors import AnalysisError, RuleWarning
from nrfx.labels import OPAQUE, along, ascends, born, fill, some_channel, varying
from nrfx.rules import (
    Before,
    Call,
    Effect,
    Family,
    Pin,
    Site,
    Unfit,
    Work,
    check_effect,
    counted,
    reads_as_weight,
    rule_of,
    tensors,
    unknown,
)
from nrfx.rules.registry import SIZES, name_of
from nrfx.tracing import Measured, TracedModule, measured_work
from nrfx.tracing.graph.examples import batch_of, of_one_example
from nrfx.tracing.graph.module import ByMode
from nrfx.tracing.graph.regions import without_gradients

_DEFECTS = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError)
"""What a rule raises by mistake."""


def _defect(call: Call) -> str:
    rule = name_of(rule_of(call.node, call.module))
    return f"The rule {rule} failed at node {call.node.name}, which is pinned"


class _OtherAxis(Exception):
    """The bare parameter `name` does not hold its channels along the axis that was tried."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _axis_order(shape: torch.Size) -> list[int]:
    """The axes that may hold a bare parameter's channels, the likeliest first: dim 1 of images, the last of tokens."""
    wide = [dim for dim, size in enumerate(shape) if size > 1]
    first = 1 if len(shape) >= 4 else len(shape) - 1
    return sorted(wide, key=lambda dim: (dim != first, -dim))


def _owned(traced: TracedModule, aliases: Mapping[str, str]) -> frozenset[str]:
    """The parameters and buffers of modules that are called, which are theirs to read."""
    called = {str(node.target) for graph in traced.graphs.values() for node in graph.nodes if node.op == "call_module"}
    return frozenset(first for name, first in aliases.items() if name.rpartition(".")[0] in called)


def _tables(places: Iterable[tuple[str, nn.Module]], aliases: Mapping[str, str]) -> frozenset[str]:
    """The buffers that are not saved with the model: tables that its constructor computes, such as angles of positions.

    Their values say where a channel stands in its head: they do not come and go with channels.
    """
    names = (
        (f"{path}.{name}" if path else name) for path, module in places for name in module._non_persistent_buffers_set
    )
    return frozenset(aliases.get(name, name) for name in names)


def _is_weight(node: fx.Node) -> bool:
    """Whether some op reads the tensor, perhaps transposed, as its weight."""
    return any(reads_as_weight(node, user) for user in node.users)


class LabelInterpreter:
    """One interpretation of a traced module's graphs; it fills `born` and `reasons` as it goes."""

    resized = False  # whether births have other widths than the modules

    def __init__(self, traced: TracedModule, axes: Mapping[str, int | None]) -> None:
        """Takes the axis that holds the channels of each bare parameter, where it is known."""
        self.traced = traced
        self.born: dict[str, Tensor] = {}
        self.count = 0
        self.starts: list[int] = []  # the first label of each birth, in order
        self.keys: list[str] = []
        self.at: dict[int, str] = {}  # the memory of each birth -> its key
        self.reasons: list[str] = []
        self.codes: dict[str, int] = {}
        self.transposed: dict[str, bool] = {}  # weight -> whether its first reader takes it transposed
        self.axes: dict[str, int | None] = dict(axes)
        self.batch = batch_of(traced)
        self.first_example = cache(lambda: of_one_example(traced))
        places = list(traced.named_modules(remove_duplicate=False))
        self.modules = dict(places)
        named = named_tensors(traced)
        self.aliases = first_names(named)
        self.tensors: dict[str, Tensor] = {name: named[name] for name in self.aliases.values()}
        self.owned = _owned(traced, self.aliases) | _tables(places, self.aliases)

    def interpreted(self) -> tuple[Step, ...]:
        """The steps. Where a bare parameter turns out to hold its channels along another axis, it starts over."""
        while True:
            try:
                return tuple(self.steps())
            except _OtherAxis as other:
                shape = self.tensors[other.name].shape
                order: list[int | None] = [*_axis_order(shape), None]
                self.axes[other.name] = order[order.index(self.axes[other.name]) + 1]
                self.born, self.count, self.starts, self.keys, self.at = {}, 0, [], [], {}

    def steps(self) -> Iterator[Step]:
        graphs = self.traced.graphs
        modes = ("eval",) if graphs["eval"] is graphs["train"] else ("eval", "train")
        repeats: Repeats | None = None
        for mode in modes:
            values: dict[fx.Node, Any] = {}
            families: dict[fx.Node, Family] = {}
            done: dict[fx.Node, Step] = {}
            place = {node: index for index, node in enumerate(graphs[mode].nodes)}
            self.memory = Memory(place, families, self.modules)
            self.reached: set[fx.Node] = set()
            self.shapes: set[fx.Node] = set()
            self.of_mode: set[fx.Node] = set()  # the nodes that give a constant by the mode
            self.apart = without_gradients(graphs[mode]) if mode == modes[-1] else frozenset()
            for node in graphs[mode].nodes:
                sources = node.all_input_nodes  # a new list each time that it is asked for
                reached = self.are_reached(sources)
                batch = self.batch if reached else 1
                step = None
                if repeats is not None:
                    apart = node in self.apart or self.memory.later_reader(node) is not None
                    step = repeats.step(mode, node, sources, apart)
                if step is None:
                    step = self.step(mode, node, sources, values, batch)
                done[node] = step
                values[node], families[node] = step.effect.out, step.effect.family
                if step.effect.family is Family.VALUE:
                    self.note_sizes(node, sources)
                elif step.effect.family is Family.IDENTITY:
                    if self.are_reached(sources[:1]):  # `a.to(b)` takes no more than a dtype from b
                        self.reached.add(node)
                elif node.op == "placeholder" or reached:
                    self.reached.add(node)
                yield step
                for reading in step.effect.also:  # a step for each, so that whoever looks for readings finds all
                    own = Effect(step.effect.family, step.effect.out, step.effect.sites, reading=reading)
                    yield Step(mode, node, reading.path, own)
            repeats = Repeats(graphs[mode], done) if mode != modes[-1] else None

    def step(self, mode: str, node: fx.Node, sources: list[fx.Node], values: Mapping[fx.Node, Any], batch: int) -> Step:
        given, named = arguments(node)
        args: tuple[Any, ...] = fx.map_arg(given, values.__getitem__)
        kwargs: dict[str, Any] = fx.map_arg(named, values.__getitem__) if named else {}
        if node.op in ("call_function", "call_method") and self.of_mode.isdisjoint(sources):
            value = plain_value(node, args, kwargs)
            if value is not None:
                return Step(mode, node, node.name, value)
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        path = str(node.target) if module is not None else node.name
        if isinstance(module, ByMode):
            self.of_mode.add(node)
        op = op_at(node, module)
        call = Call(
            node=node,
            args=args,
            kwargs=kwargs,
            module=module,
            path=path,
            val=node.meta.get("val"),
            batch=batch,
            birth=self.birth,
            opaque=self.opaque,
            resized=self.resized,
            before=self.before(mode, node),
            name=self.first_name,
            parameter=self.tensors.__getitem__,
            registered=self.tensors.__contains__,
            workless=op is not None and op.workless,
            shipped=op is None or op.shipped,
        )
        effect = self.attribute(call) if node.op == "get_attr" else self.effect(mode, call, sources)
        if node in self.apart and effect.family is not Family.VALUE:
            effect = replace(effect, pins=(*effect.pins, *self.read_apart(call, values)))
        if effect.uncounted:
            effect = self.with_measured_work(call, effect)
        owner = effect.reading or effect.norm
        return Step(mode, node, path if owner is None else owner.path, effect)

    def first_name(self, name: str) -> str:
        """The first name of a parameter or buffer."""
        return self.aliases.get(name, name)

    def read_apart(self, call: Call, values: Mapping[fx.Node, Any]) -> Iterator[Pin]:
        """Pins for what a region without gradients reads from outside: the reader does not teach what it is worth."""
        for source in call.node.all_input_nodes:
            if source not in self.apart and source.op != "get_attr":
                for labels in tensors(values[source]):
                    yield call.pin(labels, "a region without gradients reads it without teaching it")

    def are_reached(self, sources: list[fx.Node]) -> bool:
        """Whether the examples of the batch are in one of the nodes, or their number; not only their other sizes."""
        return not (self.reached.isdisjoint(sources) and self.shapes.isdisjoint(sources))

    def note_sizes(self, node: fx.Node, sources: list[fx.Node]) -> None:
        """Notes a Python value that is the shape of what examples reach (`shapes`) or their number (`reached`)."""
        first = sources[0] if sources else None
        whole = first in self.shapes or (first in self.reached and (node.target is getattr or node.target == "size"))
        if not whole:
            if node.target not in SIZES and not self.reached.isdisjoint(sources):
                self.reached.add(node)
            return
        asked = [arg for arg in (*node.args[1:], *node.kwargs.values()) if arg != "shape"]
        if asked == [0]:
            self.reached.add(node)
        elif not asked or (isinstance(asked[0], slice) and not asked[0].start):
            self.shapes.add(node)

    def effect(self, mode: str, call: Call, sources: list[fx.Node]) -> Effect:
        """What the rule says; where it cannot be applied, that the op is not understood."""
        later = self.memory.later_reader(call.node) if call.args and isinstance(call.args[0], Tensor) else None
        if later is not None:
            return counted(call, f"it writes in place to a value that {later} reads later", effect_of)
        self.uneven = ""
        try:
            effect = effect_of(call)
            if isinstance(effect, Effect) and self.is_turned(effect):
                return counted(call, "it reads a weight transposed that another layer reads plain", effect_of)
            check_effect(call, effect)
            if self.uneven:
                raise AnalysisError(
                    f"Node {call.node.name}: its rule {name_of(rule_of(call.node, call.module))} {self.uneven}"
                )
        except Unfit as error:
            return self.unfit(call, error)
        except _DEFECTS as error:
            # an error in tests, where warnings are: whoever has a network to look at gets a sound answer all the same
            warnings.warn(f"{_defect(call)} ({type(error).__name__}: {first_line(error)}).", RuleWarning, stacklevel=2)
            return self.unfit(call, error)
        if self.axes and effect.family in (Family.POINTWISE, Family.MIXED):
            self.check_axes(effect)
            self.check_broadcast(tensors((call.args, call.kwargs)))
        if self.reads_mode(call.node, sources) and effect.family not in (Family.IDENTITY, Family.NORM, Family.UNKNOWN):
            return unknown(call, "its arguments depend on train/eval mode")
        return effect

    def with_measured_work(self, call: Call, effect: Effect) -> Effect:
        """The effect with the multiply-adds that the op does when it runs on meta tensors, where it can.

        Whatever it touches is pinned, so that it does them at any width of the others.
        """
        node = call.node
        if "work" not in node.meta:  # `propagate` takes it out again
            node.meta["work"] = measured_work(self.traced, node, call.batch, self.reached, self.first_example)
        measured: Measured | None = node.meta["work"]
        if measured is None:
            return effect
        work = Work(measured.times, None, None)
        return replace(effect, work=(work,) if work.times else (), uncounted=bool(measured.unknown))

    def is_turned(self, effect: Effect) -> bool:
        """Whether the op takes a weight the other way round than its first reader: its rows are the columns there."""
        reading = effect.reading
        if reading is None or reading.weight is None:
            return False
        return self.transposed.setdefault(reading.weight, reading.transposed) != reading.transposed

    def unfit(self, call: Call, error: Exception) -> Effect:
        """The effect of an op that raised on its labels."""
        return unknown(call, f"its rule cannot be applied here ({first_line(error)})")

    def before(self, mode: str, node: fx.Node) -> Before | None:
        """The node at the widths of the trace, where these are others."""
        return None

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of a parameter or buffer."""
        return tuple(self.tensors[name].shape)

    def attribute(self, call: Call) -> Effect:
        """A bare parameter brings channels into being along one axis; what is a weight of an op is the op's to read."""
        name = call.name(str(call.node.target))
        tensor = self.tensors.get(name)
        reason = f"the tensor {name}, which the graph reads directly"
        if tensor is None:  # one that the forward makes; or the model itself, for a method of it that is one call
            return Effect(Family.SOURCE, out=call.opaque_like(call.val, reason))
        opaque = Effect(Family.SOURCE, out=fill(call.opaque(reason), self.shape_of(name)))
        if not tensor.is_floating_point() or _is_weight(call.node) or name in self.owned:
            return opaque
        axis = self.axes.setdefault(name, next(iter(_axis_order(tensor.shape)), None))
        if axis is None:
            return opaque
        labels = self.birth(name, tensor.shape[axis])
        shape = list(tensor.shape)
        shape[axis] = labels.numel()
        return Effect(Family.SOURCE, out=along(labels, axis, shape), sites=(Site(name, axis, labels),))

    def check_axes(self, effect: Effect) -> None:
        """A bare parameter that meets channels along another axis than its own was taken the wrong way."""
        for left, right in effect.ties:
            for own, other in ((left, right), (right, left)):
                name = self.bare(own)
                if name is None or own.dim() != other.dim() or not some_channel(other):
                    continue
                mine, theirs = varying(own), varying(other)
                if mine and theirs and not mine & theirs:
                    raise _OtherAxis(name)

    def check_broadcast(self, operands: list[Tensor]) -> None:
        """A bare parameter of which one position alone is left, and that meets channels along its other axis."""
        for own in operands if len(operands) > 1 else ():
            name = None if varying(own) else self.bare(own)
            if name is None:
                continue
            wide = {dim - own.dim() for dim, size in enumerate(own.shape) if size > 1}
            if any(wide & {dim - x.dim() for dim in varying(x)} for x in operands):
                raise _OtherAxis(name)

    def bare(self, labels: Tensor) -> str | None:
        """The bare parameter that brought the first of these labels into being."""
        if not self.axes or not labels.numel():
            return None
        if ascends(labels):
            name = self.at.get(labels.untyped_storage().data_ptr())
        else:
            first = int(labels.as_strided((), ()))
            name = self.keys[bisect(self.starts, first) - 1] if first >= 0 else None
        return name if name is not None and self.axes.get(name) is not None else None

    def reads_mode(self, node: fx.Node, sources: list[fx.Node]) -> bool:
        """Whether an argument differs between the modes, other than the amount of noise in train mode."""
        if self.of_mode.isdisjoint(sources):
            return False
        op = op_at(node, self.modules[str(node.target)] if node.op == "call_module" else None)
        noise = () if op is None else op.noise
        given = [arg for place, arg in (*enumerate(node.args), *node.kwargs.items()) if place not in noise]
        return not self.of_mode.isdisjoint(_nodes_in(given) if noise else sources)

    def birth(self, key: str, width: int) -> Tensor:
        if key not in self.born:
            labels = self.born[key] = born(self.count, width)
            self.at[labels.untyped_storage().data_ptr()] = key
            self.starts.append(self.count)
            self.keys.append(key)
            self.count += width
        elif not self.resized and self.born[key].numel() != width:
            self.uneven = (
                f"asks for {width} channels of {key!r}, which brought {self.born[key].numel()} into being before: "
                "a key has one width."
            )
        return self.born[key]

    def opaque(self, reason: str) -> int:
        if reason not in self.codes:
            self.codes[reason] = OPAQUE - len(self.reasons)
            self.reasons.append(reason)
        return self.codes[reason]


def _nodes_in(nest: Any) -> list[fx.Node]:
    """The nodes in a nest of arguments."""
    nodes: list[fx.Node] = []
    fx.map_arg(nest, nodes.append)
    return nodes


def first_line(error: Exception) -> str:
    """The first line of what an error says; of one that says nothing its class."""
    return (str(error).splitlines() or [type(error).__name__])[0]
