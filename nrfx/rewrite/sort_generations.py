"""Generations that stay one run each through concatenations.

Behind a concatenation of parts that have survivors and new channels, the generations alternate: S R S R. Here each
concatenation takes slices of its parts instead, all survivors first, so that every generation is one run: S S R R.
Slices are views and a concatenation copies anyway, so this costs no traffic; what reads the channels (weights, norms,
cross layers) follows them by label.

A pass for networks that will not be rewritten again: the slices state widths as numbers, so that a later rejuvenation
would keep those widths. A concatenation stays as it is where more than the reading weights depends on its order (a view
or a chunk behind it).
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, fx, nn

from nrfx.analysis.channels import Channels, readers
from nrfx.analysis.reinterpret import arguments
from nrfx.analysis.spaces import channels_of
from nrfx.labels import layout
from nrfx.nn import Cross
from nrfx.plan.origins import NEW, Origins, gather, origin
from nrfx.rules import Family, Reading, op_of
from nrfx.rules.joining import cat
from nrfx.tracing import TracedModule, propagate

_MARK = "generation_of_"  # how the names of the slices begin
_ROUNDS = 16  # concatenations of concatenations are done from the inside out, one level a round


@dataclass(frozen=True)
class Reordered:
    """The module, and the origins of each of its parameters and buffers."""

    module: TracedModule
    origins: Mapping[str, Origins]


def sort_generations(traced: TracedModule) -> Reordered:
    """The network with the parts of its concatenations in the order of generations; `traced` is left as it is.

    The function is the same to rounding. Where no concatenation can be re-ordered, it is an equal copy. An optimizer of
    the old parameters does not follow. Save the network before: this can be called again after `nrfx.load`.

    >>> import nrfx, torch
    >>> gm = nrfx.trace(torch.nn.Linear(3, 2), torch.zeros(1, 3))
    >>> again = sort_generations(gm).module  # no concatenation: an equal copy
    >>> torch.equal(again(torch.ones(1, 3)), gm(torch.ones(1, 3)))
    True
    """
    twin = copy.deepcopy(traced)
    origins: dict[str, Origins] = {}
    for _ in range(_ROUNDS):
        channels = channels_of(twin)
        candidate = copy.deepcopy(twin)
        if not _reorder(candidate, channels):
            break
        propagate(candidate)
        after = channels_of(candidate)
        if not _means_the_same(channels, after):
            break
        moved = _follow(candidate, channels, after)
        propagate(candidate)
        twin = candidate
        origins |= {name: _composed(origins.get(name), part) for name, part in moved.items()}
    complete = {
        name: origins.get(name, (None,) * tensor.dim())
        for name, tensor in [*twin.named_parameters(), *twin.named_buffers()]
    }
    return Reordered(twin, complete)


def is_reordered(traced: TracedModule) -> bool:
    """Whether `sort_generations` has changed the graph."""
    return any(node.name.startswith(_MARK) for graph in traced.graphs.values() for node in graph.nodes)


def _generations(channels: Channels) -> Tensor:
    """[labels] int64: the generation that cross layers give each label, -1 where none reads it.

    All are -1 where two cross layers disagree on a label: then no order suits both.
    """
    generation = torch.full((channels.channel_of.numel(),), -1)
    for step in readers(channels.steps).values():
        reading = step.effect.reading
        if reading is None or reading.generation is None:
            continue
        known = reading.cols >= 0
        labels, given = reading.cols[known], reading.generation[known]
        clash = (generation[labels] >= 0) & (generation[labels] != given)
        if bool(clash.any()):
            return torch.full_like(generation, -1)
        generation[labels] = given
    return generation


def _reorder(traced: TracedModule, channels: Channels) -> bool:
    """Rewrites concatenations in place; whether there were any.

    Labels are known for the old order alone: a concatenation behind a rewritten one waits for the next round.
    """
    generation, changed = _generations(channels), False
    outs = {(step.mode, step.node.name): step.effect for step in channels.steps}
    analysed = {mode for mode, _ in outs}
    for mode, graph in traced.graphs.items():
        if mode not in analysed:  # both modes have one graph
            continue
        moved: set[fx.Node] = set()
        for node in list(graph.nodes):
            effect = outs.get((mode, node.name))
            tainted = any(operand in moved for operand in node.all_input_nodes)
            parts = None if tainted or effect is None else _parts(node, mode, outs, generation)
            if parts is not None:
                _write(node, parts)
                moved.add(node)
                changed = True
            elif tainted and (effect is None or effect.family is not Family.CONTRACTION):
                moved.add(node)
    if changed:
        traced.recompile()
    return changed


def _parts(
    node: fx.Node, mode: str, outs: Mapping[tuple[str, str], Any], generation: Tensor
) -> tuple[int, list[tuple[fx.Node, int, int]]] | None:
    """(dim, slices in the order of generations); None where the order stays. A slice: (part, start, width)."""
    op = op_of(node.target) if node.op == "call_function" else None
    if op is None or op.rule is not cat:
        return None
    given, named = arguments(node)
    operands, dim = given[0], given[1] if len(given) > 1 else named.get("dim", named.get("axis", 0))
    whole = outs[mode, node.name].out
    if not isinstance(operands, list | tuple) or not isinstance(dim, int):
        return None
    runs: list[tuple[int, fx.Node, int, int]] = []
    for part in operands:
        labels = layout(outs[mode, part.name].out, dim % whole.dim())
        if not bool((labels >= 0).all()):
            return None
        start = 0
        for each, run in groupby(generation[labels].tolist()):
            width = len(list(run))
            runs.append((each, part, start, width))
            start += width
    order = [each for each, *_ in runs]
    if -1 in order or order == sorted(order):  # a channel without generation, or nothing to do
        return None
    ordered = sorted(runs, key=lambda run: run[0])  # stable: parts keep their order within a generation
    return dim, [(part, start, width) for _, part, start, width in ordered]


def _write(node: fx.Node, parts: tuple[int, list[tuple[fx.Node, int, int]]]) -> None:
    """Makes the concatenation one of these slices, in place."""
    dim, slices = parts
    graph = node.graph
    with graph.inserting_before(node):
        taken = [
            graph.create_node("call_function", torch.narrow, (part, dim, start, width), name=f"{_MARK}{part.name}")
            for part, start, width in slices
        ]
    node.args, node.kwargs = (taken, dim), {}


def _means_the_same(before: Channels, after: Channels) -> bool:
    """Whether the same labels are tied and pinned, every weight reads the same ones, and the outputs are in order."""
    if before.births.keys() != after.births.keys() or not torch.equal(before.channel_of, after.channel_of):
        return False
    if len(before.pins) != len(after.pins) or not torch.equal(before.space_of, after.space_of):
        return False
    old, new = readers(before.steps), readers(after.steps)
    for key, step in old.items():
        first, second = step.effect.reading, new[key].effect.reading
        assert first is not None and second is not None
        if not torch.equal(first.cols.sort().values, second.cols.sort().values):
            return False
        if not torch.equal(first.rows, second.rows):
            return False
    return all(torch.equal(a, b) for a, b in zip(_outputs(before), _outputs(after), strict=True))


def _outputs(channels: Channels) -> Iterator[Tensor]:
    """The labels of the network's outputs."""
    for step in channels.steps:
        if step.effect.family is Family.SINK:
            leaves = torch.utils._pytree.tree_leaves((step.effect.out, [pin.labels for pin in step.effect.pins]))
            yield from (leaf for leaf in leaves if isinstance(leaf, Tensor))


def _follow(traced: TracedModule, before: Channels, after: Channels) -> dict[str, Origins]:
    """Gives weights, norms and cross layers the new order of the channels they read, in place; the origins of these."""
    moved: dict[str, Origins] = {}
    old, new = readers(before.steps), readers(after.steps)
    crossing = {}
    for key, step in old.items():
        reading = step.effect.reading
        assert reading is not None
        if reading.generation is not None:
            crossing[reading.path] = (reading, new[key].effect.reading)
    for path, (first, second) in crossing.items():
        assert second is not None
        columns = origin(first.cols, second.cols)
        if not torch.equal(columns, torch.arange(columns.numel())):
            moved |= _follow_cross(traced, path, first, columns)
    for name, layouts in before.layouts.items():
        if any(name.startswith(f"{path}.") for path in crossing):
            continue
        origins = tuple(
            None if a is None or b is None or torch.equal(a, b) else origin(a, b)
            for a, b in zip(layouts, after.layouts[name], strict=True)
        )
        if any(part is not None for part in origins):
            _put(traced, name, origins)
            moved[name] = origins
    return moved


@torch.no_grad()
def _put(traced: TracedModule, name: str, origins: Origins) -> None:
    """Gathers a parameter or buffer by origins, in place."""
    owner, _, attribute = name.rpartition(".")
    tensor = getattr(traced.get_submodule(owner), attribute)
    assert not any(part is not None and bool((part == NEW).any()) for part in origins)
    tensor.data = gather(tensor.data, origins).clone(memory_format=torch.preserve_format)


@torch.no_grad()
def _follow_cross(traced: TracedModule, path: str, reading: Reading, columns: Tensor) -> dict[str, Origins]:
    """Puts a cross layer with runs in the new order in the place of the old one; the origins of its parameters."""
    layer = traced.get_submodule(path)
    assert isinstance(layer, Cross) and reading.generation is not None
    runs = [(each, len(list(run))) for each, run in groupby(reading.generation[columns].tolist())]
    twin = Cross.from_config({**layer.config(), "in_runs": runs}, device="meta")
    moved: dict[str, Origins] = {}
    for name, parameter in layer.named_parameters():
        origins: Origins = (None,) * parameter.dim()
        if name == "weight":
            origins = (None, columns, *origins[2:])
        elif name.startswith("weights."):
            index = int(name.rpartition(".")[2])
            held = torch.tensor(layer.columns(index))
            # the block's old columns are ascending positions in the layer's: searchsorted finds each one's place
            wanted = columns[torch.tensor(twin.columns(index))]
            origins = (None, torch.searchsorted(held, wanted), *origins[2:])
        fresh = nn.Parameter(gather(parameter.data, origins).clone(), requires_grad=parameter.requires_grad)
        owner, _, attribute = name.rpartition(".")
        target = twin.get_submodule(owner)
        if isinstance(target, nn.ParameterDict):
            target[attribute] = fresh
        else:
            setattr(target, attribute, fresh)
        moved[f"{path}.{name}"] = origins
    traced.set_submodule(path, twin.train(layer.training))
    return moved


def _composed(first: Origins | None, then: Origins) -> Origins:
    """The origins of two gathers, one after the other."""
    if first is None:
        return then
    return tuple(
        b if a is None else a if b is None else torch.where(b >= 0, a[b.clamp(min=0)], NEW)
        for a, b in zip(first, then, strict=True)
    )
