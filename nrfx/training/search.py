"""The search of a Rejuvenator: the steps in which the penalty acts and the utilization is measured."""

from dataclasses import dataclass, replace
from typing import Any

from nrfx.choices import RaiseLambda
from nrfx.training.resumed import State
from nrfx.training.schedule import LambdaSchedule


@dataclass
class Search:
    """When the penalty acts, when to measure, and lambda, which follows the measurements.

    Args:
        schedule: lambda.
        trigger: an r below this causes an event.
        interval: steps between two measurements.
        max_events: after so many events the search ends; None for no limit.
        until: the last step of the search, counted from 1; None for no limit.
        raise_lambda: see Rejuvenator.

    >>> search = Search(LambdaSchedule(1e-3, 0.01), 0.5, interval=10, max_events=1, until=30, raise_lambda="slow")
    >>> [step for step in range(1, 50) if search.measures(step, events=0)]
    [10, 20, 30]
    >>> search.goes_on(step=11, events=1)
    False
    """

    schedule: LambdaSchedule
    trigger: float
    interval: int
    max_events: int | None
    until: int | None
    raise_lambda: RaiseLambda

    def goes_on(self, step: int, events: int) -> bool:
        """Whether a step belongs to the search, after so many events."""
        within = self.until is None or step <= self.until
        return within and (self.max_events is None or events < self.max_events)

    def measures(self, step: int, events: int) -> bool:
        """Whether the utilization is measured behind a step."""
        return self.goes_on(step, events) and step % self.interval == 0

    def observe(self, r: float, step: int) -> None:
        """Lets lambda follow a measurement that caused no event."""
        late = self.until is not None and self.raise_lambda == "late"
        left = (self.until - step) // self.interval if late and self.until is not None else 0
        self.schedule = self.schedule.observe(r, self.trigger, left)

    def restart(self) -> None:
        """Sets lambda back to 0, behind an event."""
        self.schedule = self.schedule.reset()

    def restore(self, saved: State) -> None:
        """Takes lambda and the measurements before it from a saved state."""
        falls = tuple(saved.get("falls", ()))
        self.schedule = replace(self.schedule, value=saved["lam"], previous_r=saved["previous_r"], falls=falls)

    def settings(self) -> dict[str, Any]:
        """What has to be the same in all processes."""
        names = ("interval", "trigger", "max_events", "until", "raise_lambda")
        rising = {"delta_lambda": self.schedule.delta_lambda, "delta_r": self.schedule.delta_r}
        return {**{name: getattr(self, name) for name in names}, **rising}
