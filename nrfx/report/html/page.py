"""Results as pages: one HTML file each, without anything from outside; and as the output of a cell in a notebook."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from nrfx.analysis.utilization import Utilization
from nrfx.analysis.why import Why
from nrfx.choices import Measure
from nrfx.report.amounts import MEASURES, change, human, percent, share_of
from nrfx.report.html.bars import MEANT, Bar, PartKind, bar, of_share
from nrfx.report.html.bars import WORDS as PARTS
from nrfx.report.html.entries import (
    OF_REJUVENATION,
    OF_UTILIZATION,
    Column,
    Entry,
    Told,
    of_rejuvenation,
    of_utilization,
    of_why,
)  # fmt: skip
from nrfx.report.html.graph import Graph, graph
from nrfx.report.layer_tree import lines
from nrfx.report.paragraphs import ARROWS, LONGEST, WORDS, name_of, op_of, skipped, where
from nrfx.report.rejuvenation import carriers
from nrfx.report.told import Section, blind_spots, sections, verdict
from nrfx.rewrite.result import Rejuvenation

WORST = 7
"""So many of the layers that waste most are listed."""


@dataclass(frozen=True)
class Figure:
    """A number at the top of a page: what it is, its bar or None, and a sentence below it."""

    title: str
    value: str
    bar: Bar | None
    caption: str


@dataclass(frozen=True)
class Contents:
    """What a page shows, from top to bottom.

    Attributes:
        title, verdict, good: the name of the network, what is to be said of it in a clause, whether that is good news.
        figures: the numbers at the top.
        warnings: what these numbers do not show.
        rewritten: whether it is about a rewrite.
        legend: the parts of bars that occur.
        graph: the picture; None for the answer of `why`.
        worst: the layers that waste most: the index of the entry, and how much.
        columns, entries: the table, without the column of names.
        told: the answer of `why`, where that is all.
        sections: further lists, each with its title.
        settings: (term, description) of what the result was computed with.
    """

    title: str
    verdict: str
    good: bool
    figures: tuple[Figure, ...]
    warnings: tuple[str, ...]
    rewritten: bool
    legend: tuple[PartKind, ...]
    graph: Graph | None
    worst: tuple[tuple[int, str], ...]
    columns: tuple[Column, ...]
    entries: tuple[Entry, ...]
    told: tuple[Told, ...]
    sections: tuple[Section, ...]
    settings: tuple[tuple[str, str], ...]


def page(result: Utilization | Rejuvenation | Why, title: str = "network") -> str:
    """The result as the text of one HTML file.

    title: the name of the network.
    """
    return _rendered("page.html", page=contents(result, title), style=_text("style.css"), script=_text("script.js"))


def cell(result: Utilization | Rejuvenation | Why) -> str:
    """The result as the output of a cell: without a script, with styles that hold for it alone."""
    return _rendered("cell.html", page=contents(result, "network"), style=_text("cell.css"))


def contents(result: Utilization | Rejuvenation | Why, title: str) -> Contents:
    """What the page on a result shows."""
    return _CONTENTS[type(result)](result, title)


def _utilization(u: Utilization, title: str) -> Contents:
    clause, good = verdict(u)
    return Contents(
        title=title,
        verdict=clause,
        good=good,
        figures=(*(_alive(u, measure) for measure in MEASURES), _to_give_back(u)),
        warnings=tuple(blind_spots(u)),
        told=(),
        sections=tuple(sections(u)),
        settings=(
            ("Threshold", f"{u.threshold:g} of a layer's largest gamma"),
            ("Residual streams", u.residual),
            ("Gammas", f"{u.gammas.total:,}, of which {u.gammas.can_die:,} can die"),
        ),
        **_layers(u, of_utilization(u), OF_UTILIZATION),
    )


def _layers(u: Utilization, entries: list[Entry], columns: tuple[Column, ...]) -> dict[str, Any]:
    kinds = {part.kind: None for entry in entries for part in entry.bar.parts}
    return {
        "graph": graph(u.stops, lines(u.rows)),
        "worst": tuple(_worst(u)),
        "entries": tuple(entries),
        "columns": columns,
        "rewritten": columns is OF_REJUVENATION,
        "legend": tuple(kind for kind in PARTS if kind in kinds),
    }


def _worst(u: Utilization) -> Iterator[tuple[int, str]]:
    """The layers with the most dead params, and their share of all dead params."""
    dead = [line.params.total - line.params.live for line in lines(u.rows)]
    ranked = sorted(range(len(dead)), key=lambda index: -dead[index])
    for index in [index for index in ranked[:WORST] if dead[index]]:
        yield index, f"{human(dead[index])} params, {percent(dead[index] / sum(dead))} of all that is dead"


def _alive(u: Utilization, measure: Measure) -> Figure:
    share = share_of(u, measure)
    unseen = sum(getattr(entry, measure) for entry in u.not_understood)
    name = {"params": "Parameters alive", "flops": "Multiply-adds alive"}[measure]
    return Figure(name, percent(share.ratio), of_share(share, unseen), f"{share.live:,} of {share.total:,} {measure}")


def _to_give_back(u: Utilization) -> Figure:
    dead = {measure: share_of(u, measure).total - share_of(u, measure).live for measure in MEASURES}
    told = " and ".join(f"{number:,} {measure}" for measure, number in dead.items())
    return Figure("Could be given back", percent(1 - u.params.ratio), None, f"{told} work for dead channels")


def _rejuvenation(result: Rejuvenation, title: str) -> Contents:
    if not result.changed:
        same = _utilization(result.before, title)
        notes: tuple[Section, ...] = (("Why nothing was done", [(note, "") for note in result.notes]),)
        return Contents(**{**vars(same), "verdict": "unchanged", "good": False, "sections": notes + same.sections})
    grown = result.alpha > 1
    listed: list[Section] = [
        ("Carriers: channels that go on with the constants of dead ones", list(carriers(result))),
        ("Notes", [(note, "") for note in result.notes]),
    ]
    return Contents(
        title=title,
        verdict="rejuvenated: live layers grow by one factor" if grown else "compacted: its dead channels are dropped",
        good=True,
        figures=(_alpha(result), *(_before_and_after(result, measure) for measure in MEASURES)),
        warnings=tuple(blind_spots(result.before)),
        told=(),
        sections=tuple((name, entries) for name, entries in listed if entries),
        settings=(
            ("Budget", "none" if result.budget is None else str(result.budget)),
            ("Function", "kept" if result.keeps_function else "not kept, as was asked for"),
            ("Alive before", " and ".join(_of_measure(result.before, measure) for measure in MEASURES)),
        ),
        **_layers(result.before, of_rejuvenation(result), OF_REJUVENATION),
    )


def _of_measure(u: Utilization, measure: Measure) -> str:
    return f"{percent(share_of(u, measure).ratio)} of {measure}"


def _alpha(result: Rejuvenation) -> Figure:
    if result.alpha > 1:
        return Figure("Alpha", f"{result.alpha:.4g}", None, "the factor by which the live widths of free layers grow")
    return Figure("Alpha", "1", None, "no layer grows: what is dead goes, and nothing comes in its place")


def _before_and_after(result: Rejuvenation, measure: Measure) -> Figure:
    old, new = share_of(result.before, measure), share_of(result.after, measure).total
    bound = None if result.budget is None else getattr(result.budget, measure)
    within = "" if bound is None else f". The budget of {bound:,} is met, {bound - new:,} below it"
    parts = bar([("live", min(old.live, new)), ("new", new - old.live), ("gone", old.total - new)])
    name = {"params": "Parameters", "flops": "Multiply-adds"}[measure]
    of = f" ({_compared(new, old.total)})" if old.total else ""
    told = f"{old.total:,} before, of which {old.live:,} alive; {new:,} after{of}{within}"
    return Figure(name, change(old.total, new) or "0", parts, told)


def _compared(new: int, old: int) -> str:
    """The new cost in percent of the old one, which it may exceed.

    >>> _compared(999_999, 1_000_000), _compared(1_195, 1_000)
    ('99.9 %', '119.5 %')
    """
    return percent(new / old) if new <= old else f"{max(100 * new / old, 100.1):.1f} %"


def _why(answer: Why, title: str) -> Contents:
    name = answer.layer or "all layers"
    return Contents(
        title=name if title == "network" else f"{title}: {name}",
        verdict=f"{answer.op}: what its channels are tied to, and what pins them",
        good=True,
        figures=(),
        warnings=(),
        rewritten=False,
        legend=(),
        graph=None,
        worst=(),
        columns=(),
        entries=(),
        told=tuple(of_why(answer)),
        sections=(),
        settings=(),
    )


_CONTENTS: Mapping[type, Callable[[Any, str], Contents]] = {
    Utilization: _utilization,
    Rejuvenation: _rejuvenation,
    Why: _why,
}


def _links(links: Sequence[Any]) -> Iterator[Any]:
    """The links of a chain; one None in the place of a middle that is left out."""
    for index, link in enumerate(links):
        if not skipped(index, len(links)):
            yield link
        elif not skipped(index - 1, len(links)):
            yield None


@cache
def _environment() -> Environment:
    """Every value is escaped, and a name that a template misspells is an error."""
    environment = Environment(
        loader=PackageLoader("nrfx.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        arrows=ARROWS, words=WORDS, parts=PARTS, meant=MEANT, longest=LONGEST,
        name_of=name_of, op_of=op_of, where=where, links_of=_links,
    )  # fmt: skip
    return environment


def _rendered(name: str, **values: Any) -> str:
    text: str = _environment().get_template(name).render(**values)
    return text


@cache
def _text(name: str) -> str:
    return (files("nrfx.report.html") / "templates" / name).read_text(encoding="utf-8")
