"""The tables of docs/results.md, from the lines of runs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import mean

from benchmarks.study.fashion.loop import EVERY
from benchmarks.study.fashion.plan import NONE_SPARED, Line, points_of
from benchmarks.study.fashion.searches import SOON
from benchmarks.study.intervals import Interval, interval

NEAR = 100
"""Steps behind an event that count as near it."""

HELD = "BL held"
"""The row that tells what a search costs on the way: without one, at its learning rate."""

ANEW = ("NR-FS", "NR-FS all steps", "MorphNet", "random widths", "two towers")
"""Rows whose weights start anew, so that there is nothing to keep on the way."""

Runs = Mapping[str, Mapping[int, Line]]
"""Name of a row -> seed -> its line."""


def by_row(lines: Iterable[Line]) -> dict[str, dict[int, Line]]:
    """The lines of one family and budget by row and seed."""
    table: dict[str, dict[int, Line]] = {}
    for line in lines:
        table.setdefault(line.row, {})[line.seed] = line
    return table


def paired(one: Mapping[int, Line], other: Mapping[int, Line], measure: str, comparisons: int = 1) -> Interval | None:
    """The interval of the difference of an error over the seeds that both have; None for fewer than two."""
    seeds = sorted(one.keys() & other.keys())
    if len(seeds) < 2:
        return None
    return interval([getattr(one[seed], measure) - getattr(other[seed], measure) for seed in seeds], comparisons)


def harm(line: Line, plain: Line) -> float:
    """How far the weights were behind those of plain training at the same step, at worst, in points of error.

    `plain` is trained at the same learning rate: that of "BL held". From the start to 100 steps behind the event, or
    over the whole run where there was none.
    """
    last = line.event + NEAR if line.event else line.steps
    return max(_behind(line, plain, (step for step, _, _ in points_of(line.curve) if step <= last)), default=0.0)


def mean_harm(runs: Mapping[int, Line], plain: Mapping[int, Line]) -> float:
    """How far the mean of the seeds was behind that of plain training, at worst, in points of error.

    Looked at are every hundredth step up to the event, the event itself and the steps behind it that are scored in
    every run, wherever at least three seeds (or all, of fewer) have got to.
    """
    found: dict[tuple[str, int], list[float]] = {}
    for seed, line in runs.items():
        if seed not in plain:
            continue
        steps = [step for step, _, _ in points_of(line.curve)]
        searched = {("step", step): step for step in steps if step % NEAR == 0 and step <= (line.event or line.steps)}
        behind = {("behind", after): line.event + after for after in (0, *SOON, NEAR)} if line.event else {}
        places = searched | behind
        for place, value in zip(places, _behind(line, plain[seed], places.values()), strict=True):
            found.setdefault(place, []).append(value)
    return max((mean(values) for values in found.values() if len(values) >= min(3, len(runs))), default=0.0)


def at_common_scores(line: Line, plain: Line, last: int) -> list[float]:
    """How far a run is behind another one at each of the steps up to `last` at which all runs are scored."""
    own, reference = (
        {step: error for step, mark, error in points_of(each.curve) if not mark and step % EVERY == 0}
        for each in (line, plain)
    )
    return [error - reference[step] for step, error in own.items() if step in reference and step <= last]


def chance(plain: Mapping[int, Line], runs: Mapping[int, Line]) -> float | None:
    """What `harm` finds between plain runs alone: each against that of the next seed, over as many steps as `runs`."""
    seeds = sorted(plain.keys() & runs.keys())
    if len(seeds) < 2:
        return None
    pairs = zip(seeds, seeds[1:] + seeds[:1], strict=True)
    return max(harm(replace(plain[one], event=runs[one].event), plain[other]) for one, other in pairs)


def _behind(line: Line, plain: Line, steps: Iterable[int]) -> Iterator[float]:
    """The error of a run minus that of plain training, at each of the steps."""
    own = [(step, error) for step, _, error in points_of(line.curve)]
    reference = [(step, error) for step, _, error in points_of(plain.curve)]
    return (_between(own, step) - _between(reference, step) for step in steps)


def _between(points: Sequence[tuple[int, float]], step: int) -> float:
    """The error at a step, along the straight line between its neighbours."""
    before = max((point for point in points if point[0] <= step), default=points[0])
    after = min((point for point in points if point[0] >= step), default=points[-1])
    if before[0] >= after[0]:
        return before[1]
    return before[1] + (after[1] - before[1]) * (step - before[0]) / (after[0] - before[0])


HEADINGS = (
    *("row", "seeds", "params", "flops", "steps", "test error, %", "minus BL", "corrected", "validation, minus BL"),
    *("behind BL held at worst: one seed", "mean of seeds", "event at step"),
)


def rows(runs: Runs) -> Iterator[tuple[str, ...]]:
    """A line for each row: means, 95 % intervals of the differences to BL, and the same for all comparisons at once."""
    comparisons = len(runs) - 1
    for name, own in runs.items():
        if len(own) < 2:
            continue
        plain = name == "BL" or "BL" not in runs
        test = [line.test for line in own.values() if line.test is not None]
        yield (
            name,
            str(len(own)),
            f"{mean(line.params for line in own.values()):,.0f}",
            f"{mean(line.flops for line in own.values()):,.0f}",
            f"{mean(line.steps for line in own.values()):,.0f}",
            str(interval(test)),
            "" if plain else told(paired(own, runs["BL"], "test")),
            "" if plain else reach(paired(own, runs["BL"], "test", comparisons)),
            "" if plain else told(paired(own, runs["BL"], "validation")),
            *(("", "") if plain or name in ANEW else _harms(name, own, runs)),
            "" if plain else events_of(own),
        )


SPARED_HEADINGS = (
    *("network", "budget", "row", "seeds", "behind BL held at worst, mean of seeds: all alike", "large spared"),
    *("one seed: all alike", "large spared", "test, minus BL: all alike", "large spared", "event at step: all alike"),
    "large spared",
)


def spared_rows(runs: Runs) -> Iterator[tuple[str, ...]]:
    """A line for each row trained with all gammas pulled alike and with large ones spared, of the same seeds."""
    plain, held = runs.get("BL", {}), runs.get(HELD, {})
    for name, spared in runs.items():
        alike = runs.get(name + NONE_SPARED, {})
        seeds = spared.keys() & alike.keys() & held.keys()
        if len(seeds) < 2 or name in ANEW:
            continue
        both = [{seed: own[seed] for seed in sorted(seeds)} for own in (alike, spared)]
        yield (
            *(name, str(len(seeds)), *(f"{mean_harm(own, held):.1f}" for own in both)),
            *(harm_of(own, held) for own in both),
            *(told(paired(own, plain, "test")) for own in both),
            *(events_of(own) for own in both),
        )


def _harms(name: str, own: Mapping[int, Line], runs: Runs) -> tuple[str, str]:
    """The worst of one seed, and of the mean of the seeds; of BL held itself, what two seeds of it are apart."""
    if name == HELD:
        apart = chance(own, runs.get("NR", {}))
        return "" if apart is None else f"({apart:.1f})", ""
    plain = runs.get(HELD, {})
    return harm_of(own, plain), f"{mean_harm(own, plain):.1f}" if own.keys() & plain.keys() else ""


def harm_of(own: Mapping[int, Line], plain: Mapping[int, Line]) -> str:
    values = [harm(line, plain[seed]) for seed, line in own.items() if seed in plain]
    return f"{max(values):.1f}" if values else ""


def events_of(own: Mapping[int, Line]) -> str:
    events = [line.event for line in own.values() if line.event]
    if not events:
        return ""
    missing = f" ({len(events)} of {len(own)})" if len(events) < len(own) else ""
    several = mean(line.events for line in own.values())
    return f"{mean(events):,.0f}{missing}" + (f", the last of {several:.1f}" if several > 1 else "")


def told(difference: Interval | None) -> str:
    """The interval, in bold where 0 lies outside of it."""
    if difference is None:
        return ""
    return f"**{difference}**" if difference.apart else str(difference)


def reach(difference: Interval | None) -> str:
    """How far the interval reaches to either side, in bold where 0 lies outside of it."""
    if difference is None:
        return ""
    return f"**± {difference.reach:.2f}**" if difference.apart else f"± {difference.reach:.2f}"
