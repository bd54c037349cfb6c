"""Means with intervals, as the demo has them; and p values, for families of comparisons."""

from collections.abc import Sequence
from math import sqrt
from statistics import mean, stdev

from nrfx.experiment.intervals import CONFIDENCE, Interval, interval

__all__ = ["CONFIDENCE", "Interval", "holm", "interval", "p_value"]


def p_value(differences: Sequence[float]) -> float:
    """Of the mean of two or more paired differences against 0, two-sided (Student's t).

    >>> round(p_value([1.0, 2.0, 3.0]), 3)
    0.074
    """
    spread = stdev(differences) / sqrt(len(differences))
    if not spread:
        return 0.0 if any(differences) else 1.0
    from scipy import stats  # noqa: PLC0415 (slow to import)

    return float(2 * stats.t.sf(abs(mean(differences)) / spread, len(differences) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values of comparisons made at once, corrected (Holm): at most 0.05 where 0.05 holds for all together.

    The least is multiplied by their number, the next by one less, and so on; none is less than the one before it.

    >>> holm([0.01, 0.5, 0.02])
    [0.03, 0.5, 0.04]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = largest
    return corrected
