"""Which channels a graph has, which of them must live and die together, and which must stay as they are.

The graph is interpreted on label tensors (labels.py), one rule an op (rules/). Labels that an element-wise op brings
together are tied; tied labels form one channel; channels whose labels are born at the same places form a space,
which has one width. Graphs that differ between training and evaluation are interpreted one after the other and share
their births.

Not handled: parameters that a graph reads other than through a module (they pin what they meet).
"""

import inspect
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import networkx
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from nrfx.labels import OPAQUE, collapse, components
from nrfx.rules import Call, Effect, Family, Norm, Reading, rule_of, tensors, unknown
from nrfx.trace import TracedModule, has_known_forward
from nrfx.trace.module import ByMode


@dataclass(frozen=True)
class Step:
    """One interpreted node: what its rule said."""

    mode: str
    node: fx.Node
    path: str
    effect: Effect


@dataclass(frozen=True)
class Space:
    """Channels that differ only by position.

    `births` names the places where they are born, `width` counts them, `each` says how many labels one channel has at
    each birth (1, or the size of a group). `pinned` is the reason why the width is fixed, else None.
    """

    index: int
    name: str
    births: Mapping[str, int]
    width: int
    pinned: str | None
    pinned_by: str | None
    stream: bool
    normed: bool
    frozen: bool

    @property
    def free(self) -> bool:
        """Whether channels may come and go."""
        return self.pinned is None


@dataclass(frozen=True)
class Channels:
    """The channels of a graph. Labels index `channel_of`; channels index `space_of`; `NONE` and opaque are negative."""

    steps: tuple[Step, ...]
    births: Mapping[str, Tensor]
    layouts: Mapping[str, tuple[Tensor | None, ...]]  # parameter or buffer -> its layout on each dim
    channel_of: Tensor
    space_of: Tensor
    spaces: tuple[Space, ...]
    norms: Mapping[str, Tensor]  # gamma -> its layout
    reasons: tuple[str, ...]
    aliases: Mapping[str, str]  # every parameter and buffer name -> its first name

    @cached_property
    def first_norms(self) -> dict[str, Norm]:
        """Key -> the norm, as its first visit (in eval mode, where there is one) sees it."""
        first: dict[str, Norm] = {}
        for step in self.steps:
            if step.effect.norm is not None:
                first.setdefault(step.effect.norm.key, step.effect.norm)
        return first

    @cached_property
    def shared(self) -> frozenset[str]:
        """The parameters and buffers that more than one layer or node reads, so that no one may change their values."""
        tied = {first for name, first in self.aliases.items() if first != name}
        return frozenset(tied | {name for name, _ in read_directly(self.steps, self.aliases)})

    def channels(self, layout: Tensor) -> Tensor:
        """The channel of each label of a layout, negative labels kept."""
        if not self.channel_of.numel():
            return layout
        return torch.where(layout >= 0, self.channel_of[layout.clamp(min=0)], layout)

    def spaces_along(self, layout: Tensor) -> Tensor:
        """The space of each label of a layout, negative labels kept."""
        if not self.channel_of.numel():
            return layout
        return torch.where(layout >= 0, self.space_of[self.channel_of[layout.clamp(min=0)]], layout)


class Mismatch(Exception):
    """Labels of other widths did not meet where the old ones did; `labels` are those concerned."""

    def __init__(self, node: str, reason: str, labels: tuple[Tensor, ...]) -> None:
        super().__init__(f"{node}: {reason}")
        self.node, self.reason, self.labels = node, reason, labels


def channels(traced: TracedModule, fixed: Mapping[str, str] | None = None) -> Channels:
    """Interprets every graph of `traced` on label tensors. Mutates nothing, reads no parameter's value.

    Args:
        fixed: births that shall keep their width, with the reason.
    """
    walk = _Walk(traced)
    steps = tuple(walk.steps())
    return _Solved(traced, walk, steps).channels(fixed or {})


def read_directly(steps: Iterable[Step], aliases: Mapping[str, str]) -> list[tuple[str, str]]:
    """(parameter or buffer, node) wherever a node reads one otherwise than as a weight that its rule understands."""
    known = {(step.mode, step.node): step.effect for step in steps}
    found = []
    for (mode, node), _ in known.items():
        if node.op == "get_attr":
            name = aliases.get(str(node.target), str(node.target))
            for user in node.users:
                if name not in {site.parameter for site in known[mode, user].sites}:
                    found.append((name, user.name))
    return found


def readers(steps: Iterable[Step]) -> dict[str, Step]:
    """Key -> the first step at which those weights read; later visits are tied to it."""
    first: dict[str, Step] = {}
    for step in steps:
        if step.effect.reading is not None:
            first.setdefault(step.effect.reading.key, step)
    return first


def first_readings(steps: Iterable[Step]) -> dict[str, Reading]:
    """Key -> what those weights read and give at their first visit."""
    return {key: step.effect.reading for key, step in readers(steps).items() if step.effect.reading is not None}


def relabel(traced: TracedModule, old: Channels, births: Mapping[str, Tensor]) -> tuple[Step, ...]:
    """Interprets the graphs with other births: each named birth brings the given labels into being.

    Raises:
        Mismatch: an op cannot take the new widths.
    """
    return tuple(_Walk(traced, old, births).steps())


class _Walk:
    """One interpretation of a traced module's graphs; it fills `born` and `reasons` as it goes."""

    def __init__(
        self, traced: TracedModule, old: Channels | None = None, births: Mapping[str, Tensor] | None = None
    ) -> None:
        self.traced = traced
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
        self.aliases = old.aliases if old else first_names(traced)
        self.modules: dict[str, nn.Module] = dict(traced.named_modules())
        self.codes: dict[str, int] = {reason: OPAQUE - index for index, reason in enumerate(self.reasons)}

    def steps(self) -> Iterator[Step]:
        graphs = self.traced.graphs
        modes = ("eval",) if graphs["eval"] is graphs["train"] else ("eval", "train")
        for mode in modes:
            values: dict[fx.Node, Any] = {}
            self.place = {node: index for index, node in enumerate(graphs[mode].nodes)}
            self.families: dict[fx.Node, Family] = {}
            for node in graphs[mode].nodes:
                step = self.step(mode, node, values)
                values[node], self.families[node] = step.effect.out, step.effect.family
                yield step

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
            batch=self.batch,
            birth=self.birth,
            opaque=self.opaque,
            resized=self.resized,
            name=lambda name: self.aliases.get(name, name),
        )
        effect = self.effect(mode, call)
        owner = effect.reading or effect.norm
        return Step(mode, node, path if owner is None else owner.path, effect)

    def effect(self, mode: str, call: Call) -> Effect:
        """What the rule says; where it cannot be applied, that the op is not understood."""
        if (mode, call.node.name) in self.unknown:
            return unknown(call, self.unknown[mode, call.node.name])
        later = self.later_reader(call)
        if later is not None:
            return unknown(call, f"it writes in place to a value that {later} reads later")
        try:
            effect = _effect(call)
        except (RuntimeError, ValueError, IndexError, KeyError, TypeError, AttributeError, AssertionError) as error:
            if not self.resized:
                return unknown(call, f"its rule cannot be applied here ({_first_line(error)})")
            touched = tuple(tensors((call.args, call.kwargs)))
            reason = f"it does not take another width ({_first_line(error)})"
            raise Mismatch(call.node.name, reason, touched) from error
        if self.reads_mode(call.node) and effect.family not in (Family.IDENTITY, Family.NORM, Family.UNKNOWN):
            return unknown(call, "its arguments depend on train/eval mode")
        return effect

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
        if node.all_input_nodes[0] is not source or node.target in _COPIES:
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


_COPIES = (torch.cat, torch.concat, torch.concatenate, torch.stack, torch.clone, "clone", "repeat", "contiguous")
_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem)


def _works_in_place(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return bool(getattr(module, "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.target in _IN_PLACE or (name.endswith("_") and not name.endswith("__")):
        return True
    if isinstance(node.target, str):
        return False
    try:
        return inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments.get("inplace") is True
    except (TypeError, ValueError):  # builtins have no signature, and no such argument
        return False


def _batch(traced: TracedModule) -> int:
    """Examples in the batch that was traced: what the first dims of all inputs agree on, else 1."""
    sizes = {shape[0] for shape, _ in traced.inputs if shape}
    return sizes.pop() if len(sizes) == 1 else 1


def arguments(node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The node's arguments with operands that were passed by name in their places."""
    args, kwargs = list(node.args), dict(node.kwargs)
    for index, names in enumerate((("input", "tensors"), ("other",))):
        name = next((name for name in names if name in kwargs), None)
        if name is not None and len(args) == index:
            args.append(kwargs.pop(name))
    return tuple(args), kwargs


def first_names(module: nn.Module) -> dict[str, str]:
    """Every parameter and buffer name -> the first name of the same tensor."""
    first: dict[int, str] = {}
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _effect(call: Call) -> Effect:
    return _BY_OP[call.node.op](call)


def _placeholder(call: Call) -> Effect:
    return Effect(Family.SOURCE, out=call.opaque_like(call.val, "the network's input"))


def _attribute(call: Call) -> Effect:
    name = str(call.node.target)
    return Effect(Family.SOURCE, out=call.opaque_like(call.val, f"the tensor {name}, which the graph reads directly"))


def _output(call: Call) -> Effect:
    pins = tuple(call.pin(labels, "the network's output") for labels in tensors(call.args))
    return Effect(Family.SINK, out=call.args[0], pins=pins)


def _called(call: Call) -> Effect:
    if isinstance(call.module, ByMode):
        return Effect(Family.VALUE, out=call.argument(1, "eval"))
    if call.module is None and _asks_for_sizes(call):
        return Effect(Family.VALUE, out=_run(call))
    obstacle = _obstacle(call.module)
    if obstacle is not None:
        return unknown(call, obstacle)
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
    read = [name for name in ("weight", "bias") if isinstance(getattr(module, name, None), Tensor)]
    computed = [name for name in read if name not in module._parameters]
    return f"its {computed[0]} is computed from other tensors" if computed else None


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
    "get_attr": _attribute,
    "output": _output,
    "call_module": _called,
    "call_function": _called,
    "call_method": _called,
}


class _Solved:
    """Ties, pins and spaces from the effects of a walk."""

    def __init__(self, traced: TracedModule, walk: _Walk, steps: tuple[Step, ...]) -> None:
        self.traced, self.walk, self.steps = traced, walk, steps
        self.layouts, twice = _layouts(traced, steps)
        self.ties = [(step, left, right) for step in steps for left, right in step.effect.ties]
        self.ties += [(step, left, right) for step, left, right in twice]
        self.pins: list[tuple[Tensor, str, str]] = [
            (pin.labels, pin.node, pin.reason) for step in steps for pin in step.effect.pins
        ]
        self.pins += [
            (layout, node, f"{name} is also read by node {node}")
            for name, node in read_directly(steps, walk.aliases)
            for layout in self.layouts.get(name, ())
            if layout is not None
        ]

    def channels(self, fixed: Mapping[str, str]) -> Channels:
        channel_of, count = self._tie()
        space_of, spaces = _group(self.walk.born, channel_of, count)
        self.pins += self._opaque_pins() + [(self.walk.born[key], key, why) for key, why in fixed.items()]
        self.pins += self._uneven(channel_of, space_of, len(spaces))
        pinned = _pin_spaces(self.pins, channel_of, space_of)
        norms = {
            step.effect.norm.gamma: step.effect.norm.layout
            for step in self.steps
            if step.effect.norm is not None and step.effect.norm.gamma is not None
        }
        streams = self._streams(channel_of, space_of)
        normed = _touched(norms.values(), channel_of, space_of)
        frozen = _touched(self._frozen_layouts(), channel_of, space_of)
        made = tuple(
            Space(
                index=index,
                name=next(iter(births)),
                births=births,
                width=width,
                pinned=pinned.get(index, (None, None))[0],
                pinned_by=pinned.get(index, (None, None))[1],
                stream=index in streams,
                normed=index in normed,
                frozen=index in frozen,
            )
            for index, (births, width) in enumerate(spaces)
        )
        return Channels(
            *(self.steps, dict(self.walk.born), self.layouts, channel_of, space_of, made, norms),
            reasons=tuple(self.walk.reasons),
            aliases=self.walk.aliases,
        )

    def _tie(self) -> tuple[Tensor, int]:
        pairs = [torch.broadcast_tensors(left, right) for _, left, right in self.ties]
        left = torch.cat([torch.zeros(0, dtype=torch.int64), *(a.reshape(-1) for a, _ in pairs)])
        right = torch.cat([torch.zeros(0, dtype=torch.int64), *(b.reshape(-1) for _, b in pairs)])
        both = (left >= 0) & (right >= 0) & (left != right)
        root = components(self.walk.count, left[both], right[both])
        roots, channel_of = torch.unique(root, return_inverse=True)
        return channel_of, roots.numel()

    def _opaque_pins(self) -> list[tuple[Tensor, str, str]]:
        """A channel tied to an opaque value is pinned by it."""
        pins = []
        for step, left, right in self.ties:
            for labels, other in ((left, right), (right, left)):
                met = (labels >= 0) & (other <= OPAQUE)
                if bool(met.any()):
                    code = int(other.expand(met.shape)[met][0])
                    pins.append(
                        (labels.expand(met.shape)[met], step.node.name, f"meets {self.walk.reasons[OPAQUE - code]}")
                    )
        return pins

    def _uneven(self, channel_of: Tensor, space_of: Tensor, spaces: int) -> list[tuple[Tensor, str, str]]:
        """Spaces of which some axis reads one channel more often than another cannot change width."""
        pins = []
        width = torch.bincount(space_of, minlength=spaces)
        distinct = {id(layout): (name, layout) for name, layout in self._read_whole()}
        for name, layout in distinct.values():
            ids, reads = torch.unique(channel_of[layout[layout >= 0]], return_counts=True)
            here = space_of[ids]
            total = torch.zeros(spaces, dtype=torch.int64).index_add_(0, here, reads)
            met = torch.bincount(here, minlength=spaces)
            uneven = (reads * width[here] != total[here]) | (met[here] != width[here])
            if bool(uneven.any()):
                bad = torch.isin(space_of[channel_of], here[uneven]).nonzero().flatten()
                pins.append((bad, name, f"{name} reads only some of its channels"))
        return pins

    def _read_whole(self) -> Iterator[tuple[str, Tensor]]:
        """(name, layout) of every axis that should read a space's channels alike: not the blocks of cross layers."""
        readings = first_readings(self.steps)
        crossed = {reading.path for reading in readings.values() if reading.generation is not None}
        for key, reading in readings.items():
            yield from ((key, reading.rows), (key, reading.cols))
        for name, dims in self.layouts.items():
            if name.rpartition(".")[0].removesuffix(".weights") not in crossed:
                yield from ((name, layout) for layout in dims if layout is not None)

    def _streams(self, channel_of: Tensor, space_of: Tensor) -> set[int]:
        found: set[int] = set()
        outs = {(step.mode, step.node.name): step.effect.out for step in self.steps}
        joins = [step for step in self.steps if step.effect.joins]
        trees = {mode: _dominator_tree(self.traced.graphs[mode]) for mode in {step.mode for step in joins}}
        for step in joins:
            for value in [step.effect.out, *_entries(step, outs, trees[step.mode])]:
                for labels in tensors(value):
                    ids = collapse(labels).reshape(-1)
                    found |= set(space_of[channel_of[ids[ids >= 0]]].tolist())
        return found

    def _frozen_layouts(self) -> list[Tensor]:
        return [
            layout
            for name, parameter in self.traced.named_parameters()
            if not parameter.requires_grad
            for layout in self.layouts.get(name, ())
            if layout is not None
        ]


def _layouts(
    traced: TracedModule, steps: tuple[Step, ...]
) -> tuple[dict[str, tuple[Tensor | None, ...]], list[tuple[Step, Tensor, Tensor]]]:
    """The layout on each dim of each visited tensor; a second visit ties to the first."""
    shapes = {**{n: p.dim() for n, p in traced.named_parameters()}, **{n: b.dim() for n, b in traced.named_buffers()}}
    found: dict[str, list[Tensor | None]] = {}
    ties = []
    for step in steps:
        for site in step.effect.sites:
            dims = found.setdefault(site.parameter, [None] * shapes[site.parameter])
            first = dims[site.dim]
            if first is None:
                dims[site.dim] = site.layout
            elif first is not site.layout and not torch.equal(first, site.layout):
                ties.append((step, first, site.layout))
    return {name: tuple(dims) for name, dims in found.items()}, ties


def _group(
    born: Mapping[str, Tensor], channel_of: Tensor, count: int
) -> tuple[Tensor, list[tuple[dict[str, int], int]]]:
    """The space of each channel, and (births with labels a channel, width) of each space.

    Two channels share a space when they have equally many labels at each birth.
    """
    keys = list(born)
    generator = torch.Generator().manual_seed(0)
    marks = torch.randint(1 << 62, (max(len(keys), 1),), generator=generator)
    signature = torch.zeros(count, dtype=torch.int64)
    for index, key in enumerate(keys):
        signature.index_add_(0, channel_of[born[key]], marks[index].expand(born[key].numel()))
    _, inverse = torch.unique(signature, return_inverse=True)
    first = torch.full((int(inverse.max()) + 1 if count else 0,), count).scatter_reduce(
        0, inverse, torch.arange(count), "amin"
    )
    order = torch.argsort(first)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(order.numel())
    space_of = rank[inverse]
    widths = torch.bincount(space_of).tolist()
    members: list[dict[str, int]] = [{} for _ in widths]
    for key in keys:
        here, times = torch.unique(space_of[channel_of[born[key]]], return_counts=True)
        for space, labels in zip(here.tolist(), times.tolist(), strict=True):
            members[space][key] = labels // widths[space]
    return space_of, list(zip(members, widths, strict=True))


def _pin_spaces(
    pins: list[tuple[Tensor, str, str]], channel_of: Tensor, space_of: Tensor
) -> dict[int, tuple[str, str]]:
    """Space -> (reason, node) of the first pin that touches it."""
    found: dict[int, tuple[str, str]] = {}
    for labels, node, reason in pins:
        ids = collapse(labels).reshape(-1)
        for space in torch.unique(space_of[channel_of[ids[ids >= 0]]]).tolist():
            found.setdefault(space, (reason, node))
    return found


def _touched(layouts: Any, channel_of: Tensor, space_of: Tensor) -> set[int]:
    ids = torch.cat([torch.zeros(0, dtype=torch.int64), *layouts])
    return set(space_of[channel_of[ids[ids >= 0]]].tolist())


def _entries(step: Step, outs: Mapping[tuple[str, str], Any], tree: Mapping[Any, Any]) -> list[Any]:
    """The value at which the two arms of an addition part: the nearest node that every path to both must cross."""
    operands = [arg for arg in step.node.all_input_nodes if tensors(outs[step.mode, arg.name])]
    if len(operands) < 2:
        return []
    common = _dominators(operands[0], tree)
    for operand in operands[1:]:
        above = set(_dominators(operand, tree))
        common = [node for node in common if node in above]
    return [outs[step.mode, node.name] for node in common[:1]]


def _dominators(node: fx.Node, tree: Mapping[Any, Any]) -> list[fx.Node]:
    """The nodes that every path from the inputs to `node` crosses, nearest first, itself included."""
    above: list[fx.Node] = []
    while isinstance(node, fx.Node) and node not in above:
        above.append(node)
        node = tree.get(node, _ENTRY)
    return above


_ENTRY: Any = "entry"


def _dominator_tree(graph: fx.Graph) -> dict[Any, Any]:
    """Node -> its immediate dominator."""
    flow = networkx.DiGraph()
    flow.add_node(_ENTRY)
    for node in graph.nodes:
        flow.add_edges_from((source, node) for source in node.all_input_nodes or [_ENTRY])
    return dict(networkx.immediate_dominators(flow, _ENTRY))


def flow(found: Channels, value: Callable[[Step, tuple[Any, ...], dict[str, Any]], Any]) -> None:
    """Interprets the steps in order on another kind of value: `value` gives that of a step from those of its
    operands.
    """
    values: dict[tuple[str, str], Any] = {}
    for step in found.steps:
        args, kwargs = operands(step, values)
        plain = step.effect.family is Family.VALUE
        values[step.mode, step.node.name] = step.effect.out if plain else value(step, args, kwargs)


def operands(step: Step, values: Mapping[tuple[str, str], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a step, with the value of each node in place of the node."""

    def read(arg: fx.Node) -> Any:
        return values[step.mode, arg.name]

    given, named = arguments(step.node)
    args: Any = fx.map_arg(given, read)
    kwargs: Any = fx.map_arg(named, read)
    return args, kwargs


def like(nest: Any, value: Callable[[Tensor], Tensor]) -> Any:
    """The nest with each label tensor replaced by value(labels)."""
    return tree_map(lambda leaf: value(leaf) if isinstance(leaf, Tensor) else leaf, nest)
