"""The answer of `why` for the terminal: each axis of a layer, its spaces, and the chain to the node that keeps them.

A chain reads from the layer down: → with the flow of values, ← against it, = through weights that both nodes read.
From 120 columns on the line of code stands beside its place.
"""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.console import Group as Stack
from rich.table import Table
from rich.text import Text

from nrfx.analysis.why import Axis, AxisPart, Link, State, Why
from nrfx.report.page import SPACIOUS, alike, section
from nrfx.report.paragraphs import (
    ARROWS,
    LONGEST,
    WORDS,
    Paragraph,
    code,
    name_of,
    op_of,
    paragraphs,
    reasons,
    skipped,
    where,
)  # fmt: skip
from nrfx.report.table import RULED, shortened

INDENT = 5
GAP = 2
SHORTEST_NAME = 8

STYLES: dict[State, str] = {
    "pinned": "red", "fixed": "red", "gammaless": "yellow", "stream": "yellow", "frozen": "yellow", "free": "green",
}  # fmt: skip


def why_report(answer: Why, title: str = "") -> RenderableType:
    """Each axis of the layer in words, with its chain; of a container a line for each layer in it.

    Args:
        title: the name of the network.
    """
    of = f" of {title}" if title else ""
    headline = Text.assemble((answer.layer or "all layers", "bold"), f"  {answer.op}{of}")
    sections: list[RenderableType] = [section for part in _told(answer.parts) for section in ("", part)]
    if answer.layers:
        sections += _layers(answer)
    if answer.note:
        sections += ["", Text(answer.note, style="yellow")]
    return Stack(headline, *sections)


def _told(parts: Sequence[AxisPart]) -> Iterator[RenderableType]:
    """A paragraph for each part, in words."""
    for paragraph in paragraphs(parts):
        if paragraph.state is None:
            yield Text(f"{paragraph.axis:<{INDENT}}{paragraph.lead}", style="dim")
        else:
            yield _printed(paragraph, paragraph.state)


def _printed(paragraph: Paragraph, state: State) -> RenderableType:
    verdict = Text(paragraph.lead)
    verdict.append(WORDS[state], style=STYLES[state])
    verdict.append(paragraph.reason)
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=INDENT - 1, style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(paragraph.axis, verdict)
    for fact in paragraph.facts:
        table.add_row("", Text(fact, style="dim"))
    for chain in paragraph.chains:
        if chain.held:
            table.add_row("", Text.assemble((f"{chain.held} held", "yellow"), f", gamma-dead but kept: {chain.reason}"))
        if chain.links:
            table.add_row("", _Chain(chain.links))
    return table


class _Chain:
    """A line for each node: its name, the module or function that it calls, and its line of code."""

    def __init__(self, links: Sequence[Link]) -> None:
        self.links = links

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Where the line is too long the folder of the file is left out first, then the names are cut."""
        rows = [(name_of(link), op_of(link), *where(link)) for link in self.links]
        name, op, place, file = (max(map(len, column)) for column in zip(*rows, strict=True))
        whole = 1 + name + op + place + 3 * GAP <= options.max_width
        spare = max(options.max_width - 1 - op - (place if whole else file) - 3 * GAP, SHORTEST_NAME)
        spacious = options.max_width + INDENT >= SPACIOUS
        table = Table.grid(padding=(0, GAP, 0, 0))
        table.add_column(width=1)
        table.add_column(width=min(name, spare), no_wrap=True)
        table.add_column(no_wrap=True, style="cyan")
        table.add_column(no_wrap=True, style="dim")
        for index, (link, row) in enumerate(zip(self.links, rows, strict=True)):
            if not skipped(index, len(rows)):
                cells = [Text(row[1]), Text(row[2 if whole else 3]), *([Text(code(link))] if spacious else [])]
                table.add_row(ARROWS[link.hop], shortened(row[0], min(name, spare)), *cells)
            elif not skipped(index - 1, len(rows)):
                table.add_row("", "...", Text(f"{len(rows) - LONGEST} more"), "")
        yield table


def _layers(answer: Why) -> Iterator[RenderableType]:
    """A table of the layers, without norms if there are others; why channels are held; what the words mean."""
    layers = [layer for layer in answer.layers if "Norm" not in layer.op] or answer.layers
    parts = [part for layer in layers for part in layer.parts]
    yield ""
    yield _Layers(answer.layer, layers)
    held = {hold.reason: 1 for part in parts for hold in part.held}
    yield from section("Held: gamma-dead channels that are kept", ((text, "") for text, _ in alike(held.items())))
    states = {part.state for part in parts}
    meant = [Text(f"{_SHORT[state]}: {MEANT[state]}", style="dim") for state in MEANT if state in states]
    if meant:
        yield ""
        yield from meant


class _Layers:
    """A table with a line for each layer."""

    def __init__(self, container: str, layers: Sequence[Why]) -> None:
        self.container, self.layers = container, layers

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The columns: layer, widths and states, and the reasons where there are any."""
        told_of = ["; ".join(filter(None, (reasons(layer.parts), layer.note))) for layer in self.layers]
        names = [self._label(layer) for layer in self.layers]
        name = min(max(len("layer"), *map(len, names)), options.max_width // 3)
        spacious, told = options.max_width >= SPACIOUS, any(told_of)
        table = Table(box=RULED, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("layer", width=name, no_wrap=True)
        if spacious:
            table.add_column("op", no_wrap=True, style="cyan")
        for title in ("out", "in"):
            table.add_column(title, overflow="fold")
        if told:
            table.add_column("why", overflow="fold")
        for layer, label, reason in zip(self.layers, names, told_of, strict=True):
            cells = [_summary(layer.parts, axes) for axes in _SIDES]
            ends = [Text(reason, style="dim")] if told else []
            table.add_row(shortened(label, name), *([Text(layer.op)] if spacious else []), *cells, *ends)
        yield table

    def _label(self, layer: Why) -> str:
        return layer.layer.removeprefix(f"{self.container}.") if self.container else layer.layer


_SIDES: tuple[tuple[Axis, ...], ...] = (("out", "both"), ("in", "both"))


def _summary(parts: Iterable[AxisPart], axes: Sequence[Axis]) -> Text:
    """Channels by state, and the number of held ones."""
    here = [part for part in parts if part.axis in axes]
    states: dict[State, int] = {}
    for part in here:
        states[part.state] = states.get(part.state, 0) + part.width
    text = Text()
    for state, width in states.items():
        text.append(f"{', ' if text else ''}{width or '?'} ")
        text.append(_SHORT[state], style=STYLES[state])
    held = sum(hold.channels for part in here for hold in part.held)
    return text.append(f" ({held} held)", style="yellow") if held else text


MEANT: dict[State, str] = {
    "gammaless": "no gamma scales the channels, so nothing tells which are dead",
    "stream": "they lie on a residual stream, where channels do not die (--residual coupled: they may)",
}
_SHORT: dict[State, str] = {
    "pinned": "pinned", "fixed": "fixed", "gammaless": "no gamma", "stream": "stream", "frozen": "frozen",
    "free": "free",
}  # fmt: skip
