"""The tree of a network's layers by module path, as reports show it.

line     a layer with its norm folded in (conv1+bn1): widths of the layer, params and flops of both
group    a module that holds several lines, with their sum
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from nrfx.analysis.rows import Row
from nrfx.analysis.utilization import Share


@dataclass(frozen=True)
class Line:
    """A layer and the norms folded into it. `path` is the module path of what holds it, `label` their own names."""

    path: tuple[str, ...]
    label: str
    rows: tuple[Row, ...]
    main: Row

    @property
    def name(self) -> str:
        """The full module path."""
        return ".".join((*self.path, self.label))

    @property
    def lines(self) -> "tuple[Line, ...]":
        """The line itself: a group has the lines in it here."""
        return (self,)

    @property
    def params(self) -> Share:
        """The params of all rows."""
        return Share(sum(row.params_live for row in self.rows), sum(row.params for row in self.rows))

    @property
    def flops(self) -> Share:
        """The flops of all rows."""
        return Share(sum(row.flops_live for row in self.rows), sum(row.flops for row in self.rows))

    @property
    def held(self) -> int:
        """Gamma-dead channels that are kept: by the norm after the layer, or else at the layer's output."""
        return self.rows[-1].held


@dataclass(frozen=True)
class Group:
    """A module that holds several lines. `label` is its path relative to the group around it."""

    label: str
    lines: tuple[Line, ...]
    children: "tuple[Group | Line, ...]"

    @property
    def params(self) -> Share:
        """The sum over the lines."""
        return _sum(line.params for line in self.lines)

    @property
    def flops(self) -> Share:
        """The sum over the lines."""
        return _sum(line.flops for line in self.lines)


@dataclass(frozen=True)
class Placed:
    """A group or a line at its depth in the tree, with the label that it has there."""

    label: str
    depth: int
    item: Group | Line


def lines(rows: Iterable[Row]) -> tuple[Line, ...]:
    """The rows, each norm folded into the layer that feeds it, or else into the one after it, within one module."""
    folded: list[list[Row]] = []
    for row in rows:
        if folded and _belongs(row, folded[-1]):
            folded[-1].append(row)
        else:
            folded.append([row])
    return tuple(_line(tuple(members)) for members in folded)


def outline(all_lines: Sequence[Line]) -> tuple[Placed, ...]:
    """The tree of the lines from top to bottom, in the order in which the network reaches them."""
    return tuple(_placed(_nodes([(line.path, line) for line in all_lines]), 0))


def _belongs(row: Row, before: Sequence[Row]) -> bool:
    last = before[-1]
    fits = row.in_ == last.out or not last.out  # a layer that is not understood has no width
    if _parent(row) != _parent(last) or not fits or not (row.name and last.name):
        return False
    return not _is_norm(last) if _is_norm(row) else _is_norm(last) and len(before) == 1


def _line(rows: tuple[Row, ...]) -> Line:
    label = "+".join(row.name.rpartition(".")[2] for row in rows)
    return Line(_parent(rows[0]), label or "(own)", rows, next((row for row in rows if not _is_norm(row)), rows[0]))


def _is_norm(row: Row) -> bool:
    return "Norm" in row.op


def _parent(row: Row) -> tuple[str, ...]:
    parent = row.name.rpartition(".")[0]
    return tuple(parent.split(".")) if parent else ()


def _sum(shares: Iterable[Share]) -> Share:
    parts = tuple(shares)
    return Share(sum(part.live for part in parts), sum(part.total for part in parts))


Member = tuple[tuple[str, ...], Line]
"""A line, and the path from here to it."""


def _nodes(members: Sequence[Member]) -> tuple[Group | Line, ...]:
    groups: dict[str | Line, list[Member]] = {}
    for path, line in members:
        groups.setdefault(path[0] if path else line, []).append((path, line))
    return tuple(_node(group) for group in groups.values())


def _node(members: Sequence[Member]) -> Group | Line:
    """The members as one node: a single line under its whole path, else a group under the path that all share."""
    if len(members) == 1:
        path, line = members[0]
        return Line((), ".".join((*path, line.label)), line.rows, line.main)
    shared = _shared([path for path, _ in members])
    inside = [(path[shared:], line) for path, line in members]
    return Group(".".join(members[0][0][:shared]), tuple(line for _, line in members), _nodes(inside))


def _shared(paths: Sequence[tuple[str, ...]]) -> int:
    """How many segments all paths begin with."""
    columns = list(zip(*paths, strict=False))
    return next((index for index, column in enumerate(columns) if len(set(column)) > 1), len(columns))


def _placed(nodes: Iterable[Group | Line], depth: int) -> Iterator[Placed]:
    for node in nodes:
        yield Placed(node.label, depth, node)
        if isinstance(node, Group):
            yield from _placed(node.children, depth + 1)
