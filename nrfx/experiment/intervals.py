"""Means with intervals by Student's t distribution, also corrected for several comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev

from nrfx.errors import UsageError

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

    Raises:
        UsageError: scipy is not installed.

    >>> str(interval([1.0, 2.0, 3.0]))
    '2.00 ± 2.48'
    >>> str(interval([1.0, 2.0, 3.0], comparisons=10))
    '2.00 ± 8.13'
    """
    quantile = _quantile(1 - (1 - CONFIDENCE) / (2 * comparisons), len(values) - 1)
    return Interval(mean(values), quantile * stdev(values) / sqrt(len(values)))


def _quantile(probability: float, freedom: int) -> float:
    """Of Student's t with so many degrees of freedom."""
    try:
        from scipy import stats  # noqa: PLC0415 (optional, and slow to import)
    except ImportError as error:
        raise UsageError("An interval needs scipy, which is not installed: pip install 'nrfx[demo]'.") from error
    return float(stats.t.ppf(probability, freedom))
