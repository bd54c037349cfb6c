"""The layers of a page: what stands of each in the picture, in the table, and in the panel with its details."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nrfx.analysis.utilization import Utilization
from nrfx.analysis.why import Why
from nrfx.choices import Measure
from nrfx.report.amounts import MEASURES, change, pair, percent, share_of
from nrfx.report.html.bars import UNKNOWN, Bar, PartKind, bar
from nrfx.report.layer_tree import Line, lines
from nrfx.report.paragraphs import WORDS, Paragraph, paragraphs
from nrfx.report.rejuvenation import Widths, widths
from nrfx.report.told import alive, unseen, unseen_nodes
from nrfx.rewrite.result import Rejuvenation


@dataclass(frozen=True)
class Column:
    """A column of the table. `number`: whether it holds numbers, which stand at its right and sort as such."""

    title: str
    number: bool = True


@dataclass(frozen=True)
class Cell:
    """What a cell shows, and what it is sorted by."""

    text: str
    sort: float | str


@dataclass(frozen=True)
class Told:
    """What `why` says of one module of a layer."""

    name: str
    op: str
    paragraphs: tuple[Paragraph, ...]
    note: str


@dataclass(frozen=True)
class Entry:
    """One layer.

    Attributes:
        path, label: the name of what holds it, with a dot behind it, and its own.
        bar, width, ratio: its channels, and two texts beside them.
        quiet: whether nothing is to be said of it: all of it is alive, or stays as it was.
        cells: of the table, without that of its name.
        facts: (term, description) in the panel.
    """

    path: str
    label: str
    op: str
    bar: Bar
    width: str
    ratio: str
    quiet: bool
    cells: tuple[Cell, ...]
    facts: tuple[tuple[str, str], ...]
    told: tuple[Told, ...]


OF_UTILIZATION = (
    Column("Kind", False), Column("Out"), Column("In"), Column("Held"), Column("Params"), Column("r"), Column("Flops"),
    Column("r of flops"), Column("Why", False),
)  # fmt: skip
OF_REJUVENATION = (
    Column("Kind", False), Column("Old"), Column("Live"), Column("New"), Column("S kept"), Column("R new"),
    Column("Params"), Column("Flops"), Column("Why", False),
)  # fmt: skip


def of_utilization(u: Utilization) -> list[Entry]:
    """The layers of a network, with their live parts."""
    every = lines(u.rows)
    nodes, why = unseen_nodes(u), {answer.layer: answer for answer in u.layers}
    widest = max((line.main.out for line in every), default=0)
    return [_of_line(line, widest, nodes, tuple(_told(line, why))) for line in every]


def _of_line(line: Line, widest: int, nodes: frozenset[str], told: tuple[Told, ...]) -> Entry:
    main = line.main
    hidden = {measure: unseen(line, measure, nodes) for measure in MEASURES}
    seen = main.name not in nodes
    held = min(line.held, main.out_live)
    parts: list[tuple[PartKind, int]] = [
        ("live", main.out_live - held),
        ("held", held),
        ("dead", main.out - main.out_live),
    ]
    out, in_ = _of_all(main.out_live, main.out), _of_all(main.in_live, main.in_)

    def ratio(measure: Measure) -> Cell:
        share = share_of(line, measure)
        if not share.total:
            return Cell("", -1)
        return Cell(percent(share.ratio), share.ratio) if hidden[measure] < share.total else Cell("?", 2)

    def cost(measure: Measure) -> Cell:
        share = share_of(line, measure)
        return Cell(pair(share) if share.total else "", share.total)

    return Entry(
        path=_path(line),
        label=line.label,
        op=main.op,
        bar=UNKNOWN if not main.out else bar(parts if seen else [("unseen", main.out)], widest),
        width=out,
        ratio=ratio("params").text if line.params.total else ratio("flops").text,
        quiet=alive(line) and not held and seen,
        cells=(
            Cell(main.op, main.op),
            Cell(out, main.out),
            Cell(in_, main.in_),
            Cell(f"{line.held:,}" if line.held else "", line.held),
            *(cell for measure in MEASURES for cell in (cost(measure), ratio(measure))),
            _why(told),
        ),
        facts=(
            ("Output channels", _sentence(main.out_live, main.out, line.held)),
            ("Input channels", _sentence(main.in_live, main.in_, 0)),
            *((measure.capitalize(), _exact(line, measure, hidden[measure])) for measure in MEASURES),
        ),
        told=told,
    )


def of_rejuvenation(result: Rejuvenation) -> list[Entry]:
    """The layers of the network before, with what became of them."""
    every = lines(result.before.rows)
    why = {answer.layer: answer for answer in result.before.layers}
    widths_of, ops = widths(result), {row.name: row.op for row in result.after.rows}
    widest = max((max(of.old, of.new) for of in widths_of.values()), default=0)
    after = {measure: {row.name: getattr(row, measure) for row in result.after.rows} for measure in MEASURES}

    entries = []
    for line in every:
        new = {measure: sum(after[measure].get(row.name, 0) for row in line.rows) for measure in MEASURES}
        of = widths_of.get(line.main.name) or Widths(line.main.out, line.main.out_live, 0, 0, 0)
        entries.append(_rewritten(line, of, widest, ops.get(line.main.name, "gone"), new, tuple(_told(line, why))))
    return entries


def _rewritten(
    line: Line, of: Widths, widest: int, op: str, new: Mapping[Measure, int], told: tuple[Told, ...]
) -> Entry:
    parts: list[tuple[PartKind, int]] = [("live", of.kept), ("new", of.fresh), ("gone", max(of.old - of.kept, 0))]
    numbers = (of.old, of.live, of.new, of.kept, of.fresh)
    known = of.known or op == "gone"
    moved = f"{of.old} → {of.new}" if of.old != of.new else str(of.old or "?")
    return Entry(
        path=_path(line),
        label=line.label,
        op=op,
        bar=bar(parts, widest) if known else UNKNOWN,
        width=moved,
        ratio=f"+{of.fresh}" if of.fresh else "",
        quiet=of.old == of.new == of.kept,
        cells=(
            Cell(op, op),
            *(Cell(f"{number:,}" if number else "", number) for number in numbers),
            *(Cell(change(share_of(line, measure).total, new[measure]), new[measure]) for measure in MEASURES),
            _why(told),
        ),
        facts=(
            *(_moves(of) if known else [("Output channels", "not known")]),
            *(
                (measure.capitalize(), f"{share_of(line, measure).total:,} before; {new[measure]:,} after")
                for measure in MEASURES
            ),
        ),
        told=told,
    )


def _moves(of: Widths) -> Iterator[tuple[str, str]]:
    yield "Output channels", f"{of.old:,} before, {of.live:,} of them live; {of.new:,} after"
    yield "After", f"{of.kept:,} kept and {of.fresh:,} new"


def of_why(answer: Why) -> list[Told]:
    """What is said of a layer, or of each layer in a container."""
    inside = [Told(each.layer, each.op, tuple(paragraphs(each.parts)), each.note) for each in answer.layers]
    own = [Told(answer.layer, answer.op, tuple(paragraphs(answer.parts)), answer.note)]
    return [*(own if answer.parts or answer.note or not inside else []), *inside]


def _told(line: Line, why: dict[str, Why]) -> Iterator[Told]:
    """What is said of the layer, and of its norms what is not said of it already."""
    said: set[object] = set()
    rows = sorted(line.rows, key=lambda row: row is not line.main)
    for row in rows:
        answer = why.get(row.name)
        parts = () if answer is None else tuple(paragraphs(answer.parts))
        fresh = [part for part in parts if (part.state, part.reason) not in said]
        said.update((part.state, part.reason) for part in parts)
        if answer is not None and (fresh or answer.note):
            yield Told(row.name, row.op, parts if row is line.main else tuple(fresh), answer.note)
        elif row is line.main:
            yield Told(row.name, row.op, (), "No graph calls it by itself: it stays as it is.")


def _why(told: Sequence[Told]) -> Cell:
    """The states of the outputs, with reasons where they are told in no other column."""
    texts = [text for each in told for text in (each.note, *_states(each.paragraphs))]
    text = "; ".join(dict.fromkeys(filter(None, texts)))
    return Cell(text, text)


def _states(all_: Iterable[Paragraph]) -> Iterator[str]:
    for each in all_:
        if each.state is not None and each.axis != "in":
            yield WORDS[each.state] + (each.reason if each.state in ("pinned", "fixed", "frozen") else "")


def _path(line: Line) -> str:
    return "".join(f"{name}." for name in line.path)


def _of_all(live: int, total: int) -> str:
    return f"{total:,}" if total and live == total else f"{live:,}/{total:,}" if total else "?"


def _sentence(live: int, total: int, held: int) -> str:
    if not total:
        return "not known"
    kept = f"; {held:,} have a dead gamma here and are held" if held else ""
    return f"{live:,} of {total:,} live{kept}"


def _exact(line: Line, measure: Measure, hidden: int) -> str:
    share = share_of(line, measure)
    apart = f", {hidden:,} of them not understood" if hidden else ""
    return f"{share.live:,} of {share.total:,} live{apart} ({percent(share.ratio)})" if share.total else "none"
