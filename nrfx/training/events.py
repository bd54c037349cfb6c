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

    >>> import nrfx, torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    >>> gm = nrfx.trace(net, torch.zeros(2, 1, 3, 3))
    >>> optimizer = torch.optim.SGD(gm.parameters(), lr=0.1)
    >>> nr = nrfx.Rejuvenator(gm, optimizer, nrfx.Budget.relative(gm, params=1.0), interval=1)
    >>> seen = nr.step()
    >>> seen.step, seen.r, seen.lam, seen.utilization.params
    (1, 1.0, 0.0, Share(live=50, total=50))
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

    >>> import nrfx, torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    >>> gm = nrfx.trace(net, torch.zeros(2, 1, 3, 3))
    >>> optimizer = torch.optim.SGD(gm.parameters(), lr=0.1)
    >>> nr = nrfx.Rejuvenator(gm, optimizer, nrfx.Budget.relative(gm, params=1.0), interval=1)
    >>> with torch.no_grad():
    ...     _ = gm.get_parameter("1.weight")[:6].zero_()
    >>> event = nr.step()
    >>> isinstance(event, nrfx.Event), event.step, event.r
    (True, 1, 0.28)
    >>> event.result.module is gm, event.result.after.params
    (True, Share(live=50, total=50))
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
