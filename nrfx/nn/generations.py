"""Generations of channels as tuples: how many channels each has, and in which runs they lie along an axis.

A run is (generation, width): that many neighbouring channels of one generation. Every function here checks what a user
gave and returns it in one form, so that the layers compare and print equal where they mean the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from nrfx.errors import RewriteError

Runs = tuple[tuple[int, int], ...]
Pieces = tuple[tuple[int, int], ...]

SCHEMES = ("attention", "removed")


def checked_widths(widths: Sequence[int], name: str) -> tuple[int, ...]:
    """The channel counts of the generations, as a tuple."""
    if not all(isinstance(width, int) and width >= 0 for width in widths) or sum(widths) == 0:
        raise RewriteError(
            f"{name}={widths!r}: give one channel count per generation, integers >= 0 that are not all 0."
        )
    return tuple(widths)


def check_lengths(in_generations: tuple[int, ...], out_generations: tuple[int, ...]) -> None:
    """Refuses generations that are not counted alike on both sides."""
    if len(in_generations) != len(out_generations):
        raise RewriteError(
            f"in_generations {in_generations} has {len(in_generations)} entries and out_generations "
            f"{out_generations} has {len(out_generations)}: pad the shorter one with zeros for "
            "generations that are absent there."
        )


def checked_scheme(scheme: str) -> str:
    """The scheme, which is one of SCHEMES."""
    if scheme not in SCHEMES:
        raise RewriteError(
            f"scheme={scheme!r}: a cross layer has one of the schemes {SCHEMES}; 'dense' is nn's own layer."
        )
    return scheme


def checked_runs(in_runs: Iterable[Sequence[int]] | None, in_generations: tuple[int, ...]) -> Runs:
    """The runs without empty ones, neighbours of one generation merged; None: each generation is one run, in order."""
    given = enumerate(in_generations) if in_runs is None else [_pair(run) for run in in_runs]
    merged: list[tuple[int, int]] = []
    for generation, width in given:
        if merged and merged[-1][0] == generation:
            merged[-1] = (generation, merged[-1][1] + width)
        elif width:
            merged.append((generation, width))
    counted = Counter[int]()
    for generation, width in merged:
        counted[generation] += width
    totals = tuple(counted[generation] for generation in range(len(in_generations)))
    if totals != in_generations or sum(totals) != sum(width for _, width in merged):
        raise RewriteError(
            f"in_runs {tuple(merged)} holds {totals} channels per generation, but in_generations is "
            f"{in_generations}: every input channel must lie in exactly one run."
        )
    return tuple(merged)


def _pair(run: Sequence[int]) -> tuple[int, int]:
    values = tuple(run)
    if len(values) != 2 or not all(isinstance(value, int) and value >= 0 for value in values):
        raise RewriteError(f"in_runs holds {values}: a run is a pair (generation, width) of integers >= 0.")
    return values[0], values[1]


def checked_present(
    present: Iterable[Sequence[int]] | None, scheme: str, generations: int
) -> tuple[tuple[int, ...], ...]:
    """The input generations that each output generation reads, ascending."""
    if scheme == "attention":
        if present is not None:
            raise RewriteError('present is for scheme="removed"; under "attention" every block is present.')
        return (tuple(range(generations)),) * generations
    if present is None:
        return tuple((i,) for i in range(generations))
    rows = tuple(tuple(sorted(set(reads))) for reads in present)
    if len(rows) != generations or any(j not in range(generations) for reads in rows for j in reads):
        raise RewriteError(
            f"present={rows} must name, for each of the {generations} output generations, the input "
            f"generations that it reads, each between 0 and {generations - 1}."
        )
    return rows


def pieces(runs: Runs, generations: set[int]) -> Pieces:
    """Where the channels of these generations lie: (start, width), neighbours merged.

    >>> pieces(((0, 30), (1, 10), (2, 5), (0, 20)), {0, 1})
    ((0, 40), (45, 20))
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for generation, width in runs:
        if generation in generations:
            touches = spans and sum(spans[-1]) == start
            spans[-1:] = [(spans[-1][0], spans[-1][1] + width)] if touches else [*spans[-1:], (start, width)]
        start += width
    return tuple(spans)
