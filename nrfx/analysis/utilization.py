"""How much of a network is alive: r = cost of the live network / cost of the network, by params and by flops, per node.

Source: Neural Rejuvenation, Sec. 3.1.2.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import FrozenInstanceError, asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nrfx.analysis.between import between_examples
from nrfx.analysis.channels import Channels, Step
from nrfx.analysis.cost import LayoutWidths, by_owner, parameter_cost, step_flops
from nrfx.analysis.criteria import criterion_of
from nrfx.analysis.criterion import judge_of
from nrfx.analysis.gammas import Gammas, gammas_in
from nrfx.analysis.inventory import Inventory
from nrfx.analysis.liveness import Held, Liveness
from nrfx.analysis.not_understood import NotUnderstood, not_understood
from nrfx.analysis.spaces import channels_of
from nrfx.choices import Residual
from nrfx.labels import among, joined, tally
from nrfx.printed import Printed
from nrfx.rules import Family
from nrfx.tracing import Measured, TracedModule, as_traced


@dataclass(frozen=True)
class Share:
    """A live part of a total, in params or flops."""

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


@dataclass(frozen=True)
class Row:
    """The widths and the cost of one module that owns parameters.

    Widths are channels; params learnable numbers; flops multiply-adds of one example.

    `held` counts gamma-dead channels of its output that are kept, `pins` are the reasons why its output width is fixed.
    """

    name: str
    op: str
    params_live: int
    params: int
    flops_live: int
    flops: int
    out_live: int
    out: int
    in_live: int
    in_: int
    held: int
    pins: tuple[str, ...]


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
        notes: further sentences, such as on layers whose gammas are all dead.
        residual, threshold: as they were given.
    """

    params: Share
    flops: Share
    _ask: Callable[[], "_Report"]

    def __init__(self, params: Share, flops: Share, report: Callable[[], "_Report"]) -> None:
        vars(self).update(params=params, flops=flops, _ask=report)

    @cached_property
    def _report(self) -> "_Report":
        report = self._ask()
        vars(self)["_ask"] = lambda: report  # it holds no network
        return report

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
    def notes(self) -> tuple[str, ...]:
        return self._report.notes

    @property
    def residual(self) -> Residual:
        return self._report.residual

    @property
    def threshold(self) -> float:
        return self._report.threshold

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
        return {"params": self.params, "flops": self.flops, "_report": self._report}

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
    traced = as_traced(gm, example_inputs)
    channels = channels_of(traced)
    judge = judge_of(traced, criterion_of(liveness), threshold, residual)
    return measure(traced, channels, judge(channels, {}))


def measure(traced: TracedModule, channels: Channels, liveness: Liveness) -> Utilization:
    """The utilization of a network whose channels and liveness are known."""
    inventory, facts = Inventory.of(traced), traced.facts
    widths = LayoutWidths(channels, None), LayoutWidths(channels, liveness.live)
    params = [parameter_cost(inventory.parameters, channels, width_of) for width_of in widths]
    flops = [step_flops(channels, width_of) for width_of in widths]
    unclear = any(step.effect.family is Family.UNKNOWN for step in channels.steps)
    at_once = not_understood(inventory, channels, bool(facts.parts)) if unclear else ()  # it looks at the graph
    notes = (*liveness.notes, *between_examples(traced, channels))

    def report() -> _Report:
        pins = (Pinned(s.name, s.pinned_by or s.name, s.pinned) for s in channels.spaces if s.pinned is not None)
        rows = _Rows(inventory, channels, liveness, widths, [by_owner(cost) for cost in params], flops)
        return _Report(
            rows=tuple(rows.rows()),
            pins=tuple(pins),
            not_understood=at_once or not_understood(inventory, channels, bool(facts.parts)),
            uncounted=tuple(dict.fromkeys((*_uncounted(channels), *facts.outside))),
            held=tuple(_by_reason(liveness.held)),
            streams=tuple(name for space in channels.spaces if space.stream for name in space.births),
            gammas=gammas_in(inventory, channels, liveness.residual),
            notes=notes,
            residual=liveness.residual,
            threshold=liveness.threshold,
        )

    return Utilization(
        Share(sum(params[1].values()), sum(params[0].values())),
        Share(sum(flops[1].values()), sum(flops[0].values())),
        report,
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
    notes: tuple[str, ...]
    residual: Residual
    threshold: float


def _uncounted(channels: Channels) -> Iterable[str]:
    for step in channels.steps:
        if step.effect.uncounted:
            measured: Measured | None = step.node.meta.get("work")
            more = f"; it calls {', '.join(measured.unknown)}" if measured is not None else ""
            yield f"{step.path}: {step.effect.reason}{more}"


def _by_reason(held: tuple[Held, ...]) -> list[tuple[str, int]]:
    """(reason, channels), most channels first; a channel with several dead gammas counts once."""
    channels_of: dict[str, list[Tensor]] = {}
    for entry in held:
        channels_of.setdefault(entry.reason, []).append(entry.channels)
    counts = {reason: int(torch.cat(parts).unique().numel()) for reason, parts in channels_of.items()}
    return sorted(counts.items(), key=lambda pair: -pair[1])


class _Rows:
    """The rows of a network. `params`, `flops`, `widths`: of the whole network, then of its live part."""

    def __init__(
        self,
        inventory: Inventory,
        channels: Channels,
        liveness: Liveness,
        widths: tuple[LayoutWidths, LayoutWidths],
        params: list[dict[str, int]],
        flops: list[dict[str, int]],
    ) -> None:
        self.channels, self.liveness, self.params = channels, liveness, params
        self.flops = [_by_path(channels.steps, cost) for cost in flops]
        self.all, self.live = widths
        self.kinds = {module.path: module.kind.__name__ for module in inventory.modules}
        self.pinned = torch.tensor([not space.free for space in channels.spaces], dtype=torch.bool)
        self.held = torch.zeros(channels.space_of.numel(), dtype=torch.bool)
        self.held_by_gamma: Counter[str] = Counter()
        for entry in liveness.held:
            self.held[entry.channels] = True
            self.held_by_gamma[entry.gamma] += entry.indices.numel()

    def rows(self) -> Iterable[Row]:
        """One row for each module that owns parameters: those that a graph reaches, in its order, then the others."""
        visited: dict[str, Step] = {}
        for step in self.channels.steps:
            if step.effect.sites or step.effect.family is Family.UNKNOWN:
                visited.setdefault(step.path, step)
        owned = {owner.removesuffix(".weights"): None for owner in self.params[0]}
        paths = [*(p for p in visited if p in owned), *(p for p in owned if p not in visited)]
        axes = [_axes(visited.get(path)) for path in paths]
        outs = [out for out, _ in axes if out is not None]
        # counted for all layouts at once, and handed out again in the order of `outs`
        held, pins = iter(self.held_on(outs)), iter(self.pins_on(outs))
        for path, (out, in_) in zip(paths, axes, strict=True):
            held_here, pins_here = (0, ()) if out is None else (next(held), next(pins))
            yield self.row(path, visited.get(path), out, in_, held_here, pins_here)

    def row(
        self, path: str, step: Step | None, out: Tensor | None, in_: Tensor | None, held: int, pins: tuple[str, ...]
    ) -> Row:
        """The row of one module; `held` and `pins` are those of its output."""
        params = [cost.get(path, 0) + cost.get(f"{path}.weights", 0) for cost in self.params]
        norm = step.effect.norm if step is not None else None
        return Row(
            name=path,
            op=self.kinds[path] if path else "parameters",
            params_live=params[1],
            params=params[0],
            flops_live=self.flops[1].get(path, 0),
            flops=self.flops[0].get(path, 0),
            out_live=self.live(out) if out is not None else 0,
            out=self.all(out) if out is not None else 0,
            in_live=self.live(in_) if in_ is not None else 0,
            in_=self.all(in_) if in_ is not None else 0,
            held=held if norm is None else self.held_by_gamma[norm.gamma or ""],
            pins=(*pins, step.effect.reason) if step is not None and step.effect.family is Family.UNKNOWN else pins,
        )

    def held_on(self, outs: list[Tensor]) -> list[int]:
        """For each layout, how many of its positions carry a held channel."""
        labels, layout_of = joined(outs)
        held = among(self.channels.channels_along(labels), self.held)
        counts: list[int] = torch.bincount(layout_of[held], minlength=len(outs)).tolist()
        return counts

    def pins_on(self, outs: list[Tensor]) -> list[tuple[str, ...]]:
        """For each layout, why channels on it are pinned, in the order of their spaces."""
        labels, layout_of = joined(outs)
        spaces = self.channels.spaces_along(labels)
        here = among(spaces, self.pinned)
        reasons_of: list[dict[str, None]] = [{} for _ in outs]
        count = max(len(self.channels.spaces), 1)
        for pair in tally(layout_of[here] * count + spaces[here])[0].tolist():  # (layout, space) as one number
            layout, space = divmod(pair, count)
            reasons_of[layout][self.channels.spaces[space].pinned or ""] = None
        return [tuple(reasons) for reasons in reasons_of]


def _by_path(steps: Iterable[Step], cost: Mapping[str, int]) -> dict[str, int]:
    """Module path -> the sum of the costs of its nodes in the eval graph."""
    total: dict[str, int] = {}
    for step in steps:
        if step.mode == "eval" and step.effect.work:
            total[step.path] = total.get(step.path, 0) + cost[step.node.name]
    return total


def _axes(step: Step | None) -> tuple[Tensor | None, Tensor | None]:
    """The layouts of a module's output and input channels."""
    if step is None:
        return None, None
    if step.effect.reading is not None:
        reading = step.effect.reading
        return reading.rows, reading.cols
    layout = step.effect.sites[0].layout if step.effect.sites else None
    return layout, layout
