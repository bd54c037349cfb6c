"""The sparsity coefficient lambda, which finds its own value, and how long dying takes under it.

Under the penalty alone a gamma falls by lr * lambda a step, with momentum by lr * lambda / (1 - momentum). Adam and its
like divide each gradient by its size: a gamma falls by lr * lambda / sqrt(size^2 + lambda^2), which is at most lr.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

from nrfx.errors import TrainingError

PACE = 5
"""Measurements over which the pace of r is taken."""


@dataclass(frozen=True)
class LambdaSchedule:
    """The adaptive penalty coefficient: raised whenever the utilization did not fall fast enough.

        value += delta_lambda, unless r < previous_r - delta_r

    With a trigger and the number of measurements that are left, it also stays where r is on course: where at the pace
    of the last `PACE` measurements it will fall below the trigger in time. That is ours, not the paper's.

    The first observation has nothing to compare with and leaves lambda. Each other one that leaves lambda saw r fall by
    more than delta_r. So of n observations at least n - 1 - (sum of all falls of r) / delta_r raise lambda.

    Args:
        delta_lambda: what lambda rises by, per unit of gamma in the loss; above 0.
        delta_r: how far the utilization must fall between two observations for lambda to stay; 0 or above.
        value: lambda now.
        previous_r: the utilization at the last observation, None before the first.
        falls: how far r fell in each of the last observations, up to PACE of them, the newest last.

    Raises:
        TrainingError: an argument is out of range.

    Source: Neural Rejuvenation, Sec. 3.1.3.

    >>> schedule = LambdaSchedule(delta_lambda=0.5, delta_r=0.01)
    >>> schedule.observe(1.0).observe(1.0).observe(0.9).observe(0.895).value
    1.0
    >>> steady = schedule.observe(0.9).observe(0.895, trigger=0.5, left=100)  # 0.005 each time: in time
    >>> steady.value, steady.observe(0.89, trigger=0.5, left=50).value  # too late
    (0.0, 0.5)
    """

    delta_lambda: float
    delta_r: float
    value: float = 0.0
    previous_r: float | None = None
    falls: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not (_is_finite(self.delta_lambda) and self.delta_lambda > 0):
            raise TrainingError(
                f"delta_lambda is {self.delta_lambda!r}; expected a positive number, or nothing would ever die."
            )
        if not (_is_finite(self.delta_r) and self.delta_r >= 0):
            raise TrainingError(f"delta_r is {self.delta_r!r}; expected 0 or a positive number such as 0.01.")

    def observe(self, r: float, trigger: float = 0.0, left: int = 0) -> Self:
        """The schedule after the utilization was measured as `r`.

        Args:
            trigger: what r is to fall below, for lambda to stay where it is on course.
            left: measurements in which it may do so; 0 for the paper's rule alone.
        """
        if self.previous_r is None:
            return replace(self, previous_r=r)
        falls = (*self.falls, self.previous_r - r)[-PACE:]
        on_course = left > 0 and r - left * sum(falls) / len(falls) < trigger
        stays = r < self.previous_r - self.delta_r or on_course
        value = self.value if stays else self.value + self.delta_lambda
        return replace(self, value=value, previous_r=r, falls=falls)

    def reset(self) -> Self:
        """The schedule after a rejuvenation: lambda 0, and nothing to compare with."""
        return replace(self, value=0.0, previous_r=None, falls=())


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
    pulls = _pulls_to_die(lr, gamma, threshold, momentum)
    return math.inf if lam <= 0 or pulls == math.inf else float(math.ceil(round(pulls / lam, 6)))


def steps_of_search(
    lr: float, delta_lambda: float, interval: int, gamma: float = 1.0, threshold: float = 0.01, momentum: float = 0.0
) -> float:
    """Steps from the start of a search until the penalty alone takes a scale from `gamma` to `threshold * gamma`.

    lambda is 0 up to the second measurement, and is taken to rise at each one from there on, as it does while nothing
    dies:

        interval * delta_lambda * (0 + 0 + 1 + 2 + ...) = gamma (1 - threshold) (1 - momentum) / lr

    Gammas that the loss has no use for die then; the others resist, and later or never. Not for Adam.

    >>> steps_of_search(lr=0.1, delta_lambda=5e-5, interval=5000, momentum=0.9)
    21600.0
    >>> steps_of_search(lr=0.02, delta_lambda=5e-4, interval=20, gamma=0.5, momentum=0.9)
    475.0
    """
    pulls = _pulls_to_die(lr, gamma, threshold, momentum)
    if delta_lambda <= 0 or pulls == math.inf:
        return math.inf
    units = pulls / delta_lambda  # the steps that it would take under a lambda of delta_lambda
    # lambda / delta_lambda is 0, 0, 1, 2, ... in successive intervals: w + 1 of them do interval * w (w - 1) / 2 units.
    # `whole` is the largest w that does not do too much, by the root of the quadratic. The loop corrects a root
    # that was rounded up.
    whole = int((1 + math.sqrt(1 + 8 * units / interval)) / 2)
    while interval * whole * (whole - 1) / 2 > units:
        whole -= 1
    rest = math.ceil(round((units - interval * whole * (whole - 1) / 2) / whole, 6))
    return float((whole + 1) * interval + rest)


def adaptive_steps_to_die(
    lr: float, lam: float, gamma: float = 1.0, threshold: float = 0.01, size: float = 0.0
) -> float:
    """`steps_to_die` under an optimizer that divides gradients by their size (Adam, AdamW, NAdam, RMSprop).

        steps = gamma (1 - threshold) sqrt(size^2 + lam^2) / (lr * lam)

    Args:
        size: the root mean square of the gradient that the loss gives to a gamma; its mean is taken to be 0.

    >>> adaptive_steps_to_die(lr=1e-3, lam=1e-4)
    990.0
    >>> adaptive_steps_to_die(lr=1e-3, lam=1e-4, size=1e-3)
    9950.0
    """
    if lr <= 0 or lam <= 0:
        return math.inf
    return float(math.ceil(round(gamma * (1 - threshold) * math.hypot(size, lam) / (lr * lam), 6)))


def adaptive_steps_of_search(
    lr: float, delta_lambda: float, interval: int, gamma: float = 1.0, threshold: float = 0.01, size: float = 0.0
) -> float:
    """`steps_of_search` under an optimizer that divides gradients by their size; infinite beyond a million intervals.

    >>> adaptive_steps_of_search(lr=1e-3, delta_lambda=5e-5, interval=100)
    1190.0
    >>> adaptive_steps_of_search(lr=1e-3, delta_lambda=5e-5, interval=100, size=1e-3)
    2374.0
    """
    left = gamma * (1 - threshold)
    if lr <= 0 or delta_lambda <= 0:
        return math.inf
    for rises in range(1, 1_000_000):
        fall = lr * rises * delta_lambda / math.hypot(size, rises * delta_lambda)
        if left <= fall * interval:
            return float((rises + 1) * interval + math.ceil(round(left / fall, 6)))
        left -= fall * interval
    return math.inf


def suggest_delta_lambda(
    lr: float, steps: int, interval: int, gamma: float = 1.0, threshold: float = 0.01, momentum: float = 0.0
) -> float:
    """The delta_lambda with which the penalty alone takes a scale from `gamma` to `threshold * gamma` in `steps` steps.

    The inverse of `steps_of_search`. Give as `steps` about a quarter of the search: the gammas that the loss holds on
    to need the rest.

    Args:
        lr: the learning rate of the gammas during the search.
        steps: from the start of the search, more than two intervals.
        interval: steps between two measurements.
        gamma: where the gammas start.
        threshold: as for `nrfx.rejuvenate`.
        momentum: of SGD.

    Raises:
        TrainingError: an argument is out of range, or the steps end before lambda rises for the first time.

    >>> round(suggest_delta_lambda(lr=0.02, steps=480, interval=20, gamma=0.5, momentum=0.9), 6)
    0.000489
    """
    for name, value in {"lr": lr, "gamma": gamma}.items():
        if not (_is_finite(value) and value > 0):
            raise TrainingError(f"{name} is {value!r}; expected a positive number.")
    for name, value in {"threshold": threshold, "momentum": momentum}.items():
        if not (_is_finite(value) and 0 <= value < 1):
            raise TrainingError(f"{name} is {value!r}; expected a number in [0, 1).")
    if interval < 1:
        raise TrainingError(f"interval is {interval!r}; expected a whole number of 1 or more.")
    if steps <= 2 * interval:
        raise TrainingError(
            f"lambda rises for the first time at the second measurement, after {2 * interval} steps, and there are "
            f"{steps}: measure more often (an interval of {max(steps // 20, 1)})."
        )
    whole, rest = divmod(steps, interval)
    units = interval * (whole - 1) * (whole - 2) / 2 + rest * (whole - 1)
    return _pulls_to_die(lr, gamma, threshold, momentum) / units


def _pulls_to_die(lr: float, gamma: float, threshold: float, momentum: float) -> float:
    """The sum of lambda over all steps that takes a scale from `gamma` to `threshold * gamma`."""
    return gamma * (1 - threshold) * (1 - momentum) / lr if lr > 0 else math.inf
