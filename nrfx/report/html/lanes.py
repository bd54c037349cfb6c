"""The layout of a network as lanes, and the lines that are drawn between its rows.

Each stop has a row of its own, in the order of the data, and a lane, as a commit has in the history of a repository.
A stop takes the lane of a source that nothing below reads any more; so a residual stream runs straight down, and the
blocks beside it branch off and come back. A line leaves its lane only in the row above its end: no line crosses a stop
to which it does not belong.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

PITCH, HEIGHT, MARGIN = 15, 34, 12
"""Pixels: from lane to lane, from row to row, and from the edge to the first lane."""


@dataclass(frozen=True)
class Layout:
    """The lane of each stop, and the pairs (source, stop) that are joined by a line."""

    lanes: tuple[int, ...]
    edges: tuple[tuple[int, int], ...]

    @property
    def width(self) -> int:
        """Pixels from the first to the last lane, with a margin on both sides."""
        return 2 * MARGIN + PITCH * max(self.lanes, default=0)

    @property
    def height(self) -> int:
        """Pixels of all rows."""
        return HEIGHT * len(self.lanes)

    def place(self, row: int) -> tuple[int, int]:
        """The pixels of a stop: x, y."""
        return MARGIN + PITCH * self.lanes[row], HEIGHT * row + HEIGHT // 2

    def paths(self) -> list[str]:
        """The lines as paths of SVG: down the lane of the source, then over to that of the stop."""
        return [self._path(source, row) for source, row in self.edges]

    def _path(self, source: int, row: int) -> str:
        (x, y), (to, end) = self.place(source), self.place(row)
        if x == to:
            return f"M{x} {y}V{end}"
        down = f"V{end - HEIGHT}" if row > source + 1 else ""
        return f"M{x} {y}{down}C{x} {end - HEIGHT // 2} {to} {end - HEIGHT // 2} {to} {end}"


def layout(sources: Sequence[Sequence[int]]) -> Layout:
    """The layout of stops of which each reads some that come before it.

    >>> layout([(), (0,), (1, 0)]).lanes
    (0, 1, 0)
    """
    last = {source: row for row, read in enumerate(sources) for source in read}
    lanes: list[int] = []
    free, made = list[int](), 0
    for row, read in enumerate(sources):
        ending = sorted({lanes[source] for source in read if last[source] == row})
        if ending:
            lane, *released = ending
        elif free:
            lane, released = heapq.heappop(free), []
        else:
            lane, released = made, []
            made += 1
        lanes.append(lane)
        for each in (*released, *([lane] if row not in last else [])):
            heapq.heappush(free, each)
    return Layout(
        tuple(lanes), tuple((source, row) for row, read in enumerate(sources) for source in dict.fromkeys(read))
    )
