"""The one row that was named before any of its runs, NR, against plain training on all networks and budgets at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from benchmarks.study.fashion.loop import EVERY
from benchmarks.study.fashion.plan import Line
from benchmarks.study.fashion.tables import HELD, NEAR, Runs, at_common_scores, harm, mean_harm, paired, told
from benchmarks.study.intervals import CONFIDENCE, holm, p_value

NAMED = "NR"
"""What the choices were made for, on another network: so it is no row that was picked for what came out."""

NOT_ON_THE_WAY = ("NR-FS", "NR-FS all steps", "NR as in the paper")
"""Rows that start anew behind an event, or search as the paper does."""

LIMIT = 3.0
"""Points of error behind plain training of the same step that are far."""

HEADINGS = ("network", "budget", "seeds", "NR minus BL, test", "p", "p, of all (Holm)", "NR minus BL held, test", "")


@dataclass(frozen=True)
class Against:
    """NR against BL of one network and budget, and what is left of it among all of them."""

    family: str
    budget: str
    runs: Runs
    p: float
    corrected: float

    @property
    def better(self) -> bool:
        """Whether NR is better, all comparisons considered."""
        return self._apart and self._mean < 0

    @property
    def worse(self) -> bool:
        """Whether it is worse."""
        return self._apart and self._mean > 0

    @property
    def _apart(self) -> bool:
        return self.corrected <= 1 - CONFIDENCE

    @property
    def _mean(self) -> float:
        found = paired(self.runs[NAMED], self.runs["BL"], "test")
        assert found is not None
        return found.mean

    def line(self) -> tuple[str, ...]:
        """Its line of the table."""
        own, plain = self.runs[NAMED], self.runs["BL"]
        return (
            *(self.family, self.budget, str(len(own.keys() & plain.keys())), told(paired(own, plain, "test"))),
            *(_small(self.p), _small(self.corrected), told(paired(own, self.runs.get(HELD, {}), "test"))),
            "**better**" if self.better else "**worse**" if self.worse else "",
        )


def everywhere(tables: Mapping[tuple[str, str], Runs]) -> list[Against]:
    """NR against BL, wherever both have two seeds. `tables`: (family, budget) -> its runs."""
    found = {place: runs for place, runs in tables.items() if len(_differences(runs)) > 1}
    p_values = [p_value(_differences(runs)) for runs in found.values()]
    return [
        Against(family, budget, runs, p, corrected)
        for ((family, budget), runs), p, corrected in zip(found.items(), p_values, holm(p_values), strict=True)
    ]


@dataclass(frozen=True)
class Behind:
    """How far behind plain training the rows with one event were on the way, all networks, budgets and rows together.

    The attributes from `mean` on are of NR's runs with an event alone, and of every EVERY-th step of a search and of
    the NEAR steps behind its event, where all runs are scored: what is looked at more often is further behind at worst.

    Attributes:
        worst: of the means of seeds, in points of error.
        further, runs: single runs that were further behind plain training of their seed than LIMIT at some score; of
            how many.
        mean: how far behind plain training of their seed, in the mean of these scores, in points of error.
        same, known: runs that were further behind it than LIMIT; of how many.
        other, apart, pairs: how many runs of NR, and how many plain ones, were further behind plain training of another
            seed, over the steps of a search; of how many pairs of seeds.
    """

    worst: float
    further: int
    runs: int
    mean: float
    same: int
    known: int
    other: int
    apart: int
    pairs: int

    def __str__(self) -> str:
        known, pairs = max(self.known, 1), max(self.pairs, 1)
        return (
            f"Of single runs {self.further} of {self.runs} ({self.further / max(self.runs, 1):.0%}) were more than "
            f"{LIMIT:g} points behind plain training of the same seed at some score. Much of that is chance. Over "
            f"every {EVERY}th step of a search and the {NEAR} steps behind its event, where all runs are scored, NR "
            f"with an event is {self.mean:.1f} points behind in the mean, and "
            f"{self.same} of {self.known} of these runs ({self.same / known:.0%}) ever more than {LIMIT:g}. "
            "At these steps plain runs were as far behind plain training of *another* seed in "
            f"{self.apart / pairs:.0%} of {self.pairs} pairs of seeds, and runs of NR in {self.other / pairs:.0%}."
        )


def behind(tables: Mapping[tuple[str, str], Runs]) -> Behind:
    """How far behind plain training the rows with one event were, in these tables: (family, budget) -> its runs."""
    worst, single = 0.0, list[float]()
    own_seed, others, chance = (list[Sequence[float]]() for _ in range(3))
    for runs in tables.values():
        plain: Mapping[int, Line] = runs.get(HELD, {})
        for row, own in runs.items():
            once = {seed: line for seed, line in own.items() if line.events == 1 and seed in plain}
            if row.startswith(NAMED) and row not in NOT_ON_THE_WAY and len(once) > 1:
                worst = max(worst, mean_harm(once, plain))
                single += [harm(line, plain[seed]) for seed, line in once.items()]
        searched = {seed: line for seed, line in runs.get(NAMED, {}).items() if seed in plain and line.event}
        for seed, line in searched.items():
            last = line.event + NEAR
            own_seed.append(at_common_scores(line, plain[seed], last))
            for other in searched.keys() - {seed}:
                others.append(at_common_scores(line, plain[other], last))
                chance.append(at_common_scores(plain[seed], plain[other], last))
    scores = [score for run in own_seed for score in run]
    same, far, apart = (sum(max(run, default=0.0) > LIMIT for run in runs) for runs in (own_seed, others, chance))
    return Behind(
        worst=worst,
        further=sum(each > LIMIT for each in single),
        runs=len(single),
        mean=mean(scores) if scores else 0.0,
        same=same,
        known=len(own_seed),
        other=far,
        apart=apart,
        pairs=len(chance),
    )


def since(runs: Runs, first: int) -> Runs:
    """The runs of the seeds from `first` on."""
    return {row: {seed: line for seed, line in own.items() if seed >= first} for row, own in runs.items()}


def _differences(runs: Runs) -> list[float]:
    """NR minus BL of the seeds that both have."""
    own, plain = runs.get(NAMED, {}), runs.get("BL", {})
    both = [(own[seed].test, plain[seed].test) for seed in sorted(own.keys() & plain.keys())]
    return [new - old for new, old in both if new is not None and old is not None]


def _small(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"
