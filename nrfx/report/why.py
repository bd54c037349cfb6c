"""The answer of `why` for the terminal: each axis of a layer, its spaces, and the chain to the node that keeps them.

A chain reads from the layer down: → with the flow of values, ← against it, = through weights that both nodes read.
From 120 columns on the line of code stands beside its place.
"""

import linecache
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.console import Group as Stack
from rich.table import Table
from rich.text import Text

from nrfx.analysis.tie_graph import Hop
from nrfx.analysis.why import Axis, AxisPart, Link, State, Why
from nrfx.report.page import SPACIOUS, alike, section
from nrfx.report.table import RULED, shortened

NAMED = 4
"""So many names are listed before the rest is counted."""
PARTS = 6
"""So many spaces of an axis are told one by one."""
LONGEST = 24
"""A longer chain is cut in the middle."""
INDENT = 5
GAP = 2
SHORTEST_NAME = 8

ARROWS: dict[Hop, str] = {"start": " ", "onward": "→", "back": "←", "shared": "="}
STYLES: dict[State, str] = {
    "pinned": "red", "fixed": "red", "gammaless": "yellow", "stream": "yellow", "frozen": "yellow", "free": "green",
}  # fmt: skip
WORDS: dict[State, str] = {
    "pinned": "pinned", "fixed": "not to change", "gammaless": "without a gamma", "stream": "on a stream",
    "frozen": "not to widen", "free": "free",
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
    """A paragraph for each part; parts of one axis, state and reason without more to say share one."""
    groups: dict[object, list[AxisPart]] = {}
    for part in parts:
        alone = part.chain or part.also or part.held or part.live < part.width
        groups.setdefault(part if alone else (part.axis, part.state, part.reason), []).append(part)
    for axis in dict.fromkeys(part.axis for part in parts):
        here = [group for group in groups.values() if group[0].axis == axis]
        shown = here if len(here) <= PARTS else here[: PARTS - 1]
        yield from (_part(group) for group in shown)
        rest = [part for group in here[len(shown) :] for part in group]
        if rest:
            widths = {state: sum(part.width for part in rest if part.state == state) for state in WORDS}
            told = ", ".join(f"{width} {WORDS[state]}" for state, width in widths.items() if width)
            yield Text(f"{axis:<{INDENT}}{len(rest)} more spaces: {told} channels", style="dim")


def _part(group: Sequence[AxisPart]) -> RenderableType:
    part, width = group[0], sum(part.width for part in group)
    spaces = f" in {len(group)} spaces" if len(group) > 1 else ""
    verdict = Text(f"{width} channels{spaces}, " if width else "")
    verdict.append(WORDS[part.state], style=STYLES[part.state])
    verdict.append(f": {part.reason}" if part.reason else ": they may go, and others may come")
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=INDENT - 1, style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(part.axis, verdict)
    if part.births:
        births = [birth for each in group for birth in each.births]
        shared = ": one width" if len(group) == 1 and len(births) > 1 else ""
        table.add_row("", Text(f"born in {_some(births)}{shared}", style="dim"))
    for fact in (*_facts(part), *_chains(part)):
        table.add_row("", fact)
    return table


def _facts(part: AxisPart) -> Iterator[RenderableType]:
    for text in part.together[:NAMED]:
        yield Text(text, style="dim")
    if part.live < part.width:
        yield Text(f"{part.width - part.live} are dead and can go, {part.live} are live", style="dim")
    for text in part.also[:NAMED]:
        yield Text(f"also pinned by {text}", style="dim")
    if len(part.also) > NAMED:
        yield Text(f"and by {len(part.also) - NAMED} more", style="dim")


def _chains(part: AxisPart) -> Iterator[RenderableType]:
    """The chain of the part; then why channels are held, each with its chain where that is a different one."""
    if part.chain:
        yield _Chain(part.chain)
    for hold in part.held:
        yield Text.assemble((f"{hold.channels} held", "yellow"), f", gamma-dead but kept: {hold.reason}")
        if hold.chain and hold.chain != part.chain:
            yield _Chain(hold.chain)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


class _Chain:
    """A line for each node: its name, the module or function that it calls, and its line of code."""

    def __init__(self, links: Sequence[Link]) -> None:
        self.links = links

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Where the line is too long the folder of the file is left out first, then the names are cut."""
        rows = [(_name(link), _op(link), *_where(link)) for link in self.links]
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
            if not _skipped(index, len(rows)):
                code = [Text(_code(link))] if spacious else []
                where = row[2 if whole else 3]
                table.add_row(ARROWS[link.hop], shortened(row[0], min(name, spare)), Text(row[1]), Text(where), *code)
            elif not _skipped(index - 1, len(rows)):
                table.add_row("", "...", Text(f"{len(rows) - LONGEST} more"), "")
        yield table


def _skipped(index: int, count: int) -> bool:
    """Whether the link stands in the middle of a chain that is too long."""
    return count > LONGEST and LONGEST // 2 <= index < count - LONGEST // 2


def _name(link: Link) -> str:
    """The path of the module if the node calls one, else the name of the node."""
    return link.module if link.called else link.node


def _op(link: Link) -> str:
    """The class or function that is called; for a function also the module around the call."""
    return link.op if link.called or not link.module else f"{link.op} in {link.module}"


def _where(link: Link) -> tuple[str, str]:
    """(file:line, file:line): the file as a path in the innermost folder of sys.path, and by its name alone."""
    if link.file is None:
        return "", ""
    folders = [folder for folder in (os.getcwd(), *sys.path) if folder and link.file.startswith(folder + os.sep)]
    inside = Path(link.file).relative_to(max(folders, key=len)) if folders else Path(link.file)
    return f"{inside}:{link.line}", f"{inside.name}:{link.line}"


def _code(link: Link) -> str:
    """The line of code itself, where its file is at hand."""
    return "" if link.file is None or link.line is None else linecache.getline(link.file, link.line).strip()


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
        reasons = [_reasons(layer.parts) for layer in self.layers]
        names = [self._label(layer) for layer in self.layers]
        name = min(max(len("layer"), *map(len, names)), options.max_width // 3)
        spacious, told = options.max_width >= SPACIOUS, any(reasons)
        table = Table(box=RULED, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("layer", width=name, no_wrap=True)
        if spacious:
            table.add_column("op", no_wrap=True, style="cyan")
        for title in ("out", "in"):
            table.add_column(title, overflow="fold")
        if told:
            table.add_column("why", overflow="fold")
        for layer, label, reason in zip(self.layers, names, reasons, strict=True):
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


def _reasons(parts: Sequence[AxisPart]) -> str:
    """Why channels may not change, or not widen."""
    told = [(part.axis, part.reason) for part in parts if part.state in ("pinned", "fixed", "frozen")]
    return "; ".join(dict.fromkeys(reason if axis == "both" else f"{axis}: {reason}" for axis, reason in told))
