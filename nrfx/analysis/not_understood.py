"""What the analysis does not see into: calls that are not understood, and parameters that no graph reads.

Their params and flops count as live, for nothing tells which of them are dead. So a report must show them apart.
"""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from torch import fx

from nrfx.analysis.channels import Channels, Step
from nrfx.analysis.inventory import Inventory
from nrfx.analysis.residual import fed_by_inputs
from nrfx.labels import collapse
from nrfx.rules import Family
from nrfx.tracing.values.proxies import writes
from nrfx.tracing.values.writers import has_inplace, works_in_place


@dataclass(frozen=True)
class NotUnderstood:
    """Calls that are not understood for one reason.

    Attributes:
        reason: why, and what to do about it.
        nodes: the paths of the modules that are called, or the names of other nodes; for what no graph reads, the
            names of parameters.
        params: the learnable numbers that these calls alone read.
        flops: their multiply-adds for one example, as far as they are known.
        uncounted: whether some of their multiply-adds are not known.
    """

    reason: str
    nodes: tuple[str, ...]
    params: int
    flops: int
    uncounted: bool


UNREAD = "no graph reads it"

Fed = Mapping[fx.Graph, AbstractSet[fx.Node]]
"""The nodes of each graph whose values come from an input of the network."""


def fed_in(channels: Channels) -> Fed:
    """The nodes of each graph whose values come from an input of the network."""
    return {graph: fed_by_inputs(graph) for graph in {step.node.graph for step in channels.steps}}


def not_understood(inventory: Inventory, channels: Channels, in_parts: bool) -> tuple[NotUnderstood, ...]:
    """By reason, the costliest first. Each parameter counts once.

    in_parts: whether the network is traced in parts.
    """
    left = {name: shape.numel() for name, shape in inventory.parameters.items()}
    fed = fed_in(channels)
    groups: dict[str, list[Step]] = {}
    data = _of_data(channels.steps)
    for step in channels.steps:
        if step.effect.family is Family.UNKNOWN and _matters(inventory, step, fed, data):
            groups.setdefault(step.effect.reason, []).append(step)
    found = [_group(inventory, channels, reason, steps, left, fed) for reason, steps in groups.items()]
    unplaced = [name for name in left if name not in channels.layouts]
    read = _read(inventory, channels) if unplaced else ()
    unread = [name for name in unplaced if name not in read]
    if unread:
        why = "it lies outside of the parts that could be traced" if in_parts else UNREAD
        owners = dict.fromkeys(name.rpartition(".")[0] or name for name in unread)
        found.append(NotUnderstood(why, tuple(owners), sum(left[name] for name in unread), 0, in_parts))
    return tuple(sorted(found, key=lambda entry: -(entry.params + entry.flops)))


def _matters(inventory: Inventory, step: Step, fed: Fed, data: AbstractSet[fx.Node]) -> bool:
    """Whether it reads data, channels or parameters, or does work: a mask that is written by sizes hides nothing."""
    reads = not data.isdisjoint(step.node.all_input_nodes)
    reads = reads or any(bool((collapse(pin.labels) >= 0).any()) for pin in step.effect.pins)
    return reads or bool(step.effect.work) or step.effect.uncounted or any(read_by(inventory, step.node, fed))


def _of_data(steps: Iterable[Step]) -> set[fx.Node]:
    """The nodes into whose values the numbers of an input go, not its sizes alone; also by a write in place."""
    found, quiet = set[fx.Node](), set[Any]()  # quiet: functions and methods that write into no argument
    for step in steps:
        node, family = step.node, step.effect.family
        made = family is Family.VALUE or family is Family.SOURCE
        if node.op == "placeholder" or (not made and not found.isdisjoint(node.all_input_nodes)):
            found.add(node)
            if node.op in ("call_function", "call_method") and node.target not in quiet:
                if writes(node) or works_in_place(node, None):
                    found.update(_written_by(node))
                elif not has_inplace(node):
                    quiet.add(node.target)
    return found


def _written_by(node: fx.Node) -> Iterator[fx.Node]:
    """The value that an op which writes in place changes, and what it is a view of."""
    source = node.args[0] if node.args else None
    while isinstance(source, fx.Node):
        yield source
        source = source.args[0] if source.args and source.op in ("call_function", "call_method") else None


def _group(
    inventory: Inventory, channels: Channels, reason: str, steps: list[Step], left: dict[str, int], fed: Fed
) -> NotUnderstood:
    """One entry; what it reads is taken out of `left`."""
    own = {channels.aliases.get(name, name) for step in steps for name in read_by(inventory, step.node, fed)}
    works = [work for step in steps if step.mode == "eval" for work in step.effect.work]
    return NotUnderstood(
        reason=reason,
        nodes=tuple(dict.fromkeys(step.path for step in steps)),
        params=sum(left.pop(name, 0) for name in own),
        flops=sum(work.times for work in works),  # on fixed widths, which are in `times`
        uncounted=any(step.effect.uncounted for step in steps),
    )


def read_by(inventory: Inventory, node: fx.Node, fed: Fed) -> Iterator[str]:
    """The parameters that a call reads: of its module, and those from which alone an operand is computed."""
    if node.op == "call_module":
        yield from inventory.names_below(str(node.target))
    for source in node.all_input_nodes:
        yield from _made_of(source, fed)


def _made_of(node: fx.Node, fed: Fed) -> Iterable[str]:
    """The tensors from which a value is computed, if no input of the network goes into it."""
    if node in fed[node.graph]:
        return ()
    seen, waiting = set[fx.Node](), [node]
    while waiting:
        here = waiting.pop()
        if here not in seen:
            seen.add(here)
            waiting += here.all_input_nodes
    return [str(each.target) for each in seen if each.op == "get_attr"]


def _read(inventory: Inventory, channels: Channels) -> set[str]:
    """The first names of all tensors that some graph reads."""
    names = set[str]()
    for node in {step.node: None for step in channels.steps}:
        if node.op == "get_attr":
            names.add(str(node.target))
        elif node.op == "call_module":
            names.update(inventory.names_below(str(node.target)))
    return {channels.aliases.get(name, name) for name in names}
