"""Why a layer has the channels that it has: what ties them, what pins them, what holds the dead ones.

chain        the nodes on the shortest way from a layer to a pin, a stream's addition, or what else keeps its channels
             (see tie_graph.py)

Not handled: modules inside one that the graph calls as a whole (the projections of nn.MultiheadAttention).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any, Literal

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels, Space, Step
from nrfx.analysis.deaf import deaf_layers, silent_weights
from nrfx.analysis.holders import Holders
from nrfx.analysis.inventory import Inventory
from nrfx.analysis.liveness import Liveness, liveness_of
from nrfx.analysis.names import named_tensors
from nrfx.analysis.spaces import channels_of
from nrfx.analysis.taught import taught
from nrfx.analysis.tie_graph import Hop, TieGraph, Vertex, in_order
from nrfx.choices import Residual
from nrfx.errors import UsageError
from nrfx.labels import OPAQUE, collapse
from nrfx.printed import Printed
from nrfx.rules import Family, Pin, tensors
from nrfx.tracing import TracedModule, as_traced

Axis = Literal["out", "in", "both"]
State = Literal["pinned", "fixed", "gammaless", "stream", "frozen", "free"]


@dataclass(frozen=True)
class Link:
    """One node on a chain.

    Attributes:
        node: its name in the graph.
        op: the class of the module or the name of the function that it calls; "input", "tensor" or "output".
        module: the path of the module that is called, or around the call; "" for the network itself.
        called: whether the module is called.
        file, line: the line of the user's code that made the node, None where it is not known.
        hop: how the chain gets here from the link before: "onward" with the flow of values, "back" against it,
            "shared" by weights that both read.
    """

    node: str
    op: str
    module: str
    called: bool
    file: str | None
    line: int | None
    hop: Hop


@dataclass(frozen=True)
class Hold:
    """How many gamma-dead channels are kept for one reason, and the chain to the node that holds them."""

    reason: str
    channels: int
    chain: tuple[Link, ...]


@dataclass(frozen=True)
class AxisPart:
    """Channels on an axis of a layer that belong to one space, or that are not understood.

    Attributes:
        axis: "out", "in", or "both" where a layer passes its channels on.
        space: the name of the space; "" in state "fixed".
        births: the layers that bring channels of the space into being, and share its width.
        width, live: positions of the axis with such a channel (after a flatten each channel has several), and of those
            the live ones; 0 where the positions cannot be told apart.
        state: "pinned": the width must not change. "fixed": no channels, but the network's input or the result of an op
            that is not understood. "gammaless": free, but no gamma tells which channels are dead. "stream":
            residual="live" or "fixed" keeps them. "frozen": channels may go, but none may come, for a parameter is
            frozen. "free": channels may go and come.
        reason: why it is in that state; "" for "free".
        chain: the way from the layer to the node that gives this reason; may be empty.
        also: other pins of the space, "node: reason".
        held: gamma-dead channels among them that are kept.
        together: how many positions of a birth each of them fills, and the node that ties these, where it is not one.
    """

    axis: Axis
    space: str
    births: tuple[str, ...]
    width: int
    live: int
    state: State
    reason: str
    chain: tuple[Link, ...]
    also: tuple[str, ...]
    held: tuple[Hold, ...]
    together: tuple[str, ...] = ()


@dataclass(frozen=True)
class Why(Printed):
    """Why the channels of a layer, or of every layer in a container, may or may not change. print() renders it.

    Attributes:
        layer: the module path, or the name of a parameter that the graph reads on its own.
        op: its class.
        parts: its own channels, space by space, outputs first; empty for a container.
        layers: of a container, the layers in it.
        note: a sentence where there is nothing to explain, or where its output no longer depends on the input, or "".

    >>> import nrfx
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> reasons = nrfx.why(nrfx.trace(net, torch.zeros(1, 3, 4, 4)), "0")
    >>> reasons.layer, [(part.axis, part.state) for part in reasons.parts]
    ('0', [('out', 'free'), ('in', 'fixed')])
    """

    layer: str
    op: str
    parts: tuple[AxisPart, ...]
    layers: "tuple[Why, ...]"
    note: str = ""

    def to_json(self) -> str:
        """The whole answer as a JSON object."""
        return json.dumps(asdict(self), indent=2)


def why(
    gm: Any, layer: str = "", *, threshold: float = 0.01, residual: Residual = "live", example_inputs: Any = None
) -> Why:
    """Why the channels of a layer may or may not change: for each axis, what shares their width and what pins or holds
    them, with the shortest chain of nodes that leads there. Nothing is changed and no data is run.

    Args:
        gm: what `nrfx.trace` returned, or a torch.fx.GraphModule (with shapes in its nodes, or example_inputs).
        layer: the path of a module, or the name of a parameter that the forward computes with itself (a layer scale);
            of a container (or "", the whole network) every layer in it is explained.
        threshold, residual: as for `nrfx.rejuvenate`.

    Raises:
        UsageError: there is no such layer; names that are close to it are given.
        AnalysisError: a gamma is not finite, or an option is out of range.

    >>> import nrfx
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> gm = nrfx.trace(net, torch.zeros(1, 3, 4, 4))
    >>> [(part.axis, part.width, part.state, part.reason) for part in nrfx.why(gm, "3").parts]
    [('out', 4, 'pinned', "the network's output"), ('in', 8, 'free', '')]
    >>> [link.node for link in nrfx.why(gm, "3").parts[0].chain]
    ['_3', 'output']
    """
    traced = as_traced(gm, example_inputs)
    channels = channels_of(traced)
    _check_name(traced, _by_path(channels), layer)
    liveness = liveness_of(traced, channels, threshold, residual)
    silent = silent_weights(channels.steps, named_tensors(traced))
    deaf = {each.layer: each.reason for each in deaf_layers(channels, liveness.affine, silent)}
    return explain(Inventory.of(traced), channels, liveness, taught(traced), deaf, layer)


def explain(
    inventory: Inventory,
    channels: Channels,
    liveness: Liveness,
    learnt: frozenset[str],
    deaf: Mapping[str, str],
    layer: str = "",
    most: int | None = None,
) -> Why:
    """`why` for a layer of a network that registers this, whose channels and liveness are known.

    learnt: the parameters that it learns. deaf: layer -> why it is deaf. most: only so many parts of an axis are told
    with their chains and held channels, for a concatenation may join a hundred; None for all.
    """
    steps = _by_path(channels)
    asked = _Explained(inventory, channels, liveness, learnt, deaf, most)
    inside = [path for path in steps if path != layer and _lies_in(path, layer) and asked.has_channels(steps[path])]
    own = steps.get(layer, [])
    layers = tuple(asked.answer(path, steps[path]) for path in inside)
    answer = asked.answer(layer, own if not layers or asked.has_channels(own) else [])
    note = answer.note if own or layers else "No graph reads it: it stays as it is."
    return Why(layer, answer.op, answer.parts, layers, note)


def _lies_in(path: str, layer: str) -> bool:
    return not layer or path.startswith(f"{layer}.")


def _by_path(channels: Channels) -> dict[str, list[Step]]:
    """Module path -> the steps that call it or read its weights, in order; and the name of each parameter that brings
    channels into being itself -> the steps that read it."""
    steps: dict[str, list[Step]] = {}
    for step in channels.steps:
        effect = step.effect
        if effect.family is not Family.VALUE and (step.node.op == "call_module" or effect.reading or effect.norm):
            steps.setdefault(step.path, []).append(step)
        elif step.node.op == "get_attr":
            for site in effect.sites:
                steps.setdefault(site.parameter, []).append(step)
    return steps


def _check_name(traced: TracedModule, steps: Mapping[str, Sequence[Step]], layer: Any) -> None:
    names = [*(name for name, _ in traced.named_modules()), *steps]
    if not isinstance(layer, str):
        raise UsageError(f"layer is {layer!r}; expected the path of a module, such as {next(iter(steps), '')!r}.")
    if layer not in names:
        owner = layer.rpartition(".")[0]
        if owner in steps and layer in named_tensors(traced):
            raise UsageError(f"{layer} is a tensor of the layer {owner}: ask for that.")
        ends = [name for name in names if name.endswith(f".{layer}")]
        close = (ends or get_close_matches(layer, names, n=3))[:3]
        hint = f"; close to it: {', '.join(close)}" if close else ""
        raise UsageError(f"There is no layer {layer!r} in the network{hint}.")
    around = layer.rpartition(".")[0]
    while around and layer not in steps:
        if around in steps and steps[around][0].node.target == around:
            kind = type(traced.get_submodule(around)).__name__
            raise UsageError(f"{layer} is inside {around} ({kind}), which the graph calls as a whole: ask for that.")
        around = around.rpartition(".")[0]


class _Explained:
    """Answers about the layers of one network, from one tie graph."""

    def __init__(
        self,
        inventory: Inventory,
        channels: Channels,
        liveness: Liveness,
        learnt: frozenset[str],
        deaf: Mapping[str, str],
        most: int | None,
    ) -> None:
        self.channels, self.liveness, self.deaf, self.most = channels, liveness, deaf, most
        self.kinds = {module.path: module.kind.__name__ for module in inventory.modules}
        self.unlearnt = [name for name in inventory.parameters if name not in learnt]
        self.ties, self.holders = TieGraph(channels), Holders(channels, liveness)
        self.steps = {(step.mode, step.node.name): step for step in channels.steps}

    def has_channels(self, steps: Iterable[Step]) -> bool:
        """Whether they call a layer with weights, or one that is not understood."""
        return any(step.effect.sites or step.effect.family is Family.UNKNOWN for step in steps)

    def answer(self, path: str, steps: Sequence[Step]) -> Why:
        axes: dict[Axis, list[Tensor]] = {}
        for step in steps:
            for axis, labels in self.axes(step):
                axes.setdefault(axis, []).append(labels)
        parts = [part for axis, visits in axes.items() for part in self.parts(axis, visits, steps)]
        note = f"Its output no longer depends on the network's input: {self.deaf[path]}." if path in self.deaf else ""
        return Why(path, self.kinds.get(path, "Parameter") if path else "network", tuple(parts), (), note)

    def axes(self, step: Step) -> Iterator[tuple[Axis, Tensor]]:
        """The labels on each axis of a step, as vectors."""
        reading, norm = step.effect.reading, step.effect.norm
        if norm is not None:
            yield "both", norm.layout
        elif reading is not None and torch.equal(reading.rows, reading.cols):
            yield "both", reading.rows
        elif reading is not None:
            yield from (("out", reading.rows), ("in", reading.cols))
        else:
            yield from self.values(step)

    def values(self, step: Step) -> Iterator[tuple[Axis, Tensor]]:
        """The distinct labels of the inputs and of the output of a step without weights."""
        sources = [self.steps[step.mode, node.name].effect for node in step.node.all_input_nodes]
        read = _flat([x for source in sources if source.family is not Family.VALUE for x in tensors(source.out)])
        made = _flat(tensors(step.effect.out))
        yield from (("both", made),) if torch.equal(read, made) else (("out", made), ("in", read))

    def parts(self, axis: Axis, visits: Sequence[Tensor], steps: Sequence[Step]) -> Iterator[AxisPart]:
        """The parts of an axis: its spaces in their order, then the opaque labels by reason."""
        along = [(self.channels.channels_along(labels), self.channels.spaces_along(labels)) for labels in visits]
        for place, index in enumerate(in_order(torch.cat([spaces[spaces >= 0] for _, spaces in along]))):
            members = max((channels[spaces == index] for channels, spaces in along), key=Tensor.numel)
            told = self.most is None or place < self.most
            yield (self.part if told else self.brief)(axis, self.channels.spaces[index], members, steps)
        # the values of an op without weights come as distinct labels, of which opaque ones have no width
        has_width = any(step.effect.reading is not None or step.effect.norm is not None for step in steps)
        for code in in_order(torch.cat([labels[labels <= OPAQUE] for labels in visits])):
            width = max(int((labels == code).sum()) for labels in visits) if has_width else 0
            reason, chain = self.channels.reasons[OPAQUE - code], self.linked(self.ties.to_source(steps, code))
            yield AxisPart(axis, "", (), width, width, "fixed", reason, chain, (), ())

    def brief(self, axis: Axis, space: Space, members: Tensor, steps: Sequence[Step]) -> AxisPart:
        """A part without its chain and its held channels."""
        live = int(self.liveness.live[members].sum())
        state, reason, _ = self.state(space, ())
        return AxisPart(axis, space.name, tuple(space.births), members.numel(), live, state, reason, (), (), ())

    def part(self, axis: Axis, space: Space, members: Tensor, steps: Sequence[Step]) -> AxisPart:
        """`members`: the channel at each position of the axis that belongs to the space."""
        state, reason, way = self.state(space, steps)
        pins = dict.fromkeys(_text(self.channels.pins[pin]) for pin in self.ties.pins_of(space.index))
        nearest = next((_text(self.channels.pins[vertex.pin]) for vertex in way if vertex.pin >= 0), None)
        return AxisPart(
            axis=axis,
            space=space.name,
            births=tuple(space.births),
            width=members.numel(),
            live=int(self.liveness.live[members].sum()),
            state=state,
            reason=reason,
            chain=self.linked(way),
            also=tuple(text for text in pins if text != nearest),
            held=tuple(self.holds(space, state, way, members, steps)),
            together=tuple(self.together(space)),
        )

    def together(self, space: Space) -> Iterator[str]:
        """For each birth that fills several positions of a channel: how many, and the first node that ties them."""
        for birth, times in space.births.items():
            if times > 1:
                own = self.channels.births[birth]
                own = own[self.channels.spaces_along(own) == space.index]
                ties = ((step, *torch.broadcast_tensors(left, right)) for step, left, right in self.channels.ties)
                tying = (step.node.name for step, left, right in ties if _gathers(left, right, own))
                yield f"{times} of {birth} live and die together, tied by {next(tying, birth)}"

    def state(self, space: Space, steps: Sequence[Step]) -> tuple[State, str, list[Vertex]]:
        """The state of the space, the reason, and the way from the layer to the node that gives this reason."""
        residual = self.liveness.residual
        if space.pinned is not None:
            way = self.ties.to_pin(steps, space.index)
            reason = self.channels.pins[way[-1].pin].reason if way else space.pinned
            return "pinned", reason, [*way, *self.ties.to_met(way, reason)]
        if not space.normed:
            return "gammaless", "no gamma scales them, so nothing tells which are dead: they keep their width", []
        if space.joined_by is not None and residual != "coupled":
            way = self.ties.to_join(steps, space.index)  # none from the stem, which only enters the block that it ends
            join = way[-1].node if way else space.joined_by
            return "stream", f'they lie on the residual stream of {join}, which residual="{residual}" keeps', way
        if space.frozen:
            frozen = next(self.frozen(space.index))
            return "frozen", f"{frozen} is frozen: channels may go, but none may come", []
        return "free", "", []

    def frozen(self, space: int) -> Iterator[str]:
        """The frozen parameters on the space."""
        for name in self.unlearnt:
            axes = [layout for layout in self.channels.layouts.get(name, ()) if layout is not None]
            if any(bool((self.channels.spaces_along(x) == space).any()) for x in axes):
                yield name

    def holds(
        self, space: Space, state: State, way: list[Vertex], members: Tensor, steps: Sequence[Step]
    ) -> Iterator[Hold]:
        for reason, (_, nodes) in self.holders.among(members).items():
            if state not in ("pinned", "stream"):  # for these two, `way` leads to what keeps the space already
                way = self.ties.to_nodes(steps, space.index, nodes)
            yield Hold(reason, self.holders.positions(reason, members), self.linked(way))

    def linked(self, way: Sequence[Vertex]) -> tuple[Link, ...]:
        """The nodes on the way, each once, with the direction in which the way reaches it."""
        links: list[Link] = []
        last = None
        for before, vertex in zip((None, *way), way, strict=False):
            step = self.steps.get((vertex.mode, vertex.node))
            if step is not None and last != (vertex.mode, vertex.node):
                links.append(self.link(step, self.ties.hop(before, vertex)))
                last = (vertex.mode, vertex.node)
        return tuple(links)

    def link(self, step: Step, hop: Hop) -> Link:
        node = step.node
        stack = node.meta.get("nn_module_stack")
        module = str(next(reversed(stack.values()))[0]) if stack else ""
        op = _SPECIAL.get(node.op) or (node.target if isinstance(node.target, str) else node.target.__name__)
        called = node.op == "call_module"
        if called:
            module, op = str(node.target), self.kinds[str(node.target)]
        return Link(node.name, op, module, called, *_file_and_line(node.meta.get("stack_trace")), hop)


def _gathers(left: Tensor, right: Tensor, own: Tensor) -> bool:
    """Whether a tie makes one channel of several of these labels."""
    for many, one in ((left, right), (right, left)):
        here = torch.isin(many, own)
        if many[here].unique().numel() > one[here].unique().numel():
            return True
    return False


def _flat(labels: Sequence[Tensor]) -> Tensor:
    """The distinct labels."""
    ids = torch.cat([torch.zeros(0, dtype=torch.int64), *(collapse(each).reshape(-1) for each in labels)])
    return torch.tensor(in_order(ids.sort().values), dtype=torch.int64)


def _text(pin: Pin) -> str:
    return f"{pin.node}: {pin.reason}"


_SPECIAL = {"placeholder": "input", "get_attr": "tensor", "output": "output"}


def _file_and_line(trace: str | None) -> tuple[str | None, int | None]:
    """Of the innermost entry of a traceback."""
    entries = re.findall(r'File "(.*?)", line (\d+)', trace or "")
    return (entries[-1][0], int(entries[-1][1])) if entries else (None, None)
