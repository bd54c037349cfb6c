"""Reports for the terminal: what of a network is alive, and what a rejuvenation made of it.

Columns are chosen by the width at hand: from 120 on both measures have a bar, below 76 the second measure and the input
widths go. A live/total pair is one number where everything is live. Every number is one of `to_json`, or a sum of them.
"""

import io
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.box import Box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.console import Group as Stack
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from nrfx.budget import Budget
from nrfx.outline import Group, Line, Placed, lines, outline
from nrfx.rejuvenate import Rejuvenation
from nrfx.utilization import Share, Utilization

Measure = Literal["params", "flops"]
MEASURES: tuple[Measure, ...] = ("params", "flops")

NARROWEST = 60
CRAMPED = 76
SPACIOUS = 120
LONGEST_BAR = 28
SHORTEST_BAR = 5
WORST = 5
LISTED = 6
RULED = Box("    \n    \n ── \n    \n    \n ── \n    \n    \n")
"""Header and footer ruled off, nothing else."""


def render(renderable: RenderableType, width: int | None = None) -> str:
    """The report as plain text, without colours and trailing blanks.

    Args:
        width: columns, at least 60; None for those of the terminal (COLUMNS, or 80).
    """
    console = Console(file=io.StringIO(), width=columns(width), color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def columns(width: int | None = None) -> int:
    """The columns to print in: those asked for or those of the terminal, at least 60."""
    return max(shutil.get_terminal_size((80, 24)).columns if width is None else width, NARROWEST)


def utilization_report(u: Utilization, title: str = "network", cost: Measure = "params") -> RenderableType:
    """What of a network is alive: totals, a tree of its layers, who wastes most, what is held and pinned.

    Args:
        title: the name of the network.
        cost: the measure by which layers are ranked, and whose bar is drawn where there is room for one.
    """
    sections = [
        *_waste(u, cost),
        *section("Held: gamma-dead channels that are kept, and count as live", alike(u.held)),
        *section("Pinned: a width that must not change", _pinned(u)),
        *section("Not counted in flops", ((name, "") for name in u.uncounted)),
        *section("Notes", ((note, "") for note in u.notes)),
    ]
    return Stack(_headline(u, title), "", _Fitted(lambda width: _utilization_table(u, cost, width)), *sections)


def rejuvenation_report(result: Rejuvenation, title: str = "network", budget: Budget | None = None) -> RenderableType:
    """What a rewrite did: the cost before and after, and per layer the old, live and new width, kept and new channels.

    Args:
        title: the name of the network.
        budget: what the network may cost, shown beside what it costs.
    """
    notes = section("Notes", ((note, "") for note in result.notes))
    if not result.changed:
        return Stack(Text(f"{title} is unchanged.", style="bold yellow"), *notes)
    return Stack(
        _outcome(result, title, budget),
        "",
        _Fitted(lambda width: _rejuvenation_table(result, budget, width)),
        *section("Carriers: channels that go on with the constants of dead ones", _carriers(result)),
        *notes,
    )


# Numbers

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def human(number: int) -> str:
    """A number in three digits and a unit.

    >>> human(25557032), human(999), human(999_999)
    ('25.6 M', '999', '1.00 M')
    """
    unit = _unit(number)
    return f"{_digits(number, unit)} {unit}".strip()


def pair(share: Share) -> str:
    """live/total in the unit of the total; one number where they are equal.

    >>> pair(Share(13_700, 36_900)), pair(Share(64, 64)), pair(Share(0, 36_900)), pair(Share(39, 64))
    ('13.7/36.9 K', '64', '0/36.9 K', '39/64')
    """
    if share.live == share.total:
        return human(share.total)
    live = _digits(share.live, _unit(share.total)) if share.live else "0"
    return f"{live}/{human(share.total)}"


def percent(ratio: float) -> str:
    """A ratio in percent; 100 and 0 only where it is exactly that.

    >>> percent(0.5713), percent(0.9999), percent(1.0), percent(1e-9)
    ('57.1 %', '99.9 %', '100 %', '0.1 %')
    """
    if ratio in {0.0, 1.0}:
        return f"{round(100 * ratio)} %"
    return f"{min(max(100 * ratio, 0.1), 99.9):.1f} %"


def _unit(number: int) -> str:
    """The largest unit of which the number, in three digits, is at least one."""
    return [unit for unit, size in UNITS.items() if not unit or number >= 0.9995 * size][-1]


def _digits(number: int, unit: str) -> str:
    if not unit:
        return str(number)
    value = number / UNITS[unit]
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


# Bars


@dataclass(frozen=True)
class Bar:
    """Fills its column; each part (fraction, character, ASCII character, style) takes its share, in order."""

    parts: tuple[tuple[float, str, str, str], ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One segment a part."""
        start, reached = 0, 0.0
        for fraction, character, plain, style in self.parts:
            reached += fraction
            end = max(_edge(reached, options.max_width), start)
            yield Segment((plain if options.ascii_only else character) * (end - start), Style.parse(style))
            start = end

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Whatever there is room for."""
        return Measurement(1, options.max_width)


def _edge(reached: float, size: int) -> int:
    """In whole columns; none and all only where it is exactly that."""
    if reached <= 0:
        return 0
    return size if reached >= 1 - 1e-9 else min(max(round(reached * size), 1), size - 1)


def _gauge(share: Share) -> Bar:
    """The live part of a cost."""
    ratio = share.ratio
    style = "green" if ratio >= 0.85 else "yellow" if ratio >= 0.5 else "red"
    return Bar(((ratio, "█", "#", style), (1 - ratio, "░", ".", "bright_black")))


# Tables


@dataclass(frozen=True)
class _Fitted:
    """A renderable that is made for the width that it gets."""

    make: Callable[[int], RenderableType]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.make(options.max_width)


@dataclass(frozen=True)
class _Column:
    """A column of a tree table; `cell` returns texts, or bars, which share what the texts leave."""

    title: str
    cell: Callable[[Group | Line], str | Bar]
    total: str | Bar = ""


def _tree_table(
    width: int, entries: Sequence[Placed], wanted: Sequence[_Column], quiet: Callable[[Group | Line], bool]
) -> Table:
    """A table of `width` columns with a line per entry; `quiet` entries are dimmed, groups bold."""
    cells = [[column.cell(entry.item) for column in wanted] for entry in entries]
    names = ["  " * entry.depth + entry.label for entry in entries]
    sizes = [
        max(len(text) for text in (column.title, column.total, *texts) if isinstance(text, str))
        for column, texts in zip(wanted, zip(*cells, strict=True), strict=True)
    ]
    bars = [isinstance(column.total, Bar) for column in wanted]
    gap = 2 if width >= SPACIOUS else 1
    spare = width - gap * len(wanted) - sum(size for size, bar in zip(sizes, bars, strict=True) if not bar)
    widest = min(max(len("total"), *map(len, names)), spare - SHORTEST_BAR * sum(bars))
    longest = min((spare - widest) // max(sum(bars), 1), LONGEST_BAR)
    table = Table(box=RULED, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0), show_footer=True)
    table.add_column("layer", "total", width=widest, no_wrap=True)
    for column, size, bar in zip(wanted, sizes, bars, strict=True):
        justify: Literal["left", "right"] = "left" if bar else "right"
        table.add_column(column.title, column.total, width=longest if bar else size, justify=justify, no_wrap=True)
    for entry, name, texts in zip(entries, names, cells, strict=True):
        style = "bold" if isinstance(entry.item, Group) else "dim" if quiet(entry.item) else ""
        table.add_row(shortened(name, widest), *(Text(x) if isinstance(x, str) else x for x in texts), style=style)
    return table


def shortened(name: str, width: int) -> Text:
    """The name, without its middle where it is too long: both ends say which layer it is."""
    if len(name) <= width:
        return Text(name)
    tail = (width - len(name) + len(name.lstrip())) * 2 // 3
    return Text(f"{name[: width - tail - 1]}…{name[-tail:]}")


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
    }[_room(width)]
    return _tree_table(width, outline(lines(u.rows)), wanted, quiet=_alive)


def _room(width: int) -> str:
    return "cramped" if width < CRAMPED else "usual" if width < SPACIOUS else "spacious"


def _alive(item: Group | Line) -> bool:
    return item.params.live == item.params.total and item.flops.live == item.flops.total


def _share(of: Utilization | Group | Line, measure: Measure) -> Share:
    return of.params if measure == "params" else of.flops


def _of_line(value: Callable[[Line], str]) -> Callable[[Group | Line], str]:
    """A cell that groups leave empty."""
    return lambda item: value(item) if isinstance(item, Line) else ""


_OP = _Column("op", _of_line(lambda line: line.main.op))
_WIDTH_OUT = _Column("out", _of_line(lambda line: _widths(line.main.out_live, line.main.out)))
_WIDTH_IN = _Column("in", _of_line(lambda line: _widths(line.main.in_live, line.main.in_)))
_HELD = _Column("held", _of_line(lambda line: str(line.held or "")))


def _widths(live: int, total: int) -> str:
    return str(total) if live == total else f"{live}/{total}"


def _pairs(u: Utilization, measure: Measure) -> _Column:
    def cell(item: Group | Line) -> str:
        share = _share(item, measure)
        return pair(share) if share.total else ""

    return _Column(measure, cell, pair(_share(u, measure)))


def _ratios(u: Utilization, measure: Measure) -> _Column:
    def cell(item: Group | Line) -> str:
        share = _share(item, measure)
        return percent(share.ratio) if share.total else ""

    return _Column("r", cell, percent(_share(u, measure).ratio))


def _gauges(u: Utilization, measure: Measure) -> _Column:
    def cell(item: Group | Line) -> str | Bar:
        share = _share(item, measure)
        return _gauge(share) if share.total else ""

    return _Column("", cell, _gauge(_share(u, measure)))


# Utilization


def _headline(u: Utilization, title: str) -> RenderableType:
    return Stack(Text.assemble((title, "bold"), "  ", _verdict(u)), "", _Fitted(lambda width: _totals(u, width)))


def _totals(u: Utilization, width: int) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(width={"cramped": 10, "usual": 24, "spacious": 60}[_room(width)])
    table.add_column(justify="right", style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for measure in MEASURES:
        share = _share(u, measure)
        amount = f"{share.live:,} of {share.total:,}"
        table.add_row(measure, _gauge(share), percent(share.ratio), amount)
    return table


def _verdict(u: Utilization) -> Text:
    layers = lines(u.rows)
    wasteful = sum(not _alive(layer) for layer in layers)
    if u.params.live < u.params.total or u.flops.live < u.flops.total:
        return Text(f"{wasteful} of {len(layers)} layers work with dead channels", style="yellow")
    if u.held:
        return Text("nothing to give back: every gamma-dead channel is held, for the reasons below", style="yellow")
    return Text("all of it is alive: there is nothing to give back", style="green")


def _waste(u: Utilization, cost: Measure) -> Iterator[RenderableType]:
    total = _share(u, cost)
    dead = total.total - total.live
    if not dead:
        return
    wasted = [(line, _share(line, cost)) for line in lines(u.rows)]
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


def alike(held: Iterable[tuple[str, int]]) -> Iterator[tuple[str, str]]:
    """Reasons that differ only in the node with which they begin, together; the count of channels first.

    >>> list(alike([("mul is a gate", 3), ("mul_1 is a gate", 5), ("on a stream", 1)]))
    [('mul is a gate (and 1 node like it)', '8'), ('on a stream', '1')]
    """
    together: dict[str, list[tuple[str, int]]] = {}
    for reason, count in held:
        together.setdefault(reason.partition(" ")[2], []).append((reason, count))
    counted = [(sum(count for _, count in group), group) for group in together.values()]
    for count, group in sorted(counted, key=lambda entry: -entry[0]):
        others = f" (and {len(group) - 1} node{'s' * (len(group) > 2)} like it)" if len(group) > 1 else ""
        yield f"{group[0][0]}{others}", f"{count:,}"


def _pinned(u: Utilization) -> Iterator[tuple[str, str]]:
    """What is pinned by whom, those with the same node and reason together."""
    spaces: dict[tuple[str, str], list[str]] = {}
    for pin in u.pins:
        spaces.setdefault((pin.node, pin.reason), []).append(pin.space)
    for (node, reason), names in spaces.items():
        yield f"{_some(names)}  by {node}: {reason}", ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def section(title: str, entries: Iterable[tuple[str, str]]) -> Iterator[RenderableType]:
    """A title and its first entries (text, and a number before it); nothing where there is no entry."""
    listed = list(entries)
    if not listed:
        return
    yield ""
    yield Text(title, style="bold")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for text, number in listed[:LISTED]:
        table.add_row(f"  {number}" if number else "", Text(text))
    if len(listed) > LISTED:
        table.add_row("", Text(f"and {len(listed) - LISTED} more", style="dim"))
    yield table


# Rejuvenation


def _outcome(result: Rejuvenation, title: str, budget: Budget | None) -> RenderableType:
    grown = f"live layers grow by alpha = {result.alpha:.4g}" if result.alpha > 1 else "its dead channels are dropped"
    return Stack(
        Text.assemble((f"{title}, rejuvenated", "bold"), "  ", (grown, "green")),
        "",
        _Fitted(lambda width: _costs(result, budget, human if width < CRAMPED else "{:,}".format)),
    )


def _costs(result: Rejuvenation, budget: Budget | None, number: Callable[[int], str]) -> Table:
    """What was, what of it was alive, what is, and what may be."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    for _ in range(5):
        table.add_column(justify="right", no_wrap=True)
    table.add_row("", "before", "alive", "r", "after", "" if budget is None else "budget", style="dim")
    for measure in MEASURES:
        old, new = _share(result.before, measure), _share(result.after, measure)
        bound = None if budget is None else getattr(budget, measure)
        amounts = number(old.total), number(old.live), percent(old.ratio), number(new.total)
        table.add_row(measure, *amounts, "" if bound is None else number(bound))
    return table


def _carriers(result: Rejuvenation) -> Iterator[tuple[str, str]]:
    """How many a space has, and the spaces."""
    spaces: dict[int, list[str]] = {}
    for name, count in Counter(result.carriers).items():
        spaces.setdefault(count, []).append(name)
    for count, names in spaces.items():
        yield f"{'in' if len(names) == 1 else 'each in'} {_some(names)}", str(count)


@dataclass(frozen=True)
class Widths:
    """The output width of a layer: before, live, after; of the latter, kept (S, carriers included) and new (R)."""

    old: int
    live: int
    new: int
    kept: int
    fresh: int


def widths(result: Rejuvenation) -> dict[str, Widths]:
    """Per module that owns parameters and stayed, by its path, in order."""
    after = {row.name: row for row in result.after.rows}
    folded = {row.name: line.rows[-1].name for line in lines(result.before.rows) for row in line.rows}
    found = {}
    for row in result.before.rows:
        if row.name in after:
            new = after[row.name].out
            fresh = _fresh(result, row.name, folded[row.name], max(new - row.out_live, 0))
            found[row.name] = Widths(row.out, row.out_live, new, new - fresh, fresh)
    return found


def _fresh(result: Rejuvenation, name: str, norm: str, otherwise: int) -> int:
    """New channels among the outputs of a module, by the origins of its weight or of the norm that follows."""
    for candidate in (f"{name}.weight", f"{norm}.weight", f"{name}.bias"):
        origin = (result.origins.get(candidate) or (None,))[0]
        if origin is not None:
            return int((origin < 0).sum())
    return otherwise


def _rejuvenation_table(result: Rejuvenation, budget: Budget | None, width: int) -> RenderableType:
    found, after = widths(result), {row.name: row for row in result.after.rows}

    def of_widths(value: Callable[[Widths], object]) -> Callable[[Group | Line], str]:
        return _of_line(lambda line: str(value(found[line.main.name])) if line.main.name in found else "")

    def parts(item: Group | Line) -> str | Bar:
        name = item.main.name if isinstance(item, Line) else ""
        return _parts(found[name]) if name in found else ""

    def op(line: Line) -> str:
        return after[line.main.name].op if line.main.name in after else "gone"

    old, live, new, kept, fresh = (
        _Column("old", of_widths(lambda of: of.old)),
        _Column("live", of_widths(lambda of: of.live)),
        _Column("new", of_widths(lambda of: of.new)),
        _Column("S", of_widths(lambda of: of.kept)),
        _Column("R", of_widths(lambda of: of.fresh or "")),
    )
    bar = _Column("█ S kept ▒ R new · gone", parts, Bar(((1.0, " ", " ", ""),)))
    params, flops = (_changes(result, measure) for measure in MEASURES)
    wanted = {
        "cramped": [old, live, new, bar],
        "usual": [old, live, new, bar, flops if budget is not None and budget.params is None else params],
        "spacious": [_Column("op", _of_line(op)), old, live, new, kept, fresh, bar, params, flops],
    }[_room(width)]
    return _tree_table(width, outline(lines(result.before.rows)), wanted, quiet=lambda item: _unmoved(item, found))


def _parts(of: Widths) -> Bar:
    """Kept and new channels, and those that were given up, on the scale of the wider of both networks."""
    scale = max(of.old, of.new, 1)
    kept, fresh = of.kept / scale, of.fresh / scale
    return Bar(((kept, "█", "#", "green"), (fresh, "▒", "+", "cyan"), (1 - kept - fresh, "·", ".", "bright_black")))


def _unmoved(item: Group | Line, found: Mapping[str, Widths]) -> bool:
    return all(of.old == of.new == of.kept for line in item.lines if (of := found.get(line.main.name)))


def _changes(result: Rejuvenation, measure: Measure) -> _Column:
    """What every module cost before and costs after."""
    after = {row.name: getattr(row, measure) for row in result.after.rows}

    def cell(item: Group | Line) -> str:
        new = sum(after.get(row.name, 0) for line in item.lines for row in line.rows)
        return _change(_share(item, measure).total, new)

    return _Column(measure, cell, _change(*(_share(u, measure).total for u in (result.before, result.after))))


def _change(old: int, new: int) -> str:
    """old → new, in one unit where both have the same."""
    if not old and not new:
        return ""
    before = _digits(old, _unit(old)) if _unit(old) == _unit(new) else human(old)
    return f"{before} → {human(new)}"
