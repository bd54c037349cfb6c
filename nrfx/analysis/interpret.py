"""The interpretation of a graph on label tensors, one rule an op: at the widths that it has, or at others."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn

from nrfx.analysis.channels import Channels, Mismatch, Step
from nrfx.analysis.reinterpret import arguments
from nrfx.labels import OPAQUE, along
from nrfx.rules import (
    Before,
    Call,
    Effect,
    Family,
    Site,
    Unfit,
    attempt,
    check_effect,
    counted,
    op_of,
    reads_as_weight,
    rule_of,
    tensors,
    unknown,
)
from nrfx.rules.reduction import varying
from nrfx.tracing import TracedModule, has_known_forward
from nrfx.tracing.module import ByMode


def relabel(
    traced: TracedModule,
    old: Channels,
    births: Mapping[str, Tensor],
    channel_of: Tensor,
    shape_of: Callable[[str], tuple[int, ...]],
) -> tuple[Step, ...]:
    """Interprets the graphs with other births: each named birth brings the given labels into being.

    Args:
        channel_of: the channel of each label, old or new.
        shape_of: the shape that a parameter or buffer of that name will have.

    Raises:
        Mismatch: an op cannot take the new widths.
    """
    return LabelInterpreter(traced, old, births, channel_of, shape_of=shape_of).interpreted()


class RuleWarning(UserWarning):
    """A rule raised instead of giving an effect. Its op is pinned, which is sound, until the rule is mended."""


def _defect(call: Call) -> str:
    rule: Any = rule_of(call.node, call.module)
    name = getattr(rule, "__qualname__", type(rule).__name__)
    return f"The rule {getattr(rule, '__module__', '?')}.{name} failed at node {call.node.name}, which is pinned"


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


def _is_weight(node: fx.Node) -> bool:
    """Whether some op reads the tensor, perhaps transposed, as its weight."""
    return any(reads_as_weight(node, user) for user in node.users)


class LabelInterpreter:
    """One interpretation of a traced module's graphs; it fills `born` and `reasons` as it goes."""

    def __init__(
        self,
        traced: TracedModule,
        old: Channels | None = None,
        births: Mapping[str, Tensor] | None = None,
        channel_of: Tensor | None = None,
        axes: Mapping[str, int | None] | None = None,
        shape_of: Callable[[str], tuple[int, ...]] | None = None,
    ) -> None:
        self.traced = traced
        self.shape_of = shape_of
        self.resized = births is not None
        self.born: dict[str, Tensor] = dict(births or {})
        self.reasons: list[str] = list(old.reasons) if old else []
        self.count = 0
        self.batch = _batch(traced)
        self.unknown = {
            (step.mode, step.node.name): step.effect.pins[0].reason if step.effect.pins else "it has no rule"
            for step in (old.steps if old else ())
            if step.effect.family is Family.UNKNOWN
        }
        self.modules = dict(traced.named_modules(remove_duplicate=False))
        named = named_tensors(traced)
        self.aliases = old.aliases if old else first_names(named)
        self.codes: dict[str, int] = {reason: OPAQUE - index for index, reason in enumerate(self.reasons)}
        self.tensors: dict[str, Tensor] = {name: named[name] for name in self.aliases.values()}
        self.owned = _owned(traced, self.aliases)
        self.axes: dict[str, int | None] = dict(old.axes) if old else dict(axes or {})
        self.before: dict[tuple[str, str], Before] = {}
        if old is not None and channel_of is not None:
            self.before = {(step.mode, step.node.name): Before(step.effect.out, channel_of) for step in old.steps}

    def interpreted(self) -> tuple[Step, ...]:
        """The steps. Where a bare parameter turns out to hold its channels along another axis, it starts over."""
        while True:
            try:
                return tuple(self.steps())
            except _OtherAxis as other:
                shape = self.tensors[other.name].shape
                order: list[int | None] = [*_axis_order(shape), None]
                self.axes[other.name] = order[order.index(self.axes[other.name]) + 1]
                self.born, self.count = {}, 0

    def steps(self) -> Iterator[Step]:
        graphs = self.traced.graphs
        modes = ("eval",) if graphs["eval"] is graphs["train"] else ("eval", "train")
        for mode in modes:
            values: dict[fx.Node, Any] = {}
            self.place = {node: index for index, node in enumerate(graphs[mode].nodes)}
            self.families: dict[fx.Node, Family] = {}
            self.reached: set[fx.Node] = set()
            self.shapes: set[fx.Node] = set()
            for node in graphs[mode].nodes:
                step = self.step(mode, node, values)
                values[node], self.families[node] = step.effect.out, step.effect.family
                if step.effect.family is Family.VALUE:
                    self.note_sizes(node)
                elif node.op == "placeholder" or self.is_reached(node):
                    self.reached.add(node)
                yield step
                for reading in step.effect.also:  # a step for each, so that whoever looks for readings finds all
                    own = Effect(step.effect.family, step.effect.out, step.effect.sites, reading=reading)
                    yield Step(mode, node, reading.path, own)

    def step(self, mode: str, node: fx.Node, values: Mapping[fx.Node, Any]) -> Step:
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        path = str(node.target) if module is not None else node.name

        def read(arg: Any) -> Any:
            return fx.map_arg(arg, values.__getitem__)

        args, kwargs = arguments(node)
        call = Call(
            node=node,
            args=read(args),
            kwargs=read(kwargs),
            module=module,
            path=path,
            val=node.meta.get("val"),
            batch=self.batch if self.is_reached(node) else 1,
            birth=self.birth,
            opaque=self.opaque,
            resized=self.resized,
            before=self.before.get((mode, node.name)),
            name=lambda name: self.aliases.get(name, name),
            parameter=self.tensors.__getitem__,
            workless=_is_workless(node, module),
        )
        effect = self.attribute(call) if node.op == "get_attr" else self.effect(mode, call)
        owner = effect.reading or effect.norm
        return Step(mode, node, path if owner is None else owner.path, effect)

    def is_reached(self, node: fx.Node) -> bool:
        """Whether the examples of the batch go into the node, or their number; not only their other sizes."""
        return any(source in self.reached or source in self.shapes for source in node.all_input_nodes)

    def note_sizes(self, node: fx.Node) -> None:
        """Notes a Python value that is the shape of what examples reach (`shapes`) or their number (`reached`)."""
        first = node.all_input_nodes[0] if node.all_input_nodes else None
        asked = [arg for arg in (*node.args[1:], *node.kwargs.values()) if arg != "shape"]
        whole = first in self.shapes or (first in self.reached and (node.target is getattr or node.target == "size"))
        if not whole:
            number = any(source in self.reached for source in node.all_input_nodes) and node.target not in SIZES
            self.reached |= {node} if number else set()
        elif asked == [0]:
            self.reached.add(node)
        elif not asked or (isinstance(asked[0], slice) and not asked[0].start):
            self.shapes.add(node)

    def effect(self, mode: str, call: Call) -> Effect:
        """What the rule says; where it cannot be applied, that the op is not understood."""
        if (mode, call.node.name) in self.unknown:
            return unknown(call, self.unknown[mode, call.node.name])
        later = self.later_reader(call)
        if later is not None:
            return counted(call, f"it writes in place to a value that {later} reads later", _effect)
        try:
            effect = _effect(call)
            check_effect(call, effect)
        except Unfit as error:
            return self.unfit(call, error)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
            # an error in tests, where warnings are: whoever has a network to look at gets a sound answer all the same
            warnings.warn(f"{_defect(call)} ({type(error).__name__}: {_first_line(error)}).", RuleWarning, stacklevel=2)
            return self.unfit(call, error)
        if not self.resized and effect.family in (Family.POINTWISE, Family.MIXED):
            self.check_axes(effect)
        if self.reads_mode(call.node) and effect.family not in (Family.IDENTITY, Family.NORM, Family.UNKNOWN):
            return unknown(call, "its arguments depend on train/eval mode")
        return effect

    def unfit(self, call: Call, error: Exception) -> Effect:
        """That the op is not understood; at other widths than those of the trace, that it does not take them."""
        if not self.resized:
            return unknown(call, f"its rule cannot be applied here ({_first_line(error)})")
        touched = tuple(tensors((call.args, call.kwargs)))
        reason = f"it does not take another width ({_first_line(error)})"
        raise Mismatch(call.node.name, reason, touched) from error

    def attribute(self, call: Call) -> Effect:
        """A bare parameter brings channels into being along one axis; what is a weight of an op is the op's to read."""
        name = call.name(str(call.node.target))
        labels = call.opaque_like(call.val, f"the tensor {name}, which the graph reads directly")
        tensor = self.tensors.get(name)
        if tensor is not None and self.shape_of is not None:
            labels = labels.new_full((1,) * labels.dim(), int(labels.reshape(-1)[0])).expand(self.shape_of(name))
        opaque = Effect(Family.SOURCE, out=labels)
        if tensor is None or not tensor.is_floating_point() or _is_weight(call.node) or name in self.owned:
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
                if name is None or own.dim() != other.dim() or not bool((other >= 0).any()):
                    continue
                mine, theirs = varying(own), varying(other)
                if mine and theirs and not mine & theirs:
                    raise _OtherAxis(name)

    def bare(self, labels: Tensor) -> str | None:
        """The bare parameter that brought the first of these labels into being."""
        if not self.axes or not labels.numel():
            return None
        first = int(labels.reshape(-1)[0])
        born = ((name, self.born[name]) for name, axis in self.axes.items() if axis is not None and name in self.born)
        return next((name for name, ids in born if first >= 0 and int(ids[0]) <= first <= int(ids[-1])), None)

    def later_reader(self, call: Call) -> str | None:
        """Who reads, after an op that works in place, the value that it changes, or a view of it."""
        if not (_works_in_place(call.node, call.module) and call.args and isinstance(call.args[0], Tensor)):
            return None
        now = self.place[call.node]
        shared, queue = set(), [call.node.all_input_nodes[0]]
        while queue:
            node = queue.pop()
            shared.add(node)
            around = [user for user in node.users if self.place[user] < now and self.shares(user, node)]
            around += [source for source in node.all_input_nodes[:1] if self.shares(node, source)]
            queue.extend(other for other in around if other not in shared)
        readers = {user for node in shared for user in node.users} - shared
        later = [user for user in readers if self.place[user] > now]
        return min(later, key=self.place.__getitem__).name if later else None

    def shares(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether what `node` gives may lie in the memory of `source`, its first input."""
        op = op_of(node.target) if node.op in ("call_function", "call_method") else None
        if node.all_input_nodes[0] is not source or (op is not None and op.copies):
            return False
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        return self.families[node] in (Family.MOVEMENT, Family.IDENTITY) or _works_in_place(node, module)

    def reads_mode(self, node: fx.Node) -> bool:
        sources = [arg for arg in node.all_input_nodes if arg.op == "call_module"]
        return any(isinstance(self.modules[str(arg.target)], ByMode) for arg in sources)

    def birth(self, key: str, width: int) -> Tensor:
        if key not in self.born:
            self.born[key] = torch.arange(self.count, self.count + width)
            self.count += width
        return self.born[key]

    def opaque(self, reason: str) -> int:
        if reason not in self.codes:
            self.codes[reason] = OPAQUE - len(self.reasons)
            self.reasons.append(reason)
        return self.codes[reason]


def _is_workless(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the op is known to do no multiply-adds that count; what has a forward of its own may do any."""
    kind: Any = type(module)
    if module is not None and not has_known_forward(kind):
        return False
    op = op_of(node.target if module is None else module) if node.op.startswith("call_") else None
    return op is not None and op.workless


def _works_in_place(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return bool(getattr(module, "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    op = op_of(node.target)
    if (op is not None and op.in_place) or (name.endswith("_") and not name.endswith("__")):
        return True
    if isinstance(node.target, str):
        return False
    index = _inplace_argument(node.target)
    given = node.args[index] if index is not None and index < len(node.args) else node.kwargs.get("inplace")
    return index is not None and given is True


@cache
def _inplace_argument(function: Callable[..., Any]) -> int | None:
    """Which argument of a function is `inplace`; None where there is none."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # builtins have no signature, and no such argument
        return None
    return names.index("inplace") if "inplace" in names else None


def _batch(traced: TracedModule) -> int:
    """Examples in the batch that was traced: what the first dims of all inputs agree on, else 1. Parts of a model get
    anchors and proposals as well, so that their work is that of one run."""
    if traced.facts.parts:
        return 1
    sizes = {shape[0] for shape, _ in traced.inputs if shape}
    return sizes.pop() if len(sizes) == 1 else 1


def first_names(named: Mapping[str, Tensor]) -> dict[str, str]:
    """Every name of a tensor -> the first name of the same one."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in named.items()}


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter, then every buffer, by each of its names, in one walk over the modules."""
    modules = list(module.named_modules(remove_duplicate=False))
    return {
        (f"{path}.{name}" if path else name): tensor
        for kind in ("_parameters", "_buffers")
        for path, owner in modules
        for name, tensor in getattr(owner, kind).items()
        if tensor is not None
    }


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _effect(call: Call) -> Effect:
    return _BY_OP[call.node.op](call)


def _placeholder(call: Call) -> Effect:
    return Effect(Family.SOURCE, out=call.opaque_like(call.val, "the network's input"))


def _output(call: Call) -> Effect:
    pins = tuple(call.pin(labels, "the network's output") for labels in tensors(call.args))
    return Effect(Family.SINK, out=call.args[0], pins=pins)


def _called(call: Call) -> Effect:
    if isinstance(call.module, ByMode):
        return Effect(Family.VALUE, out=call.argument(1, "eval"))
    if call.module is None and _asks_for_sizes(call):
        return Effect(Family.VALUE, out=attempt(_run, call))
    obstacle = _obstacle(call.module)
    if obstacle is not None:
        return counted(call, obstacle, rule_of(call.node, call.module))
    return rule_of(call.node, call.module)(call)


def _obstacle(module: nn.Module | None) -> str | None:
    """What stands between a module and its class's rule."""
    if module is None:
        return None
    kind: Any = type(module)
    if not has_known_forward(kind) or "forward" in vars(module):
        return f"{kind.__name__} has a forward of its own"
    if module._forward_hooks or module._forward_pre_hooks:
        return "it has forward hooks, which may do anything"
    computed = [name for name in ("weight", "bias") if name not in module._parameters and _holds(module, name)]
    return f"its {computed[0]} is computed from other tensors" if computed else None


def _holds(module: nn.Module, name: str) -> bool:
    """Whether an attribute that is no parameter is a tensor, or a property that gives one (a parametrization)."""
    own = vars(module).get(name, getattr(type(module), name, None))
    return isinstance(own, Tensor | property) or module._buffers.get(name) is not None


SIZES = {"size", "dim", "numel", "ndimension", "ndim", "__len__"}


def _asks_for_sizes(call: Call) -> bool:
    """Whether the node computes Python values: sizes of tensors, or arithmetic on them."""
    if call.node.op == "call_method":
        return call.node.target in SIZES
    if call.node.target is getattr:
        return call.args[1] in ("shape", "ndim", "device", "dtype")
    return call.node.target in (len, int, float) or (not tensors((call.args, call.kwargs)) and not tensors(call.val))


def _run(call: Call) -> Any:
    target: Callable[..., Any] | str = call.node.target
    if isinstance(target, str):
        return getattr(call.args[0], target)(*call.args[1:], **call.kwargs)
    return target(*call.args, **call.kwargs)


_BY_OP: dict[str, Callable[[Call], Effect]] = {
    "placeholder": _placeholder,
    "output": _output,
    "call_module": _called,
    "call_function": _called,
    "call_method": _called,
}
