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
from nrfx.report.page import Fitted, room, section
from nrfx.report.table import Bar, Column, of_line, tree_table
from nrfx.report.told import alive, blind_spots, part, sections, unseen, unseen_nodes, verdict

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
    listed = [entry for title, entries in sections(u) for entry in section(title, entries)]
    body = Fitted(lambda width: _utilization_table(u, cost, width))
    return Stack(_headline(u, title, latency), "", body, *_waste(u, cost), *listed)


def _headline(u: Utilization, title: str, latency: Latency | None) -> RenderableType:
    totals = Fitted(lambda width: _totals(u, width))
    clause, good = verdict(u)
    first = Text.assemble((title, "bold"), "  ", (clause, "green" if good else "yellow"))
    return Stack(first, "", totals, *_time(u, latency), *(Text(each, style="yellow") for each in blind_spots(u)))


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
        table.add_row(measure, _gauge(share, _unseen_total(u, measure)), percent(share.ratio), amount)
    return table


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
    return tree_table(width, outline(lines(u.rows)), wanted, quiet=alive)


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
    nodes = unseen_nodes(u)

    def cell(item: Group | Line) -> str:
        share = share_of(item, measure)
        if not share.total:
            return ""
        return percent(share.ratio) if unseen(item, measure, nodes) < share.total else "?"

    return Column("r", cell, percent(share_of(u, measure).ratio))


def _gauges(u: Utilization, measure: Measure) -> Column:
    nodes = unseen_nodes(u)

    def cell(item: Group | Line) -> str | Bar:
        share = share_of(item, measure)
        return _gauge(share, unseen(item, measure, nodes)) if share.total else ""

    return Column("", cell, _gauge(share_of(u, measure), _unseen_total(u, measure)))


def _unseen_total(u: Utilization, measure: Measure) -> int:
    return sum(getattr(entry, measure) for entry in u.not_understood)


def _gauge(share: Share, unseen: int = 0) -> Bar:
    """A cost as a bar, its live part coloured; `unseen` of the live part is not understood, and hatched."""
    ratio, hatched = share.ratio, part(unseen, share.total)
    style = "green" if ratio >= 0.85 else "yellow" if ratio >= 0.5 else "red"
    return Bar(
        ((ratio - hatched, "█", "#", style), (hatched, "▒", "?", "yellow"), (1 - ratio, "░", ".", "bright_black"))
    )
