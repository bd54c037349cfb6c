"""A utilization for the terminal: totals, a tree of the layers, those that waste most, what is held and pinned."""

from collections.abc import Iterator

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from nrfx.analysis.utilization import Share, Utilization
from nrfx.choices import Measure
from nrfx.deploy.latency import Latency
from nrfx.report.amounts import MEASURES, human, milliseconds, pair, percent, share_of
from nrfx.report.layer_tree import Group, Line, lines, outline
from nrfx.report.page import Fitted, alike, room, section, some
from nrfx.report.table import Bar, Column, of_line, tree_table

WORST = 5


def utilization_report(
    u: Utilization, title: str = "network", cost: Measure = "params", latency: Latency | None = None
) -> RenderableType:
    """Totals, a tree of the layers, those that waste most, what is held and pinned.

    Args:
        title: the name of the network.
        cost: the measure by which layers are ranked, and whose bar is drawn where there is room for one.
        latency: the time of a forward, shown below the totals.
    """
    sections = [
        *_waste(u, cost),
        *section("Held: gamma-dead channels that are kept, and count as live", alike(u.held)),
        *section("Not understood: no channel there comes or goes, and all counts as live", _not_understood(u)),
        *section("Pinned: a width that must not change", _pinned(u)),
        *section("Not counted in flops: what these do beyond it", ((name, "") for name in u.uncounted)),
        *section("Notes", ((note, "") for note in (u.gammas.note, *u.notes) if note)),
    ]
    return Stack(_headline(u, title, latency), "", Fitted(lambda width: _utilization_table(u, cost, width)), *sections)


def _headline(u: Utilization, title: str, latency: Latency | None) -> RenderableType:
    totals = Fitted(lambda width: _totals(u, width))
    return Stack(Text.assemble((title, "bold"), "  ", _verdict(u)), "", totals, *_time(u, latency), *_blind_spot(u))


def _time(u: Utilization, latency: Latency | None) -> Iterator[RenderableType]:
    """The time of a forward, its spread and what was measured; nothing where it was not."""
    if latency is None:
        return
    rate = human(round(u.flops.total * latency.examples / latency.median))
    spread = f"middle half of {latency.runs} runs: {milliseconds(latency.low)} to {milliseconds(latency.high)}"
    shapes = ", ".join("x".join(map(str, shape)) for shape in latency.inputs)
    threads = f", {latency.threads} thread{'s' * (latency.threads > 1)}" if latency.device == "cpu" else ""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("time  ", Text.assemble((milliseconds(latency.median), "bold"), f"  {spread}"))
    table.add_row("", Text(f"{shapes} on {latency.device}{threads}; {rate} flops a second, dead ones too", style="dim"))
    yield table


def _totals(u: Utilization, width: int) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(width={"cramped": 10, "usual": 24, "spacious": 60}[room(width)])
    table.add_column(justify="right", style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for measure in MEASURES:
        share = share_of(u, measure)
        amount = f"{share.live:,} of {share.total:,}"
        unseen = sum(getattr(entry, measure) for entry in u.not_understood)
        table.add_row(measure, _gauge(share, unseen), percent(share.ratio), amount)
    return table


def _blind_spot(u: Utilization) -> Iterator[RenderableType]:
    """How much of the network is not understood, below the totals; nothing where all is."""
    if u.not_understood:
        params, flops = sum(entry.params for entry in u.not_understood), sum(entry.flops for entry in u.not_understood)
        shares = (
            f"{percent(_part(params, u.params.total))} of params and {percent(_part(flops, u.flops.total))} of flops"
        )
        nodes = sum(len(entry.nodes) for entry in u.not_understood)
        yield Text(f"{shares} are not understood, in {nodes} node{'s' * (nodes > 1)}: see below", style="yellow")
    if u.uncounted:
        count = len(u.uncounted)
        yield Text(
            f"flops are at least this: {count} node{'s' * (count > 1)} may do more than is counted", style="yellow"
        )


def _part(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _not_understood(u: Utilization) -> Iterator[tuple[str, str]]:
    """(the nodes of one reason, their share of the costlier measure) for each reason."""
    for entry in u.not_understood:
        share = max(_part(entry.params, u.params.total), _part(entry.flops, u.flops.total))
        yield f"{some(entry.nodes)}: {entry.reason}", percent(share)


def _verdict(u: Utilization) -> Text:
    layers = lines(u.rows)
    wasteful = sum(not _alive(layer) for layer in layers)
    if u.params.live < u.params.total or u.flops.live < u.flops.total:
        return Text(f"{wasteful} of {len(layers)} layers work with dead channels", style="yellow")
    if u.held:
        return Text("nothing to give back: every gamma-dead channel is held, for the reasons below", style="yellow")
    if not u.gammas.can_die:
        return Text("nothing is known of it: no gamma can die, for the reasons below", style="yellow")
    if u.not_understood or u.uncounted:
        return Text("what is understood is alive: there is nothing to give back", style="yellow")
    return Text("all of it is alive: there is nothing to give back", style="green")


def _waste(u: Utilization, cost: Measure) -> Iterator[RenderableType]:
    total = share_of(u, cost)
    dead = total.total - total.live
    if not dead:
        return
    wasted = [(line, share_of(line, cost)) for line in lines(u.rows)]
    ranked = sorted(wasted, key=lambda entry: entry[1].live - entry[1].total)
    yield ""
    yield Text(f"Most wasted {cost}: dead of all in the layer, share of the waste", style="bold")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")
    for _ in range(2):
        table.add_column(justify="right", no_wrap=True)
    for line, share in ranked[:WORST]:
        lost = share.total - share.live
        if lost:
            table.add_row(f"  {line.name}", f"{human(lost)} of {human(share.total)}", percent(lost / dead))
    yield table


def _pinned(u: Utilization) -> Iterator[tuple[str, str]]:
    """(the spaces that one node pins for one reason, "") for each node and reason."""
    spaces: dict[tuple[str, str], list[str]] = {}
    for pin in u.pins:
        spaces.setdefault((pin.node, pin.reason), []).append(pin.space)
    for (node, reason), names in spaces.items():
        yield f"{some(names)}  by {node}: {reason}", ""


def _utilization_table(u: Utilization, cost: Measure, width: int) -> Table:
    other: Measure = "flops" if cost == "params" else "params"
    cost_column, other_column = (_pairs(u, measure) for measure in (cost, other))
    r, gauge = _ratios(u, cost), _gauges(u, cost)
    wanted = {
        "cramped": [_WIDTH_OUT, cost_column, r, gauge],
        "usual": [_WIDTH_OUT, _WIDTH_IN, cost_column, other_column, r, gauge],
        "spacious": [
            *(_OP, _WIDTH_OUT, _WIDTH_IN, _HELD),
            *(cost_column, r, gauge),
            *(other_column, _ratios(u, other), _gauges(u, other)),
        ],
    }[room(width)]
    return tree_table(width, outline(lines(u.rows)), wanted, quiet=_alive)


def _alive(item: Group | Line) -> bool:
    return item.params.live == item.params.total and item.flops.live == item.flops.total


_OP = Column("op", of_line(lambda line: line.main.op))
_WIDTH_OUT = Column("out", of_line(lambda line: _widths(line.main.out_live, line.main.out)))
_WIDTH_IN = Column("in", of_line(lambda line: _widths(line.main.in_live, line.main.in_)))
_HELD = Column("held", of_line(lambda line: str(line.held or "")))


def _widths(live: int, total: int) -> str:
    """Live of all; "?" for a layer whose channels are not understood."""
    return str(total or "?") if live == total else f"{live}/{total}"


def _pairs(u: Utilization, measure: Measure) -> Column:
    def cell(item: Group | Line) -> str:
        share = share_of(item, measure)
        return pair(share) if share.total else ""

    return Column(measure, cell, pair(share_of(u, measure)))


def _ratios(u: Utilization, measure: Measure) -> Column:
    def cell(item: Group | Line) -> str:
        share = share_of(item, measure)
        return percent(share.ratio) if share.total else ""

    return Column("r", cell, percent(share_of(u, measure).ratio))


def _gauges(u: Utilization, measure: Measure) -> Column:
    def cell(item: Group | Line) -> str | Bar:
        share = share_of(item, measure)
        return _gauge(share) if share.total else ""

    return Column("", cell, _gauge(share_of(u, measure)))


def _gauge(share: Share, unseen: int = 0) -> Bar:
    """A cost as a bar, its live part coloured; `unseen` of the live part is not understood, and hatched."""
    ratio, hatched = share.ratio, _part(unseen, share.total)
    style = "green" if ratio >= 0.85 else "yellow" if ratio >= 0.5 else "red"
    return Bar(
        ((ratio - hatched, "█", "#", style), (hatched, "▒", "?", "yellow"), (1 - ratio, "░", ".", "bright_black"))
    )
