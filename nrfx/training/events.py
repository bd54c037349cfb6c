"""What a Rejuvenator answers: a measurement, or an event."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from typing import Any

from nrfx.analysis.meter import MeterReading
from nrfx.analysis.utilization import Share, Utilization, utilization
from nrfx.errors import TrainingError
from nrfx.plan.options import Options
from nrfx.rewrite.result import Rejuvenation
from nrfx.tracing import TracedModule


@dataclass(frozen=True)
class Measurement:
    """A measurement without a rejuvenation: the step, the live part by params and by flops, r, and lambda after it.

    `note` says in sentences why no rejuvenation will come, or is empty.
    """

    step: int
    params: Share
    flops: Share
    r: float
    lam: float
    note: str = ""
    report: Callable[[], Utilization] = field(kw_only=True, repr=False, compare=False)

    @cached_property
    def utilization(self) -> Utilization:
        """What `nrfx.utilization` says, computed when it is first asked for: before the next step of the optimizer.

        Raises:
            TrainingError: the network has changed since.
        """
        now = self.report()
        if (now.params, now.flops) != (self.params, self.flops):
            raise TrainingError(
                f"The network has changed since the measurement at step {self.step}, so that its layers are no longer "
                "known: ask for `utilization` before the next step, or take `params` and `flops`, which are kept."
            )
        return now

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold no network: they keep the utilization if it was asked for."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        known = {key: value for key, value in vars(self).items() if key == "utilization"}
        return _restored, ({**plain, "report": _gone}, known)


def _restored(plain: dict[str, Any], known: dict[str, Any]) -> Measurement:
    measurement = Measurement(**plain)
    measurement.__dict__.update(known)
    return measurement


def _reported(module: weakref.ref[TracedModule], **options: Any) -> Utilization:
    network = module()
    return _gone() if network is None else utilization(network, **options)


def _gone() -> Utilization:
    raise TrainingError(
        "The network of this measurement is gone, so that its layers are no longer known: ask for `utilization` before "
        "the next step, or take `params` and `flops`, which are kept."
    )


@dataclass(frozen=True)
class Event:
    """A rejuvenation: the step, the r below the trigger, the result, and the lambda before it (afterwards it is 0).

    `notes`: what of the optimizers' state could not be carried along, in sentences.
    """

    step: int
    r: float
    result: Rejuvenation
    lam: float
    notes: tuple[str, ...] = ()


def measurement(
    step: int, measured: MeterReading, r: float, lam: float, note: str, module: TracedModule, how: Options
) -> Measurement:
    """The measurement of a module, which it does not keep alive."""
    told = {"threshold": how.threshold, "residual": how.residual, "liveness": how.liveness}
    report = partial(_reported, weakref.ref(module), **told)
    return Measurement(step, measured.params, measured.flops, r, lam, note, report=report)
