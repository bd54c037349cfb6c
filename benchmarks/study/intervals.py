"""Means with intervals by Student's t distribution, also corrected for several comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev

from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean, and the distance from it to either end of the interval."""

    mean: float
    reach: float

    @property
    def apart(self) -> bool:
        """Whether 0 lies outside of the interval."""
        return abs(self.mean) > self.reach

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.reach:.2f}"


def interval(values: Sequence[float], comparisons: int = 1) -> Interval:
    """The mean of the values (two or more) and its 95 % interval.

    Args:
        comparisons: made at once, so that all their intervals hold together with 95 % (Bonferroni).

    >>> str(interval([1.0, 2.0, 3.0]))
    '2.00 ± 2.48'
    >>> str(interval([1.0, 2.0, 3.0], comparisons=10))
    '2.00 ± 8.14'
    """
    quantile = float(stats.t.ppf(1 - (1 - CONFIDENCE) / (2 * comparisons), len(values) - 1))
    return Interval(mean(values), quantile * stdev(values) / sqrt(len(values)))
