"""Stacked bars: channels, or costs, in parts of one whole."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from typing import Literal

from nrfx.analysis.utilization import Share

PartKind = Literal["live", "held", "dead", "new", "gone", "unseen"]

WORDS: dict[PartKind, str] = {
    "live": "live", "held": "held", "dead": "dead", "new": "new", "gone": "gone", "unseen": "not understood",
}  # fmt: skip
MEANT: dict[PartKind, str] = {
    "live": "needed, and kept",
    "held": "gamma-dead, but kept for a reason that is told",
    "dead": "can go without a change of the function",
    "new": "put in by the rewrite",
    "gone": "taken out by the rewrite",
    "unseen": "what the analysis does not see into",
}


@dataclass(frozen=True)
class Part:
    """Some of the whole: how many, and the percentage that is drawn."""

    kind: PartKind
    number: int
    percent: float


@dataclass(frozen=True)
class Bar:
    """The parts of a whole, of which none is empty; `length` is the percentage of the room that the bar takes."""

    parts: tuple[Part, ...]
    length: float = 100.0

    @property
    def label(self) -> str:
        """The parts in words.

        >>> bar([("live", 5), ("held", 0), ("dead", 3)]).label
        '5 live, 3 dead'
        """
        return ", ".join(
            f"{part.number:,} {WORDS[part.kind]}" if part.number else WORDS[part.kind] for part in self.parts
        )


UNKNOWN = Bar((Part("unseen", 0, 100.0),), 12.0)
"""The bar of a layer whose width is not known."""


def bar(numbers: Iterable[tuple[PartKind, int]], widest: int | None = None) -> Bar:
    """The bar of these numbers.

    widest: the widest layer of the network. Lengths are as the square roots of widths, for some layers have a hundred
        times the channels of others; the parts of a bar are as their numbers.
    """
    kept = [(kind, number) for kind, number in numbers if number > 0]
    whole = sum(number for _, number in kept)
    parts = tuple(Part(kind, number, round(100 * number / whole, 2)) for kind, number in kept)
    return Bar(parts, 100.0 if widest is None else round(100 * sqrt(whole / widest), 1) if widest else 0.0)


def of_share(share: Share, unseen: int) -> Bar:
    """The bar of a cost, of whose live part some is not understood."""
    return bar([("live", share.live - unseen), ("unseen", unseen), ("dead", share.total - share.live)])
