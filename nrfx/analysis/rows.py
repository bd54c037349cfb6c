"""The rows of a utilization: widths, cost, held channels and pins of each module that owns parameters."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nrfx.analysis.channels import Channels, Step
from nrfx.analysis.cost import LayoutWidths
from nrfx.analysis.holders import held_positions, held_share
from nrfx.analysis.inventory import Inventory, Registered
from nrfx.analysis.liveness import Liveness
from nrfx.labels import among, joined, layout, tally
from nrfx.rules import Family, tensors
from nrfx.rules.reduction import varying

Width = Tensor | int | None
"""The layout of a module's channels; their number, where no layout tells it; None where they are not understood."""


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
        self.inventory = inventory
        self.modules = {module.path: module for module in inventory.modules}
        self.pinned = torch.tensor([not space.free for space in channels.spaces], dtype=torch.bool)
        self.held = held_share(channels, liveness.held)
        self.held_by_gamma: Counter[str] = Counter()
        for entry in liveness.held:
            self.held_by_gamma[entry.gamma] += entry.indices.numel()

    def rows(self) -> Iterable[Row]:
        """One row for each module that owns parameters: those that a graph reaches, in its order, then the others."""
        owned = {owner.removesuffix(".weights"): None for owner in self.params[0]}
        reached = self.reached(owned)
        paths = [*reached, *(path for path in owned if path not in reached)]
        axes = [self.axes(path, reached.get(path)) for path in paths]
        outs = [out for out, _ in axes if isinstance(out, Tensor)]
        # counted for all layouts at once, and handed out again in the order of `outs`
        held, pins = iter(self.held_on(outs)), iter(self.pins_on(outs))
        for path, (out, in_) in zip(paths, axes, strict=True):
            held_here, pins_here = (next(held), next(pins)) if isinstance(out, Tensor) else (0, ())
            yield self.row(path, reached.get(path), out, in_, held_here, pins_here)

    def reached(self, owned: Iterable[str]) -> dict[str, Step]:
        """Of the paths, those whose parameters a step reads, with the first such step, in the order of the graph.

        A step whose weights follow channels goes before all others: a norm over all of its channels has none that do.
        """
        left, found = {*owned}, dict[str, Step]()
        for step in self.channels.steps:
            if step.path in left and (step.effect.sites or step.effect.family is Family.UNKNOWN):
                found[step.path] = step
                left.discard(step.path)
                continue
            for path in self.read_by(step):
                if path in left:
                    found.setdefault(path, step)
        return found

    def read_by(self, step: Step) -> Iterator[str]:
        """The modules that are part of the one that a step calls, or whose parameters it gets or is."""
        node = step.node
        if node.op == "call_module":
            owners = (name.rpartition(".")[0] for name in self.inventory.names_below(str(node.target)))
            yield from dict.fromkeys(owners)
        elif step.effect.family is not Family.UNKNOWN:
            given = [node] if step.effect.sites else node.all_input_nodes
            yield from (str(each.target).rpartition(".")[0] for each in given if each.op == "get_attr")

    def axes(self, path: str, step: Step | None) -> tuple[Width, Width]:
        """A module's output and input channels, by a step that reads its parameters."""
        if step is None:
            return None, None
        if step.effect.reading is not None:
            return step.effect.reading.rows, step.effect.reading.cols
        if step.effect.sites:
            return (step.effect.sites[0].layout,) * 2
        if step.effect.family is Family.UNKNOWN:
            return None, None
        inside = step.node.op == "call_module" and step.node.target != path
        passing = None if inside else _passing(step)
        return _stated(self.modules[path]) if passing is None else (passing, passing)

    def width(self, widths: LayoutWidths, axis: Width) -> int:
        """The number of channels along an axis."""
        return widths(axis) if isinstance(axis, Tensor) else axis or 0

    def row(self, path: str, step: Step | None, out: Width, in_: Width, held: int, pins: tuple[str, ...]) -> Row:
        """The row of one module; `held` and `pins` are those of its output."""
        params = [cost.get(path, 0) + cost.get(f"{path}.weights", 0) for cost in self.params]
        norm = step.effect.norm if step is not None else None
        return Row(
            name=path,
            op=self.modules[path].kind.__name__ if path else "parameters",
            params_live=params[1],
            params=params[0],
            flops_live=self.flops[1].get(path, 0),
            flops=self.flops[0].get(path, 0),
            out_live=self.width(self.live, out),
            out=self.width(self.all, out),
            in_live=self.width(self.live, in_),
            in_=self.width(self.all, in_),
            held=held if norm is None else self.held_by_gamma[norm.gamma or ""],
            pins=(*pins, step.effect.reason) if step is not None and step.effect.family is Family.UNKNOWN else pins,
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


def _passing(step: Step) -> Tensor | None:
    """The layout of the channels that a step hands on, where they lie along one dim of what it gives."""
    out = next(iter(tensors(step.effect.out)), None)
    dims = set() if out is None else varying(out)
    return layout(out, dims.pop()) if out is not None and len(dims) == 1 else None


def _stated(module: Registered) -> tuple[Width, Width]:
    """The widths that the parameters of a norm, a linear layer or an attention state."""
    matrix = module.shapes.get("weight", next((shape for shape in module.shapes.values() if len(shape) == 2), ()))
    if len(matrix) == 1 or (matrix and issubclass(module.kind, nn.MultiheadAttention)):
        return matrix[-1], matrix[-1]
    return (matrix[0], matrix[1]) if matrix and issubclass(module.kind, nn.Linear) else (None, None)
