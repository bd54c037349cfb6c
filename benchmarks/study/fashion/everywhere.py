"""The one row that was named before any of its runs, NR, against plain training on all networks and budgets at once."""

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.study.fashion.plan import Line
from benchmarks.study.fashion.tables import HELD, Runs, harm, mean_harm, paired, told
from benchmarks.study.intervals import CONFIDENCE, holm, p_value

NAMED = "NR"
"""What the choices were made for, on another network: so it is no row that was picked for what came out."""

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


def behind(tables: Mapping[tuple[str, str], Runs], limit: float = 3.0) -> tuple[float, int, int]:
    """How far behind plain training rows with one event were on the way: the worst mean of seeds over all networks,
    budgets and rows, then how many single runs were further behind than `limit` points, and how many there are.
    """
    worst, further, count = 0.0, 0, 0
    for runs in tables.values():
        plain: Mapping[int, Line] = runs.get(HELD, {})
        for row, own in runs.items():
            once = {seed: line for seed, line in own.items() if line.events == 1 and seed in plain}
            if not row.startswith(NAMED) or row in ("NR-FS", "NR-FS all steps", "NR as in the paper") or len(once) < 2:
                continue
            worst = max(worst, mean_harm(once, plain))
            further += sum(harm(line, plain[seed]) > limit for seed, line in once.items())
            count += len(once)
    return worst, further, count


def _differences(runs: Runs) -> list[float]:
    """NR minus BL of the seeds that both have."""
    own, plain = runs.get(NAMED, {}), runs.get("BL", {})
    both = [(own[seed].test, plain[seed].test) for seed in sorted(own.keys() & plain.keys())]
    return [new - old for new, old in both if new is not None and old is not None]


def _small(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"
