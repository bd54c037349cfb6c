"""The rows of a utilization: widths, cost, held channels and pins of each module that owns parameters."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels, Step
from nrfx.analysis.cost import LayoutWidths
from nrfx.analysis.holders import held_positions, held_share
from nrfx.analysis.inventory import Inventory
from nrfx.analysis.liveness import Liveness
from nrfx.analysis.reached import Reached, Width
from nrfx.ids import among, joined, tally


@dataclass(frozen=True)
class Row:
    """The widths and the cost of one module that owns parameters.

    Widths are channels, 0 where they are not understood; params learnable numbers; flops multiply-adds of one example.

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


class Rows:
    """The rows of a network.

    Args:
        reached: what its graph tells of its modules, by their paths.
        params, flops, widths: of the whole network, then of its live part.
    """

    def __init__(
        self,
        inventory: Inventory,
        reached: Mapping[str, Reached],
        channels: Channels,
        liveness: Liveness,
        widths: tuple[LayoutWidths, LayoutWidths],
        params: list[dict[str, int]],
        flops: list[dict[str, int]],
    ) -> None:
        self.channels, self.liveness, self.params = channels, liveness, params
        self.flops = [_by_path(channels.steps, cost) for cost in flops]
        self.reached = reached
        self.all, self.live = widths
        self.kinds = {module.path: module.kind.__name__ for module in inventory.modules}
        self.pinned = torch.tensor([not space.free for space in channels.spaces], dtype=torch.bool)
        self.held = held_share(channels, liveness.held)
        self.held_by_gamma: Counter[str] = Counter()
        for entry in liveness.held:
            self.held_by_gamma[entry.gamma] += entry.indices.numel()

    def rows(self) -> Iterable[Row]:
        """One row for each module that owns parameters: those that a graph reaches, in its order, then the others."""
        owned = {owner.removesuffix(".weights"): None for owner in self.params[0]}
        unread = Reached(None, None)
        places = {path: self.reached.get(path, unread) for path in (*self.reached, *owned) if path in owned}
        outs = [place.out for place in places.values() if isinstance(place.out, Tensor)]
        # counted for all layouts at once, and handed out again in the order of `outs`
        held, pins = iter(self.held_on(outs)), iter(self.pins_on(outs))
        for path, place in places.items():
            held_here, pins_here = (next(held), next(pins)) if isinstance(place.out, Tensor) else (0, ())
            yield self.row(path, place, held_here, pins_here)

    def row(self, path: str, place: Reached, held: int, pins: tuple[str, ...]) -> Row:
        """The row of one module; `held` and `pins` are those of its output."""
        params = [cost.get(path, 0) + cost.get(f"{path}.weights", 0) for cost in self.params]
        return Row(
            name=path,
            op=self.kinds[path] if path else "parameters",
            params_live=params[1],
            params=params[0],
            flops_live=self.flops[1].get(path, 0),
            flops=self.flops[0].get(path, 0),
            out_live=_width(self.live, place.out),
            out=_width(self.all, place.out),
            in_live=_width(self.live, place.in_),
            in_=_width(self.all, place.in_),
            held=held if place.norm is None else self.held_by_gamma[place.norm.gamma or ""],
            pins=pins if place.reason is None else (*pins, place.reason),
        )

    def held_on(self, outs: list[Tensor]) -> list[int]:
        """For each layout, how many of its positions are held."""
        labels, layout_of = joined(outs)
        members = self.channels.channels_along(labels)
        counts: list[int] = held_positions(members, self.held, layout_of, len(outs)).tolist()
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


def _width(widths: LayoutWidths, axis: Width) -> int:
    """The number of channels along an axis."""
    return widths(axis) if isinstance(axis, Tensor) else axis or 0
