"""What flows where: the layers of a network and the ops that join several of them, in the order of the data.

stop     what a picture of the network shows as one: a layer, an op that joins what several stops give, a call that is
         not understood, an input or an output. Ops that pass one stop's value on (an activation, a pool) are none
source   a stop whose value another one reads, perhaps through such ops
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from nrfx.analysis.channels import Channels, Step
from nrfx.rules import Family

StopKind = Literal["input", "layer", "join", "call", "output"]


@dataclass(frozen=True)
class Stop:
    """One stop.

    Attributes:
        kind: "layer" where it reads parameters, "join" for an op with several sources, "call" for one that is not
            understood.
        name: the path of the layer, the name of the node elsewhere.
        op: the class of the layer, the name of the function elsewhere.
        adds: whether it is an addition.
        layers: the modules whose parameters it reads, by their paths.
        sources: the indices of its sources among the stops.
    """

    kind: StopKind
    name: str
    op: str
    adds: bool
    layers: tuple[str, ...]
    sources: tuple[int, ...]


def stops_of(channels: Channels, kinds: Mapping[str, str]) -> tuple[Stop, ...]:
    """The stops of a network, each behind its sources.

    A layer that is called twice is two stops. Those that only the graph of train mode calls come behind all others, and
    so do those that no graph calls. A concatenation that goes on from an earlier one has that one as a source in the
    place of all that it joins.

    kinds: path -> class, for each module that owns parameters.
    """
    walk = _Walk(kinds)
    walk.through([step for step in channels.steps if step.mode == "eval"])
    walk.beyond([step for step in channels.steps if step.mode == "train"])
    return walk.with_the_rest()


@dataclass(frozen=True)
class _Value:
    """The stops from which the value of a node comes, and the modules of the parameters that went into it since."""

    stops: tuple[int, ...] = ()
    layers: tuple[str, ...] = ()


class _Walk:
    """One way through the graphs, which fills `stops`."""

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self.kinds = kinds
        self.stops: list[Stop] = []
        self.moving: dict[frozenset[int], int] = {}  # what a concatenation joins -> its stop

    def through(self, steps: Iterable[Step]) -> None:
        """A stop for each step of one mode that is one."""
        values: dict[str, _Value] = {}
        for step in steps:
            values[step.node.name] = self.value(step, self.read(step, values))

    def beyond(self, steps: Sequence[Step]) -> None:
        """A stop for each layer of another mode that has none yet."""
        known = {name: (index,) for index, stop in enumerate(self.stops) for name in (stop.name, *stop.layers)}
        values: dict[str, _Value] = {}
        for step in steps if any(self.is_layer(step) and step.path not in known for step in steps) else ():
            read = self.read(step, values)
            name = step.path if self.is_layer(step) else step.node.name
            if self.is_layer(step) and name not in known:
                known[name] = self.add(step, "layer", read)
            values[step.node.name] = _Value(known[name]) if name in known else read

    def with_the_rest(self) -> tuple[Stop, ...]:
        """All stops; a module without one is part of the module around it, or else a stop without sources."""
        shown = {name for stop in self.stops for name in stop.layers}
        for path in self.kinds:
            if path in shown:
                continue
            around = [
                (len(name), -at) for at, stop in enumerate(self.stops) for name in stop.layers if _holds(name, path)
            ]
            if around:
                at = -max(around)[1]
                self.stops[at] = replace(self.stops[at], layers=(*self.stops[at].layers, path))
            else:
                self.stops.append(Stop("layer", path, self.kinds[path], False, (path,), ()))
        return tuple(self.stops)

    def read(self, step: Step, values: Mapping[str, _Value]) -> _Value:
        """What goes into a node."""
        sources = [values[node.name] for node in step.node.all_input_nodes]
        stops = dict.fromkeys(stop for value in sources for stop in value.stops)
        layers = dict.fromkeys(layer for value in sources for layer in value.layers)
        return _Value(tuple(stops), tuple(layers))

    def value(self, step: Step, read: _Value) -> _Value:
        """What the node gives; where it is a stop, this one alone."""
        if step.effect.family is Family.VALUE:
            return _Value()
        if step.node.op == "get_attr":
            owner = str(step.node.target).rpartition(".")[0]
            return _Value((), (owner,) if owner in self.kinds else ())
        kind = self.kind(step, read)
        return read if kind is None else _Value(self.add(step, kind, read))

    def kind(self, step: Step, read: _Value) -> StopKind | None:
        """The kind of stop that a node is; None where it passes on what it reads."""
        if step.node.op == "placeholder":
            return "input"
        if step.effect.family is Family.SINK:
            return "output"
        if self.is_layer(step) or (read.layers and read.stops):
            return "layer"
        if step.effect.family is Family.UNKNOWN and read.stops:
            return "call"
        return "join" if len(read.stops) > 1 else None

    def is_layer(self, step: Step) -> bool:
        """Whether the step calls a module that owns parameters, or reads weights of one."""
        effect = step.effect
        reads = step.node.op == "call_module" or effect.reading is not None or effect.norm is not None
        return step.path in self.kinds and reads

    def add(self, step: Step, kind: StopKind, read: _Value) -> tuple[int]:
        own = (step.path,) if self.is_layer(step) else ()
        layers = tuple(dict.fromkeys((*own, *read.layers)))
        name = (own or layers or (step.node.name,))[0] or step.node.name
        op = self.kinds[own[0]] if own else _op(step)
        sources = self.going_on(step, read.stops) if kind == "join" else read.stops
        self.stops.append(Stop(kind, name, op, step.effect.adds, layers, sources))
        return (len(self.stops) - 1,)

    def going_on(self, step: Step, sources: tuple[int, ...]) -> tuple[int, ...]:
        """The sources of a concatenation, with the longest one before it in the place of what that joins already."""
        if step.effect.family is not Family.MOVEMENT:
            return sources
        joined = frozenset(sources)
        before = max((parts for parts in self.moving if parts <= joined), key=len, default=frozenset[int]())
        own = self.moving.get(before)
        self.moving[joined] = len(self.stops)
        return sources if own is None else (own, *(source for source in sources if source not in before))


def _op(step: Step) -> str:
    node = step.node
    if node.op in ("placeholder", "output"):
        return "input" if node.op == "placeholder" else "output"
    return node.target if isinstance(node.target, str) else node.target.__name__


def _holds(layer: str, path: str) -> bool:
    return bool(layer) and path.startswith(f"{layer}.")
