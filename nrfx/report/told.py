"""What reports say in words of a utilization, whatever they are printed on: a terminal or a page."""

from collections.abc import Iterator

from nrfx.analysis.deaf import OUTPUT
from nrfx.analysis.utilization import Utilization
from nrfx.choices import Measure
from nrfx.report.amounts import percent
from nrfx.report.layer_tree import Group, Line, lines
from nrfx.report.page import alike, some

Section = tuple[str, list[tuple[str, str]]]
"""A title, and its entries: a text, and a number beside it or ""."""

REASONS = 2
"""So many reasons are told on the line of what is not understood; all stand in their section."""


def verdict(u: Utilization) -> tuple[str, bool]:
    """What is to be said of the network in one clause, and whether that is good news."""
    layers = lines(u.rows)
    wasteful = sum(not alive(layer) for layer in layers)
    if u.params.live < u.params.total or u.flops.live < u.flops.total:
        return f"{wasteful} of {len(layers)} layers work with dead channels", False
    if u.held:
        return "nothing to give back: every gamma-dead channel is held, for the reasons below", False
    if not u.gammas.can_die:
        return "nothing is known of it: no gamma can die, for the reasons below", False
    if u.not_understood or u.uncounted:
        return "what is understood is alive: there is nothing to give back", False
    if u.deaf:
        return "no gamma is dead, but not all of it depends on the input", False
    return "all of it is alive: there is nothing to give back", True


def blind_spots(u: Utilization) -> Iterator[str]:
    """What the totals do not show, a sentence each: what is not understood or counted, and which layers are deaf."""
    if u.not_understood:
        yield _not_understood(u)
    if u.uncounted:
        count = len(u.uncounted)
        yield f"flops are at least this: {count} node{'s' * (count > 1)} may do more than is counted"
    layers = [each.layer for each in u.deaf if each.layer != OUTPUT]
    if layers:
        verb = "does" if len(layers) == 1 else "do"
        end = ", nor does the network's output" if len(layers) < len(u.deaf) else ""
        yield f"{some(layers)} {verb} not depend on the input any more{end}: see Deaf"


def _not_understood(u: Utilization) -> str:
    nodes = unseen_nodes(u)
    layers = lines(u.rows)
    named = {row.name for layer in layers for row in layer.rows}
    unseen = sum(any(row.name in nodes for row in layer.rows) for layer in layers)
    others = sum(node not in named for node in nodes)
    counts = [f"{unseen} of {len(layers)} layers"] if unseen else []
    counts += [f"{others} {'other ' * bool(unseen)}node{'s' * (others > 1)}"] if others else []
    params, flops = sum(entry.params for entry in u.not_understood), sum(entry.flops for entry in u.not_understood)
    shares = f"{percent(part(params, u.params.total))} of params and {percent(part(flops, u.flops.total))} of flops"
    told = [f"{_brief(entry.reason)}: {some(entry.nodes)}" for entry in u.not_understood[:REASONS]]
    more = len(u.not_understood) - len(told)
    told += [f"and {more} reason{'s' * (more > 1)} more below"] if more else []
    return f"not understood are {' and '.join(counts)}, {shares} ({'; '.join(told)})"


def _brief(reason: str) -> str:
    """What a reason says before it tells what to do.

    >>> _brief("it has forward hooks (f, g), which may do anything: remove them")
    'it has forward hooks (f, g)'
    """
    return reason.partition(": ")[0].partition(", which")[0]


def sections(u: Utilization) -> list[Section]:
    """What is held, not understood, deaf, pinned and not counted, and the notes; those that have an entry."""
    listed: list[Section] = [
        ("Held: gamma-dead channels that are kept, and count as live", list(alike(u.held))),
        ("Not understood: no channel there comes or goes, and all counts as live", list(_reasons(u))),
        ("Deaf: what no longer depends on the input", [(f"{each.layer}: {each.reason}", "") for each in u.deaf]),
        ("Pinned: a width that must not change", list(_pinned(u))),
        ("Not counted in flops: what these do beyond it", [(name, "") for name in u.uncounted]),
        ("Notes", [(note, "") for note in (u.gammas.note, *u.notes) if note]),
    ]
    return [(title, entries) for title, entries in listed if entries]


def _reasons(u: Utilization) -> Iterator[tuple[str, str]]:
    """(the nodes of one reason, their share of the costlier measure) for each reason."""
    for entry in u.not_understood:
        share = max(part(entry.params, u.params.total), part(entry.flops, u.flops.total))
        yield f"{some(entry.nodes)}: {entry.reason}", percent(share)


def _pinned(u: Utilization) -> Iterator[tuple[str, str]]:
    """(the spaces that one node pins for one reason, "") for each node and reason."""
    spaces: dict[tuple[str, str], list[str]] = {}
    for pin in u.pins:
        spaces.setdefault((pin.node, pin.reason), []).append(pin.space)
    for (node, reason), names in spaces.items():
        yield f"{some(names)}  by {node}: {reason}", ""


def alive(item: Group | Line) -> bool:
    """Whether none of its params and flops are dead."""
    return item.params.live == item.params.total and item.flops.live == item.flops.total


def unseen_nodes(u: Utilization) -> frozenset[str]:
    """The modules and nodes that are not understood."""
    return frozenset(node for entry in u.not_understood for node in entry.nodes)


def unseen(item: Group | Line, measure: Measure, nodes: frozenset[str]) -> int:
    """The params or flops of those of its rows that are not understood."""
    return sum(getattr(row, measure) for line in item.lines for row in line.rows if row.name in nodes)


def part(of: int, whole: int) -> float:
    """The part of the whole; 0.0 where that is 0."""
    return of / whole if whole else 0.0
