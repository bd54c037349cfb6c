"""The answer of `why` in paragraphs: what reports say of the axes of a layer, whatever they are printed on."""

import linecache
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nrfx.analysis.tie_graph import Hop
from nrfx.analysis.why import AxisPart, Link, State

NAMED = 4
"""So many names are listed before the rest is counted."""
PARTS = 6
"""So many spaces of an axis are told one by one."""
LONGEST = 24
"""A longer chain is cut in the middle."""

ARROWS: dict[Hop, str] = {"start": " ", "onward": "→", "back": "←", "shared": "="}
WORDS: dict[State, str] = {
    "pinned": "pinned", "fixed": "not to change", "gammaless": "without a gamma", "stream": "on a stream",
    "frozen": "not to widen", "free": "free",
}  # fmt: skip


@dataclass(frozen=True)
class Chain:
    """The nodes on a way; before them, if it is not that of the whole part, how many channels are held and why."""

    held: int
    reason: str
    links: tuple[Link, ...]


@dataclass(frozen=True)
class Paragraph:
    """What is said of some channels on an axis: how many they are, their state, its reason, facts, and chains.

    A paragraph without a state counts the spaces for which there was no room.
    """

    axis: str
    lead: str
    state: State | None
    reason: str
    facts: tuple[str, ...] = ()
    chains: tuple[Chain, ...] = ()


def paragraphs(parts: Sequence[AxisPart]) -> Iterator[Paragraph]:
    """A paragraph for each part; parts of one axis, state and reason without more to say share one."""
    groups: dict[object, list[AxisPart]] = {}
    for part in parts:
        alone = part.chain or part.also or part.held or part.live < part.width
        groups.setdefault(part if alone else (part.axis, part.state, part.reason), []).append(part)
    for axis in dict.fromkeys(part.axis for part in parts):
        here = [group for group in groups.values() if group[0].axis == axis]
        shown = here if len(here) <= PARTS else here[: PARTS - 1]
        yield from (_paragraph(group) for group in shown)
        rest = [part for group in here[len(shown) :] for part in group]
        if rest:
            widths = {state: sum(part.width for part in rest if part.state == state) for state in WORDS}
            told = ", ".join(f"{width} {WORDS[state]}" for state, width in widths.items() if width)
            yield Paragraph(axis, f"{len(rest)} more spaces: {told} channels", None, "")


def _paragraph(group: Sequence[AxisPart]) -> Paragraph:
    part, width = group[0], sum(part.width for part in group)
    spaces = f" in {len(group)} spaces" if len(group) > 1 else ""
    return Paragraph(
        axis=part.axis,
        lead=f"{width} channels{spaces}, " if width else "",
        state=part.state,
        reason=f": {part.reason}" if part.reason else ": they may go, and others may come",
        facts=tuple(_facts(group)),
        chains=tuple(_chains(part)),
    )


def _facts(group: Sequence[AxisPart]) -> Iterator[str]:
    part, births = group[0], [birth for each in group for birth in each.births]
    if births:
        yield f"born in {_some(births)}{': one width' if len(group) == 1 and len(births) > 1 else ''}"
    yield from part.together[:NAMED]
    if part.live < part.width:
        held = ", those held below among them" if part.held else ""
        yield f"{part.width - part.live} are dead and can go, {part.live} are live{held}"
    yield from (f"also pinned by {text}" for text in part.also[:NAMED])
    if len(part.also) > NAMED:
        yield f"and by {len(part.also) - NAMED} more"


def _chains(part: AxisPart) -> Iterator[Chain]:
    """The chain of the part; then why channels are held, each with its chain where that is a different one."""
    if part.chain:
        yield Chain(0, "", part.chain)
    for hold in part.held:
        yield Chain(hold.channels, hold.reason, hold.chain if hold.chain != part.chain else ())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def reasons(parts: Iterable[AxisPart]) -> str:
    """Why channels may not change, or not widen."""
    told = [(part.axis, part.reason) for part in parts if part.state in ("pinned", "fixed", "frozen")]
    return "; ".join(dict.fromkeys(reason if axis == "both" else f"{axis}: {reason}" for axis, reason in told))


def skipped(index: int, count: int) -> bool:
    """Whether the link stands in the middle of a chain that is too long."""
    return count > LONGEST and LONGEST // 2 <= index < count - LONGEST // 2


def name_of(link: Link) -> str:
    """The path of the module if the node calls one, else the name of the node."""
    return link.module if link.called else link.node


def op_of(link: Link) -> str:
    """The class or function that is called; for a function also the module around the call."""
    return link.op if link.called or not link.module else f"{link.op} in {link.module}"


def where(link: Link) -> tuple[str, str]:
    """(file:line, file:line): the file as a path in the innermost folder of sys.path, and by its name alone."""
    if link.file is None:
        return "", ""
    folders = [folder for folder in (os.getcwd(), *sys.path) if folder and link.file.startswith(folder + os.sep)]
    inside = Path(link.file).relative_to(max(folders, key=len)) if folders else Path(link.file)
    return f"{inside}:{link.line}", f"{inside.name}:{link.line}"


def code(link: Link) -> str:
    """The line of code itself, where its file is at hand."""
    return "" if link.file is None or link.line is None else linecache.getline(link.file, link.line).strip()
