"""A rejuvenation for the terminal: the cost before and after, and for each layer widths, kept and new channels."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from nrfx.choices import Measure
from nrfx.plan.budget import Budget
from nrfx.report.amounts import MEASURES, change, human, percent, share_of
from nrfx.report.layer_tree import Group, Line, lines, outline
from nrfx.report.page import CRAMPED, Fitted, room, section, some
from nrfx.report.table import Bar, Column, of_line, tree_table
from nrfx.rewrite.result import Rejuvenation


def rejuvenation_report(
    result: Rejuvenation, title: str = "network", budget: Budget | None = None, done: str = "rejuvenated"
) -> RenderableType:
    """The cost before and after, and for each layer the old, live and new width, kept and new channels.

    Args:
        title: the name of the network.
        budget: what the network may cost, shown beside what it costs; None for the budget of the rewrite.
        done: what was done to it, in one word.
    """
    budget = budget or result.budget
    notes = section("Notes", ((note, "") for note in result.notes))
    if not result.changed:
        return Stack(Text(f"{title} is unchanged.", style="bold yellow"), *notes)
    return Stack(
        _outcome(result, title, budget, done),
        "",
        Fitted(lambda width: _rejuvenation_table(result, budget, width)),
        *section("Carriers: channels that go on with the constants of dead ones", carriers(result)),
        *notes,
    )


def _outcome(result: Rejuvenation, title: str, budget: Budget | None, done: str) -> RenderableType:
    grown = f"live layers grow by alpha = {result.alpha:.4g}" if result.alpha > 1 else "its dead channels are dropped"
    return Stack(
        Text.assemble((f"{title}, {done}", "bold"), "  ", (grown, "green")),
        "",
        Fitted(lambda width: _costs(result, budget, human if width < CRAMPED else "{:,}".format)),
    )


def _costs(result: Rejuvenation, budget: Budget | None, number: Callable[[int], str]) -> Table:
    """Cost before, its live part, cost after, and the budget."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    for _ in range(5):
        table.add_column(justify="right", no_wrap=True)
    table.add_row("", "before", "alive", "r", "after", "" if budget is None else "budget", style="dim")
    for measure in MEASURES:
        old, new = share_of(result.before, measure), share_of(result.after, measure)
        bound = None if budget is None else getattr(budget, measure)
        amounts = number(old.total), number(old.live), percent(old.ratio), number(new.total)
        table.add_row(measure, *amounts, "" if bound is None else number(bound))
    return table


def carriers(result: Rejuvenation) -> Iterator[tuple[str, str]]:
    """(the spaces, the number of carriers in each of them)."""
    spaces: dict[int, list[str]] = {}
    for name, count in Counter(result.carriers).items():
        spaces.setdefault(count, []).append(name)
    for count, names in spaces.items():
        yield f"{'in' if len(names) == 1 else 'each in'} {some(names)}", str(count)


@dataclass(frozen=True)
class Widths:
    """The output width of a layer: old, live, new; and the new one as kept (S, carriers included) and fresh (R)."""

    old: int
    live: int
    new: int
    kept: int
    fresh: int

    @property
    def known(self) -> bool:
        """Whether the channels of the layer are understood: one that is not has no width, before or after."""
        return bool(self.old or self.new)


def widths(result: Rejuvenation) -> dict[str, Widths]:
    """Path -> widths, for each module that owns parameters and is in the new network too."""
    after = {row.name: row for row in result.after.rows}
    folded = {row.name: line.rows[-1].name for line in lines(result.before.rows) for row in line.rows}
    widths_of = {}
    for row in result.before.rows:
        if row.name in after:
            new = after[row.name].out
            fresh = _fresh(result, row.name, folded[row.name], max(new - row.out_live, 0))
            widths_of[row.name] = Widths(row.out, row.out_live, new, new - fresh, fresh)
    return widths_of


def _fresh(result: Rejuvenation, name: str, norm: str, otherwise: int) -> int:
    """New channels among the outputs of a module, by the origins of its weight, the norm behind it, or its bias."""
    for candidate in (f"{name}.weight", f"{norm}.weight", f"{name}.bias"):
        origin = (result.origins.get(candidate) or (None,))[0]
        if origin is not None:
            return int((origin < 0).sum())
    return otherwise


def _rejuvenation_table(result: Rejuvenation, budget: Budget | None, width: int) -> RenderableType:
    widths_of, after = widths(result), {row.name: row for row in result.after.rows}

    def of_widths(value: Callable[[Widths], object]) -> Callable[[Group | Line], str]:
        def text(line: Line) -> str:
            of = widths_of.get(line.main.name)
            return "" if of is None else str(value(of)) if of.known else "?"

        return of_line(text)

    def parts(item: Group | Line) -> str | Bar:
        name = item.main.name if isinstance(item, Line) else ""
        return _parts(widths_of[name]) if name in widths_of and widths_of[name].known else ""

    def op(line: Line) -> str:
        return after[line.main.name].op if line.main.name in after else "gone"

    old, live, new, kept, fresh = (
        Column("old", of_widths(lambda of: of.old)),
        Column("live", of_widths(lambda of: of.live)),
        Column("new", of_widths(lambda of: of.new)),
        Column("S", of_widths(lambda of: of.kept)),
        Column("R", of_widths(lambda of: of.fresh or "")),
    )
    bar = Column("█ S kept ▒ R new · gone", parts, Bar(((1.0, " ", " ", ""),)))
    params, flops = (_changes(result, measure) for measure in MEASURES)
    wanted = {
        "cramped": [old, live, new, bar],
        "usual": [old, live, new, bar, flops if budget is not None and budget.params is None else params],
        "spacious": [Column("op", of_line(op)), old, live, new, kept, fresh, bar, params, flops],
    }[room(width)]
    return tree_table(width, outline(lines(result.before.rows)), wanted, quiet=lambda item: _unmoved(item, widths_of))


def _parts(of: Widths) -> Bar:
    """Kept, new and removed channels as a bar; its length is the wider of the two networks."""
    scale = max(of.old, of.new, 1)
    kept, fresh = of.kept / scale, of.fresh / scale
    return Bar(((kept, "█", "#", "green"), (fresh, "▒", "+", "cyan"), (1 - kept - fresh, "·", ".", "bright_black")))


def _unmoved(item: Group | Line, widths_of: Mapping[str, Widths]) -> bool:
    return all(of.old == of.new == of.kept for line in item.lines if (of := widths_of.get(line.main.name)))


def _changes(result: Rejuvenation, measure: Measure) -> Column:
    """The column of each module's cost before and after."""
    after = {row.name: getattr(row, measure) for row in result.after.rows}

    def cell(item: Group | Line) -> str:
        new = sum(after.get(row.name, 0) for line in item.lines for row in line.rows)
        return change(share_of(item, measure).total, new)

    return Column(measure, cell, change(*(share_of(u, measure).total for u in (result.before, result.after))))
