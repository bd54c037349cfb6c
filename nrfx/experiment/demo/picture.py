"""What the demo shows of its trainings in the terminal: widths of the layers, curves of the error, a table of seeds.

Everything fits into 60 columns and more, and is told by characters: colours say nothing that they do not.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from nrfx.experiment.demo.training import Trained
from nrfx.experiment.intervals import interval
from nrfx.report import RULED, Bar, percent
from nrfx.report.page import CRAMPED, Fitted

HEIGHT = 11
"""Lines of the curves."""

LONGEST = 100
"""Columns of the curves and bars at most: what is longer reads no better."""


MOST = 6
"""Seeds whose widths are shown one by one."""


@dataclass(frozen=True)
class Pair:
    """Both trainings of a seed."""

    plain: Trained
    nr: Trained

    @property
    def difference(self) -> float:
        """Points of test error that Neural Rejuvenation adds: below 0 where it helps."""
        return self.nr.test - self.plain.test


def widths(pairs: Sequence[Pair]) -> Fitted:
    """Two bars a layer: channels as built, and behind the event as the mean over the seeds, and the numbers of each.

    The numbers are left out where there are too many seeds for a line.
    """
    return Fitted(lambda width: _widths(pairs, width))


def _widths(pairs: Sequence[Pair], width: int) -> Table:
    first = pairs[0].plain
    ends = [[pair.nr.widths[place] for pair in pairs] for place in range(len(first.layers))]
    size = len(str(max(map(max, ends))))
    each = [" ".join(f"{count:{size}}" for count in end) if told_apart(pairs) else "" for end in ends]
    texts = max(map(len, first.layers)) + max(size, len(str(max(first.widths)))) + len(each[0])
    longest = max(*first.widths, *(mean(end) for end in ends))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(width=min(width - texts - 6, LONGEST), no_wrap=True)
    table.add_column(no_wrap=True)
    for name, built, end, numbers in zip(first.layers, first.widths, ends, each, strict=True):
        table.add_row(name, str(built), _bar(built / longest, "░", "-", "bright_black"), "")
        table.add_row("", f"{mean(end):.0f}", _bar(mean(end) / longest, "█", "#", "green"), numbers)
    return table


def told_apart(pairs: Sequence[Pair]) -> bool:
    """Whether the widths of each seed are shown beside their mean."""
    return 1 < len(pairs) <= MOST


def _bar(share: float, character: str, plain: str, style: str) -> Bar:
    return Bar(((share, character, plain, style), (1 - share, " ", " ", "")))


@dataclass(frozen=True)
class Curves:
    """The mean validation error over the seeds, with both trainings in one picture; errors on a logarithmic scale."""

    pairs: Sequence[Pair]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One segment a character; the line below has the steps, and the events."""
        signs = ("o", "x", "*", "^") if options.ascii_only else ("○", "●", "◉", "▲")
        plain, ours, both, mark = signs
        known = {plain: "bright_black", ours: "green", both: "green", mark: "green"}
        columns = min(options.max_width, LONGEST) - 9
        rows = self._grid(columns, signs)
        for label, row in rows:
            yield Segment(f"{label:>6} ", Style.parse("bright_black"))
            for sign in row.rstrip():
                yield Segment(sign, Style.parse(known.get(sign, "")))
            yield Segment.line()
        yield Text(f"       {self._steps(columns)}", style="bright_black")
        yield Text.assemble(
            "       ", (plain, known[plain]), " plain   ", (ours, known[ours]), " NR   ", (both, known[both]), " both",
            *(("   ", (mark, known[mark]), " rejuvenation") if any(pair.nr.event for pair in self.pairs) else ()),
        )  # fmt: skip

    def _grid(self, columns: int, signs: tuple[str, str, str, str]) -> list[tuple[str, str]]:
        """(label, characters) of each line, from the largest error to the smallest; the last one has the events."""
        plain, ours, both, mark = signs
        last = self.pairs[0].plain.steps
        means = [_mean([pair.plain for pair in self.pairs]), _mean([pair.nr for pair in self.pairs])]
        errors = [max(error, 0.1) for curve in means for _, error in curve]
        low, high = math.log(min(errors)), math.log(max(errors))
        scale = (HEIGHT - 1) / max(high - low, 1e-9)
        lines = [[" "] * columns for _ in range(HEIGHT)]
        for sign, curve in zip((plain, ours), means, strict=True):
            for column, error in _columns(curve, columns, last):
                row = round((high - math.log(max(error, 0.1))) * scale)
                lines[row][column] = both if lines[row][column] not in (" ", sign) else sign
        events = [" "] * columns
        for pair in self.pairs:
            if pair.nr.event:
                events[_place(pair.nr.event, columns, last)] = mark
        labels = [
            f"{math.exp(high - row / scale):.1f} %" if row in (0, HEIGHT // 2, HEIGHT - 1) else ""
            for row in range(HEIGHT)
        ]
        shown = [(label, "".join(line)) for label, line in zip(labels, lines, strict=True)]
        return [*shown, ("", "".join(events))] if any(sign != " " for sign in events) else shown

    def _steps(self, columns: int) -> str:
        """The line of the steps below the curves: the first one at its left end, the last at its right."""
        end = f"{self.pairs[0].plain.steps:,} steps"
        return f"0{end:>{columns - 1}}"


def _mean(runs: Sequence[Trained]) -> list[tuple[int, float]]:
    """(step, mean error over the runs) at the end of each epoch that all have."""
    return [
        (points[0][0], mean(error for _, error in points)) for points in zip(*(run.curve for run in runs), strict=False)
    ]


def _columns(curve: Sequence[tuple[int, float]], columns: int, last: int) -> Iterator[tuple[int, float]]:
    """(column, mean error of the points in it), in order."""
    places: dict[int, list[float]] = {}
    for step, error in curve:
        places.setdefault(_place(step, columns, last), []).append(error)
    return ((column, mean(errors)) for column, errors in places.items())


def _place(step: int, columns: int, last: int) -> int:
    return min(round(step / max(last, 1) * (columns - 1)), columns - 1)


def table(pairs: Sequence[Pair]) -> Fitted:
    """A line for each seed: test errors, their difference, the cost of NR's network, and its event; then the means."""
    return Fitted(lambda width: _table(pairs, width))


def _table(pairs: Sequence[Pair], width: int) -> Table:
    shown = Table(box=RULED, show_edge=False, pad_edge=False, show_footer=len(pairs) > 1, padding=(0, 1, 0, 0))
    plain, ours = (f"{mean(errors):.2f} %" for errors in zip(*((p.plain.test, p.nr.test) for p in pairs), strict=True))
    columns = {"seed": "mean", "plain": plain, "NR": ours, "difference": _difference(pairs), "params": "", "flops": ""}
    if width >= CRAMPED:
        columns |= {"event": "", "r": "", "wider": ""}
    for title, footer in columns.items():
        shown.add_column(title, footer, justify="left" if title == "seed" else "right", no_wrap=True)
    for pair in pairs:
        shown.add_row(*_cells(pair)[: len(columns)])
    return shown


def _cells(pair: Pair) -> tuple[str, ...]:
    plain, ours = pair.plain, pair.nr
    costs = f"{ours.params:,}", f"x {ours.flops / plain.flops:.2f}"
    event = (f"{ours.event:,}", percent(ours.r), f"x {ours.alpha:.2f}") if ours.event else ("none", "", "")
    return str(plain.seed), f"{plain.test:.2f} %", f"{ours.test:.2f} %", f"{pair.difference:+.2f}", *costs, *event


def _difference(pairs: Sequence[Pair]) -> str:
    if len(pairs) < 2:
        return ""
    found = interval([pair.difference for pair in pairs])
    return f"{found.mean:+.2f} ± {found.reach:.2f}"
