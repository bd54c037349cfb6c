"""The learning rate: BL and NR each tuned on validation images, and what both do with their own on test images."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import mean

from benchmarks.study.fashion.choices import CHOSEN, FEW_SEEDS, chosen, unseen
from benchmarks.study.fashion.plan import OF_FAMILY, Line, Task
from benchmarks.study.fashion.tables import events_of, paired, reach, told
from benchmarks.study.intervals import interval

RATES = (0.05, 0.1, 0.2, 0.4)
ROWS = ("BL", "NR")
BUDGET = "params"


def rate_tasks(family: str) -> dict[tuple[str, float, int], Task]:
    """BL and NR, as the study has them, of a family with each learning rate, by row, rate and seed; no test images."""
    return {
        (row, lr, seed): unseen(family, row, BUDGET, seed, lr=lr, **({} if row == "BL" else CHOSEN))
        for seed in FEW_SEEDS
        for lr in RATES
        for row in ROWS
    }


RATE_HEADINGS = ("network", "row", *(f"learning rate {rate:g}" for rate in RATES))


def rate_rows(tried: Iterable[Line]) -> Iterator[tuple[str, ...]]:
    """The validation error of BL and NR with each learning rate, the least in bold."""
    known = [*tried]
    for family in OF_FAMILY:
        for row, errors in _errors(known, family).items():
            least = _least(errors)
            texts = {lr: _told([*of.values()]) for lr, of in errors.items()}
            yield family, row, *(f"**{text}**" if lr == least else text for lr, text in texts.items())


def tuned(tried: Iterable[Line], family: str) -> dict[str, float]:
    """Row -> the learning rate of the least mean validation error; of rows that were run with all rates from two seeds
    or more, over the seeds that all rates have."""
    return {row: _least(errors) for row, errors in _errors(tried, family).items() if len(_shared(errors)) > 1}


def tuned_tasks(tried: Iterable[Line], family: str, seeds: Iterable[int]) -> list[Task]:
    """BL and NR of the study, each with its own learning rate; none where one of them is not tuned."""
    own = tuned(tried, family)
    return _both(family, seeds, own) if own.keys() == {*ROWS} else []


TUNED_HEADINGS = (
    *("network", "learning rate: BL", "NR", "seeds", "test error, %: BL", "NR", "NR minus BL", "corrected"),
    *("NR minus BL, same seeds, both with the rate of all rows", "event at step"),
)


def tuned_rows(tried: Sequence[Line], found: Iterable[Line], seeds: Sequence[int]) -> Iterator[tuple[str, ...]]:
    """A line for each network whose BL and NR were run with their own learning rates, beside both with one for all.

    `found`: the lines of the study and of runs with own rates.
    """
    known = {line.key: line for line in found}
    tables = {family: _runs(known, tuned_tasks(tried, family, seeds)) for family in OF_FAMILY}
    whole = {family: runs for family, runs in tables.items() if paired(runs["NR"], runs["BL"], "test")}
    for family, runs in whole.items():
        both = sorted(runs["NR"].keys() & runs["BL"].keys())
        rates, alike = tuned(tried, family), _runs(known, _both(family, both, {}))
        yield (
            *(family, *(f"{rates[row]:g}" for row in ROWS), str(len(both))),
            *(str(interval([line.test for line in runs[row].values() if line.test is not None])) for row in ROWS),
            told(paired(runs["NR"], runs["BL"], "test")),
            reach(paired(runs["NR"], runs["BL"], "test", len(whole))),
            told(paired(alike["NR"], alike["BL"], "test")),
            events_of(runs["NR"]),
        )


def _both(family: str, seeds: Iterable[int], rates: Mapping[str, float]) -> list[Task]:
    """BL and NR of the study, with these learning rates."""
    settings = {row: chosen(family, BUDGET, row) for row in ROWS}
    return [
        Task(family, row, BUDGET, seed, replace(own, lr=rates.get(row, own.lr)))
        for seed in seeds
        for row, own in settings.items()
    ]


def _runs(known: Mapping[str, Line], tasks: Iterable[Task]) -> dict[str, dict[int, Line]]:
    """The lines that there are of the tasks, by row and seed."""
    runs: dict[str, dict[int, Line]] = {row: {} for row in ROWS}
    for task in tasks:
        if task.key in known:
            runs[task.row][task.seed] = known[task.key]
    return runs


def _errors(tried: Iterable[Line], family: str) -> dict[str, Mapping[float, Mapping[int, float]]]:
    """Row -> learning rate -> seed -> the validation error; of rows that were run with all rates from some seed."""
    known = {line.key: line for line in tried}
    found = {place: known[task.key] for place, task in rate_tasks(family).items() if task.key in known}
    of_row = {
        row: {
            lr: {seed: line.validation for (name, rate, seed), line in found.items() if (name, rate) == (row, lr)}
            for lr in RATES
        }
        for row in ROWS
    }
    return {row: errors for row, errors in of_row.items() if _shared(errors)}


def _shared(errors: Mapping[float, Mapping[int, float]]) -> set[int]:
    """The seeds that all rates have."""
    return set.intersection(*({*of} for of in errors.values()))


def _least(errors: Mapping[float, Mapping[int, float]]) -> float:
    seeds = _shared(errors)
    return min(errors, key=lambda lr: mean(errors[lr][seed] for seed in seeds))


def _told(errors: Sequence[float]) -> str:
    return str(interval(errors)) if len(errors) > 1 else f"{errors[0]:.2f}"
