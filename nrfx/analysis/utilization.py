"""How much of a network is alive: r = cost of the live network / cost of the network, by params and by flops, per node.

Source: Neural Rejuvenation, Sec. 3.1.2.
"""

import json
import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import FrozenInstanceError, asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nrfx.analysis.between import between_examples, of_one_run
from nrfx.analysis.channels import Channels, apart
from nrfx.analysis.cost import LayoutWidths, by_owner, parameter_cost, step_flops
from nrfx.analysis.criteria import criterion_of
from nrfx.analysis.criterion import judge_of
from nrfx.analysis.deaf import Deaf, deaf_layers, silent_weights
from nrfx.analysis.gammas import Gammas, gammas_in
from nrfx.analysis.inventory import Inventory
from nrfx.analysis.liveness import Held, Liveness
from nrfx.analysis.names import named_tensors
from nrfx.analysis.not_understood import NotUnderstood, not_understood
from nrfx.analysis.reached import reached
from nrfx.analysis.rows import Row, Rows
from nrfx.analysis.spaces import channels_of
from nrfx.analysis.stops import Stop, stops_of
from nrfx.analysis.taught import taught
from nrfx.analysis.why import Why, explain
from nrfx.choices import Residual
from nrfx.garbage import unsearched
from nrfx.printed import Printed
from nrfx.rules import Family
from nrfx.tracing import Measured, TracedModule, as_traced
from nrfx.tracing.graph.walk import unchanged

TOLD = 3
"""So many spaces of an axis are told with their chains in a picture."""


@dataclass(frozen=True)
class Share:
    """A live part of a total, in params or flops.

    >>> Share(live=1, total=4).ratio
    0.25
    """

    live: int
    total: int

    @property
    def ratio(self) -> float:
        """live / total; 1.0 where the total is 0."""
        return self.live / self.total if self.total else 1.0


@dataclass(frozen=True)
class Pinned:
    """A space whose width must not change: its name, the node or layer that pins it, and why."""

    space: str
    node: str
    reason: str


class Utilization(Printed):
    """The cost of a network and of its live part. print() renders it for the terminal.

    The two costs are computed at once; all else when it is first asked for, from the network as it was then. Until
    then it keeps the graphs of the network in memory.

    Attributes:
        params, flops: live and total cost, with `.ratio`.
        rows: one per module that owns parameters, in the order in which the graph reaches them.
        pins: the spaces whose width must not change.
        not_understood: what the analysis does not see into, by reason; its cost counts as live.
        uncounted: nodes that may do multiply-adds beyond those in `flops`, "name: reason".
        held: gamma-dead channels that are kept, by reason, most first.
        streams: births on residual streams.
        gammas: how many there are, how many can die, and why the others cannot.
        deaf: layers whose output no longer depends on the network's input, and why.
        notes: further sentences, such as on layers whose gammas are all dead.
        residual, threshold: as they were given.
        stops: what flows where, for a picture.
        layers: what `nrfx.why` says of each layer. Of an axis that reads more than 3 spaces, the others have no chains.

    >>> import nrfx
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> with torch.no_grad():
    ...     _ = net[1].weight[:4].zero_()
    >>> u = nrfx.utilization(nrfx.trace(net, torch.zeros(1, 3, 4, 4)))
    >>> round(u.params.ratio, 2), u.flops.live, [pinned.reason for pinned in u.pins]
    (0.52, 448, ["the network's output"])
    """

    params: Share
    flops: Share
    _ask: Callable[[bool], Callable[[], "_Report"]]
    _look: Callable[[], "_Picture"]

    def __init__(
        self,
        params: Share,
        flops: Share,
        report: Callable[[bool], Callable[[], "_Report"]],
        picture: Callable[[], "_Picture"],
    ) -> None:
        """Takes what makes the report: called with whether what it gives must hold no network, and then once more."""
        vars(self).update(params=params, flops=flops, _ask=report, _look=picture)

    @cached_property
    def _report(self) -> "_Report":
        report = self._ask(False)()
        vars(self)["_ask"] = lambda _: lambda: report  # it holds no network
        return report

    @cached_property
    def _picture(self) -> "_Picture":
        picture = self._look()
        vars(self)["_look"] = lambda: picture
        return picture

    def released(self, traced: TracedModule, again: Callable[[TracedModule], "Utilization"]) -> "Utilization":
        """The same, which no longer keeps the network alive.

        `stops` and `layers` are what `again` finds as long as the network lives and costs what it did; then empty.
        """
        network, costs = weakref.ref(traced), (self.params, self.flops)

        def look() -> _Picture:
            alive = network()
            now = None if alive is None else again(alive)
            return now._picture if now is not None and (now.params, now.flops) == costs else _Picture((), ())

        report = self._ask(True)
        return Utilization(*costs, lambda _: report, look)

    def __setattr__(self, name: str, value: Any) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    @property
    def rows(self) -> tuple[Row, ...]:
        return self._report.rows

    @property
    def pins(self) -> tuple[Pinned, ...]:
        return self._report.pins

    @property
    def not_understood(self) -> tuple[NotUnderstood, ...]:
        return self._report.not_understood

    @property
    def uncounted(self) -> tuple[str, ...]:
        return self._report.uncounted

    @property
    def held(self) -> tuple[tuple[str, int], ...]:
        return self._report.held

    @property
    def streams(self) -> tuple[str, ...]:
        return self._report.streams

    @property
    def gammas(self) -> Gammas:
        return self._report.gammas

    @property
    def deaf(self) -> tuple[Deaf, ...]:
        return self._report.deaf

    @property
    def notes(self) -> tuple[str, ...]:
        return self._report.notes

    @property
    def residual(self) -> Residual:
        return self._report.residual

    @property
    def threshold(self) -> float:
        return self._report.threshold

    @property
    def stops(self) -> tuple[Stop, ...]:
        return self._picture.stops

    @property
    def layers(self) -> tuple[Why, ...]:
        return self._picture.layers

    def _all(self) -> tuple[Share, Share, "_Report"]:
        return self.params, self.flops, self._report

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Utilization) and other._all() == self._all()

    def __hash__(self) -> int:
        return hash((self.params, self.flops))

    def __repr__(self) -> str:
        return f"Utilization(params={self.params}, flops={self.flops})"

    def __getstate__(self) -> dict[str, Any]:
        """A copy or a pickle holds no network: it has all that could be asked for."""
        kept = ("params", "flops", "_report", "_picture")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def to_json(self) -> str:
        """All numbers of the report as a JSON object."""
        plain = {"params": asdict(self.params), "flops": asdict(self.flops), **asdict(self._report)}
        for name in ("params", "flops"):
            plain[name]["ratio"] = getattr(self, name).ratio
        for row in plain["rows"]:
            row["in"] = row.pop("in_")
        return json.dumps(plain, indent=2)


def utilization(
    gm: Any,
    *,
    threshold: float = 0.01,
    residual: Residual = "live",
    liveness: Any = "gamma",
    example_inputs: Any = None,
) -> Utilization:
    """How much of `gm` is alive, by params and by flops, in all and per module. Nothing is changed.

    Args:
        gm: what `nrfx.trace` returned, or a torch.fx.GraphModule (with shapes in its nodes, or example_inputs).
        threshold, residual, liveness: as for `nrfx.rejuvenate`. No data is run, but for a criterion with batches.

    Raises:
        AnalysisError: a gamma is NaN or infinite, or an option is out of range.

    >>> import nrfx
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> with torch.no_grad():
    ...     _ = net[1].weight[:4].zero_()
    >>> nrfx.utilization(nrfx.trace(net, torch.zeros(1, 3, 4, 4))).params
    Share(live=44, total=84)
    """
    criterion = criterion_of(liveness)
    # a criterion may run the network, whose forward may do anything
    alone = criterion is None and isinstance(gm, TracedModule)
    with unchanged(gm) if alone else nullcontext(), unsearched() if alone else nullcontext():
        traced = as_traced(gm, example_inputs)
        channels = channels_of(traced)
        judge = judge_of(traced, criterion, threshold, residual)
        return measure(traced, channels, judge(channels, {}))


def measure(
    traced: TracedModule, channels: Channels, liveness: Liveness, silent: frozenset[str] | None = None
) -> Utilization:
    """The utilization of a network whose channels and liveness are known.

    silent: the weights that are 0; None to look for them.
    """
    inventory, facts, learnt = Inventory.of(traced), traced.facts, taught(traced)
    silent = silent_weights(channels.steps, named_tensors(traced)) if silent is None else silent
    widths = LayoutWidths(channels, None), LayoutWidths(channels, liveness.live)
    params = [parameter_cost(inventory.parameters, channels, width_of) for width_of in widths]
    flops = [step_flops(channels, width_of) for width_of in widths]
    unclear = any(step.effect.family is Family.UNKNOWN for step in channels.steps)
    at_once = not_understood(inventory, channels, bool(facts.parts)) if unclear else ()  # it looks at the graph
    notes = (*liveness.notes, *of_one_run(traced), *between_examples(traced, channels))

    def report(released: bool) -> Callable[[], _Report]:
        unseen = at_once or not_understood(inventory, channels, bool(facts.parts))
        uncounted = tuple(dict.fromkeys((*_uncounted(channels), *facts.outside)))
        deaf = deaf_layers(channels, liveness.affine, silent)
        places = reached(inventory, channels)
        layers = apart(channels) if released else channels
        width_of = (widths[0].of(layers), widths[1].of(layers))
        return lambda: _Report(
            rows=tuple(
                Rows(inventory, places, layers, liveness, width_of, [by_owner(cost) for cost in params], flops).rows()
            ),
            pins=tuple(Pinned(s.name, s.pinned_by or s.name, s.pinned) for s in layers.spaces if s.pinned is not None),
            not_understood=unseen,
            uncounted=uncounted,
            held=by_reason(liveness.held),
            streams=tuple(name for space in layers.spaces if space.stream for name in space.births),
            gammas=gammas_in(inventory, layers, liveness.residual),
            deaf=deaf,
            notes=notes,
            residual=liveness.residual,
            threshold=liveness.threshold,
        )

    def picture() -> _Picture:
        kinds = {module.path: module.kind.__name__ for module in inventory.modules if module.shapes and module.first}
        deaf = {each.layer: each.reason for each in deaf_layers(channels, liveness.affine, silent)}
        answer = explain(inventory, channels, liveness, learnt, deaf, most=TOLD)
        return _Picture(stops_of(channels, kinds), answer.layers)

    return Utilization(
        Share(sum(params[1].values()), sum(params[0].values())),
        Share(sum(flops[1].values()), sum(flops[0].values())),
        report,
        picture,
    )


@dataclass(frozen=True)
class _Report:
    """The attributes of a Utilization beside the two costs."""

    rows: tuple[Row, ...]
    pins: tuple[Pinned, ...]
    not_understood: tuple[NotUnderstood, ...]
    uncounted: tuple[str, ...]
    held: tuple[tuple[str, int], ...]
    streams: tuple[str, ...]
    gammas: Gammas
    deaf: tuple[Deaf, ...]
    notes: tuple[str, ...]
    residual: Residual
    threshold: float


@dataclass(frozen=True)
class _Picture:
    """The attributes of a Utilization that pictures alone show; to compute them takes longer than all others."""

    stops: tuple[Stop, ...]
    layers: tuple[Why, ...]


def _uncounted(channels: Channels) -> Iterable[str]:
    for step in channels.steps:
        if step.effect.uncounted:
            measured: Measured | None = step.node.meta.get("work")
            more = f"; it calls {', '.join(measured.unknown)}" if measured is not None else ""
            yield f"{step.path}: {step.effect.reason}{more}"


def by_reason(held: tuple[Held, ...]) -> tuple[tuple[str, int], ...]:
    """(reason, channels), most channels first: each once, whatever number of norms holds it, a group by its gammas."""
    channels_of: dict[str, list[Tensor]] = {}
    for entry in held:
        channels_of.setdefault(entry.reason, []).append(_numbered(entry.channels))
    counts = {reason: _distinct(torch.cat(parts, 1)) for reason, parts in channels_of.items()}
    return tuple(sorted(counts.items(), key=lambda pair: -pair[1]))


def _distinct(pairs: Tensor) -> int:
    """How many different columns there are in [2, n], of numbers from 0 on."""
    below = int(pairs[1].max()) + 1 if pairs.numel() else 1
    distinct: int = (pairs[0] * below + pairs[1]).unique().numel()
    return distinct


def _numbered(channels: Tensor) -> Tensor:
    """[2, n]: the channels, and of each whether it is the first here, the second, and so on."""
    ordered = channels.sort().values
    return torch.stack([ordered, torch.arange(ordered.numel()) - torch.searchsorted(ordered, ordered)])
