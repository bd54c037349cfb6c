"""The sparsity coefficient lambda, which finds its own value, and how long dying takes under it."""

import math
from dataclasses import dataclass, replace
from typing import Self

from nrfx.errors import TrainingError


@dataclass(frozen=True)
class LambdaSchedule:
    """The adaptive penalty coefficient: raised whenever the utilization did not fall fast enough.

        value += delta_lambda, unless r < previous_r - delta_r

    The first observation has nothing to compare with and only remembers r. Each observation that does not raise lambda
    saw r fall by more than delta_r, so that there are at most 1 + raises + (all falls of r) / delta_r of them.

    Args:
        delta_lambda: what lambda rises by, per unit of gamma in the loss; above 0.
        delta_r: how far the utilization must fall between two observations for lambda to stay; 0 or above.
        value: lambda now.
        previous_r: the utilization at the last observation, None before the first.

    Raises:
        TrainingError: an argument is out of range.

    Source: Neural Rejuvenation, Sec. 3.1.3.

    >>> schedule = LambdaSchedule(delta_lambda=0.5, delta_r=0.01)
    >>> schedule.observe(1.0).observe(1.0).observe(0.9).observe(0.895).value
    1.0
    """

    delta_lambda: float
    delta_r: float
    value: float = 0.0
    previous_r: float | None = None

    def __post_init__(self) -> None:
        if not (_is_finite(self.delta_lambda) and self.delta_lambda > 0):
            raise TrainingError(
                f"delta_lambda is {self.delta_lambda!r}; expected a positive number, or nothing would ever die."
            )
        if not (_is_finite(self.delta_r) and self.delta_r >= 0):
            raise TrainingError(f"delta_r is {self.delta_r!r}; expected 0 or a positive number such as 0.01.")

    def observe(self, r: float) -> Self:
        """The schedule after the utilization was measured as `r`."""
        slow = self.previous_r is not None and not r < self.previous_r - self.delta_r
        return replace(self, value=self.value + self.delta_lambda if slow else self.value, previous_r=r)

    def reset(self) -> Self:
        """The schedule after a rejuvenation: lambda 0, and nothing to compare with."""
        return replace(self, value=0.0, previous_r=None)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def steps_to_die(lr: float, lam: float, gamma: float = 1.0, threshold: float = 0.01, momentum: float = 0.0) -> float:
    """Steps until the penalty alone takes a scale from `gamma` to `threshold * gamma`; infinite if it never does.

        steps = gamma (1 - threshold) (1 - momentum) / (lr * lam)

    Dying takes a number of steps, not of epochs: on a small dataset take smaller batches, not a larger lambda. This
    does not describe Adam, which divides the penalty by its own size.

    >>> steps_to_die(lr=0.1, lam=5e-5)
    198000.0
    >>> steps_to_die(lr=0.1, lam=0.001, gamma=0.5, momentum=0.9)
    495.0
    """
    pull = lr * lam
    return math.inf if pull <= 0 else float(math.ceil(round(gamma * (1 - threshold) * (1 - momentum) / pull, 6)))
