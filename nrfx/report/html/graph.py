"""The picture of a network: its stops as rows with lanes, a norm in the row of the layer that feeds it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nrfx.analysis.stops import Stop
from nrfx.report.html.lanes import Layout, layout
from nrfx.report.layer_tree import Line


@dataclass(frozen=True)
class Place:
    """A row of the picture.

    Attributes:
        stop: what it shows.
        line: the index of the layer's line, None for what is no layer.
        x, y: pixels.
        reads: the names of its sources, for those who do not see the lines.
    """

    stop: Stop
    line: int | None
    x: int
    y: int
    reads: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """The rows from top to bottom, and the lines between them."""

    places: tuple[Place, ...]
    layout: Layout


def graph(stops: Sequence[Stop], lines: Sequence[Line]) -> Graph:
    """The picture of these stops, whose layers stand in these lines."""
    line_of = {row.name: index for index, line in enumerate(lines) for row in line.rows}
    folded = _folded(stops, line_of)
    drawn = layout([stop.sources for stop in folded])
    names = [_name(stop, line_of, lines) for stop in folded]
    return Graph(
        tuple(
            Place(stop, _line(stop, line_of), *drawn.place(row), tuple(names[source] for source in stop.sources))
            for row, stop in enumerate(folded)
        ),
        drawn,
    )


def _line(stop: Stop, line_of: Mapping[str, int]) -> int | None:
    return next((line_of[name] for name in stop.layers if name in line_of), None)


def _name(stop: Stop, line_of: Mapping[str, int], lines: Sequence[Line]) -> str:
    line = _line(stop, line_of)
    return stop.name if line is None else lines[line].name


def _folded(stops: Sequence[Stop], line_of: Mapping[str, int]) -> list[Stop]:
    """The stops, without those that alone read a stop of their own line and nothing else: they become one with it."""
    readers: dict[int, int] = {}
    for stop in stops:
        for source in stop.sources:
            readers[source] = readers.get(source, 0) + 1
    became: list[int] = []  # stop -> its index among the folded ones
    folded: list[Stop] = []
    for stop in stops:
        line = _line(stop, line_of)
        before = stop.sources[0] if len(stop.sources) == 1 else -1
        alone = before >= 0 and readers[before] == 1 and line is not None
        if alone and line == _line(stops[before], line_of) and not {*stop.layers} & {*folded[became[before]].layers}:
            at = became[before]
            folded[at] = replace(folded[at], layers=(*folded[at].layers, *stop.layers))
            became.append(at)
        else:
            sources = tuple(dict.fromkeys(became[source] for source in stop.sources))
            became.append(len(folded))
            folded.append(replace(stop, sources=sources))
    return folded
