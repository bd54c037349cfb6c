"""The tables of what was tried before the study, on validation images alone."""

from collections.abc import Iterable, Iterator, Mapping
from statistics import mean

from benchmarks.study.fashion.choices import (
    GENTLER,
    GENTLER_ON,
    NAMED_ON,
    VARIANTS,
    gentler_tasks,
    named_tasks,
    tasks,
)
from benchmarks.study.fashion.plan import Line, Task
from benchmarks.study.fashion.tables import HELD, events_of, harm_of, mean_harm, paired, told
from benchmarks.study.intervals import interval

CHOICE_HEADINGS = (
    *("variant", "seeds", "validation error, %", "minus its row", "minus what it adds to", "minus BL"),
    "behind BL held at worst",
    *("event at step", "r", "alpha"),
)


def choice_rows(lines: Iterable[Line]) -> Iterator[tuple[str, ...]]:
    """A line for each variant that was tried, with 95 % intervals, and means over its events."""
    runs = _found(lines, tasks())
    for name, (row, _) in VARIANTS.items():
        own = runs.get(name, {})
        if len(own) < 2:
            continue
        events = [line for line in own.values() if line.event]
        yield (
            name,
            str(len(own)),
            str(interval([line.validation for line in own.values()])),
            "" if name == row else told(paired(own, runs[row], "validation")),
            "" if added_to(name) in ("", row) else told(paired(own, runs[added_to(name)], "validation")),
            "" if name == "BL" else told(paired(own, runs["BL"], "validation")),
            "" if name in ("BL", HELD) else harm_of(own, runs.get(HELD, {})),
            events_of(own),
            f"{mean(line.r for line in events):.2f}" if events else "",
            f"{mean(line.alpha for line in events):.2f}" if events else "",
        )


def added_to(name: str) -> str:
    """The variant that another one adds a setting to; "" of a row as it is.

    >>> added_to("NR, proximal, weighted by params"), added_to("NR")
    ('NR, proximal', '')
    """
    return name.rpartition(", ")[0]


GENTLER_HEADINGS = (
    *("network", "budget", "NR", "seeds", "validation error, %", "minus BL held"),
    *("behind it at worst: one seed", "mean of seeds", "event at step"),
)


def gentler_rows(lines: Iterable[Line]) -> Iterator[tuple[str, ...]]:
    """A line for each way to search, and for BL held, on each network."""
    known = [*lines]
    for family, budget in GENTLER_ON:
        runs = _found(known, gentler_tasks(family, budget))
        for name in (HELD, *GENTLER):
            own = runs.get(name, {})
            if len(own) < 2:
                continue
            plain = runs.get(HELD, {})
            yield (
                *(family, budget, name, str(len(own)), str(interval([line.validation for line in own.values()]))),
                *(("", "", "") if name == HELD else _against(own, plain)),
                events_of(own),
            )


def _against(own: Mapping[int, Line], plain: Mapping[int, Line]) -> tuple[str, str, str]:
    return told(paired(own, plain, "validation")), harm_of(own, plain), f"{mean_harm(own, plain):.1f}"


NAMED_HEADINGS = ("network", "budget", "seeds", "BL, validation error, %", "NR minus BL", "event at step")


def named_rows(lines: Iterable[Line]) -> Iterator[tuple[str, ...]]:
    """A line for each network of which it was to be seen whether NR has something to win there."""
    known = [*lines]
    for family, budget in NAMED_ON:
        runs = _found(known, named_tasks(family, budget))
        plain, own = runs.get("BL", {}), runs.get("NR", {})
        shared = plain.keys() & own.keys()
        if shared:
            yield (
                *(family, budget, str(len(shared))),
                f"{mean(plain[seed].validation for seed in shared):.2f}",
                told(paired(own, plain, "validation")) or _one(own, plain),
                events_of(own),
            )


def _one(own: Mapping[int, Line], plain: Mapping[int, Line]) -> str:
    """The difference of the only seed."""
    (seed,) = own.keys() & plain.keys()
    return f"{own[seed].validation - plain[seed].validation:.2f}"


def _found(lines: Iterable[Line], wanted: Mapping[tuple[str, int], Task]) -> dict[str, dict[int, Line]]:
    """The lines that there are of the runs, by name and seed."""
    known = {line.key: line for line in lines}
    runs: dict[str, dict[int, Line]] = {}
    for (name, seed), task in wanted.items():
        if task.key in known:
            runs.setdefault(name, {})[seed] = known[task.key]
    return runs
