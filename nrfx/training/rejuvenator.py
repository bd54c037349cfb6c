"""Neural Rejuvenation around a training loop of the user's own (Algorithm 1).

search        the steps in which the penalty acts and the utilization is measured: up to `until`, or to the last of
              `max_events`
measurement   every `interval` steps; it raises lambda, or finds r below the trigger
event         the rejuvenation: a new module, the optimizer migrated to it, lambda 0
"""

import reprlib
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import TypedDict

from nrfx.analysis.gammas import gammas_of
from nrfx.analysis.liveness import prunable_gammas, shrinkable_betas
from nrfx.analysis.meter import Meter, MeterReading
from nrfx.analysis.spaces import channels_of
from nrfx.analysis.utilization import Share, Utilization, utilization
from nrfx.errors import TrainingError
from nrfx.files import parsed
from nrfx.plan.budget import Budget
from nrfx.rewrite.rejuvenate import rewritten
from nrfx.rewrite.result import Rejuvenation
from nrfx.tracing import TracedModule, as_traced
from nrfx.training.arguments import check_numbers, check_objects, checked_options
from nrfx.training.forecast import dying_time, search_forecast
from nrfx.training.optimizer import check_state, migrate
from nrfx.training.recalibrate import recalibrate
from nrfx.training.restart import restart
from nrfx.training.schedule import LambdaSchedule


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
    """A rejuvenation: the step, the r below the trigger, the result, and the lambda before it (afterwards it is 0)."""

    step: int
    r: float
    result: Rejuvenation
    lam: float


class State(TypedDict):
    steps: int
    events: int
    lam: float
    previous_r: float | None
    note: str
    betas: dict[str, list[int]]


"""What a resumed Rejuvenator needs."""


class Rejuvenator:
    """Watches a network while it trains, and rejuvenates it when its utilization falls below the trigger.

    Call `penalize` between backward (after GradScaler.unscale_, if there is one) and optimizer.step, and `step` after
    it. Take `module` anew in every step: an event replaces it. The optimizer stays the same object.

    Args:
        gm: the network to train: a traced module, a GraphModule, or any module with `example_inputs`. A traced module
            shares its parameters with the model, so that the optimizer may be built over either.
        optimizer: SGD, Adam or AdamW over the parameters.
        budget: what the network may cost after an event. It also chooses the measure of r: params, flops, or the larger
            of both.
        trigger: an r below this causes an event (the paper's T_r).
        interval: steps between two measurements, about an epoch in the paper; 1 or more.
        delta_lambda, delta_r: see LambdaSchedule.
        max_events: after so many events the search ends; None for no limit.
        until: the last step of the search, counted from 1; None for no limit.
        shrink_beta: the pull, in units of lambda, on the betas of gamma-dead channels that are held for their constant
            alone (behind gates and padded depthwise convolutions); 0 for none, 1 for as strong as on the gammas. A beta
            that is pulled across 0 stays 0 as long as its gamma is dead: the channel can then go.
        scheduler: a learning rate schedule that each event sets back to its epoch 0, as the paper does; None for none.
        calibration: batches, as for `nrfx.recalibrate`, from which each event takes the running statistics of the new
            channels; a list of a few, for all are run. None: they start at 0 and 1 and follow with their momentum.
        options: those of `nrfx.rejuvenate`, passed on.

    Raises:
        TrainingError: an argument is out of range, the schedule cannot be set back, the budget is too small for the
            trigger, or the optimizer holds none of the gammas that can die.

    Source: Neural Rejuvenation, Algorithm 1 and Sec. 3.1.3. The authors' code raises lambda once more after the reset.

    >>> import nrfx
    >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
    >>> gm = nrfx.trace(model, torch.zeros(2, 1, 5, 5))
    >>> optimizer = torch.optim.SGD(gm.parameters(), lr=0.1)
    >>> nr = Rejuvenator(gm, optimizer, Budget.relative(gm, params=1.0), interval=1)
    >>> with torch.no_grad():
    ...     _ = gm.get_parameter("1.weight")[:6].zero_()
    >>> nr.module(torch.zeros(2, 1, 5, 5)).sum().backward()
    >>> nr.penalize(); optimizer.step(); event = nr.step()
    >>> type(event).__name__, round(event.r, 2), nr.lam
    ('Event', 0.26, 0.0)
    """

    def __init__(
        self,
        gm: nn.Module,
        optimizer: Optimizer,
        budget: Budget,
        trigger: float = 0.5,
        interval: int = 1000,
        delta_lambda: float = 5e-5,
        delta_r: float = 0.01,
        max_events: int | None = 1,
        until: int | None = None,
        shrink_beta: float = 0.0,
        scheduler: LRScheduler | None = None,
        calibration: Iterable[Any] | None = None,
        example_inputs: Tensor | tuple[Tensor, ...] | None = None,
        **options: Any,
    ) -> None:
        check_numbers(trigger, interval, max_events, until, shrink_beta)
        check_objects(budget, optimizer, scheduler, calibration)
        self._options = checked_options(options)
        self.optimizer = optimizer
        self.budget = budget
        self.trigger = trigger
        self.interval = interval
        self.max_events = max_events
        self.until = until
        self.shrink_beta = shrink_beta
        self.scheduler = scheduler
        self.calibration = calibration
        self.events = 0
        self.steps = 0
        self.note = ""
        self._schedule = LambdaSchedule(delta_lambda, delta_r)
        self._module = as_traced(gm, example_inputs)
        self._meter = self._meter_of(self._module)
        self._prunable = self._prunable_of(self._module)
        self._betas = self._betas_of(self._module)
        self._signs: dict[str, Tensor] = {}
        self._check_optimizer()
        self._check_budget()
        if not self._prunable:
            gammas = gammas_of(self._module, channels_of(self._module), self._options.residual, in_training=True)
            self.note = f"{gammas.note} It will be trained as it is."

    @property
    def module(self) -> TracedModule:
        """The network to train now."""
        return self._module

    @property
    def lam(self) -> float:
        """lambda now: the weight of the L1 penalty on each gamma that can die."""
        return self._schedule.value

    @property
    def searching(self) -> bool:
        """Whether the penalty acts in the next call of `penalize`."""
        return self._searches(self.steps + 1)

    @property
    def forecast(self) -> str:
        """How long dying takes from the start of a search, and whether the search is long enough for it, in sentences.

        "" for Adam, whose steps hardly depend on lambda, and where no gamma can die.
        """
        delta_lambda = self._schedule.delta_lambda
        return search_forecast(self.optimizer, self._gammas(), delta_lambda, self.interval, self.until)

    @torch.no_grad()
    def penalize(self) -> None:
        """Adds lambda * sign(gamma) to the gradient of every gamma that can die, without a device sync.

        With `shrink_beta`, also lambda * shrink_beta * sign(beta) to that of the betas that hold gamma-dead channels.

        Once per optimizer step. With mixed precision it belongs after `scaler.unscale_(optimizer)`, or the scale would
        divide the penalty away. Gammas without a gradient are passed over.

        Source: Neural Rejuvenation, Eq. 3, in gradient form.
        """
        if not self.searching or self.lam == 0:
            return
        for name, mask in self._prunable.items():
            self._pull(name, mask, self.lam)
        self._signs = {name: self._pull(name, mask, self.lam * self.shrink_beta) for name, mask in self._betas.items()}

    def _pull(self, name: str, mask: Tensor, strength: float) -> Tensor:
        """Adds strength * sign to the gradient where the mask is True, and returns the signs."""
        parameter = self._module.get_parameter(name)
        signs = parameter.sign() * mask.to(parameter.device, non_blocking=True)
        if parameter.grad is not None:
            parameter.grad.add_(signs, alpha=strength)
        return signs

    @torch.no_grad()
    def _stop_betas_at_zero(self) -> None:
        """Sets betas to 0 that the optimizer's step took across 0, or away from 0: the proximal step of the pull.

        A subgradient alone would let them swing around 0 by lr * lambda.
        """
        for name, signs in self._signs.items():
            beta = self._module.get_parameter(name)
            beta.masked_fill_(self._betas[name].to(beta.device) & (beta.sign() != signs), 0.0)
        self._signs = {}

    def step(self) -> Measurement | Event | None:
        """Counts a step; every `interval` steps of the search, measures, and rejuvenates if r is below the trigger.

        Raises:
            TrainingError: the optimizer's state cannot be carried over. This is checked at every measurement.
            NrfxError: what `nrfx.rejuvenate` raises. Module, optimizer, lambda and history are then as before.
        """
        self.steps += 1
        self._stop_betas_at_zero()
        if not self._searches(self.steps) or self.steps % self.interval:
            return None
        check_state(self.optimizer, self._module)
        measured = self._meter.read()
        r = _ratio(measured, self.budget)
        if r < self.trigger:
            result = rewritten(as_traced(self._module), self.budget, self._options)
            if result.changed:
                return self._event(r, result)
            self.note = " ".join(("Nothing could be rejuvenated.", *result.notes))
        self._betas = self._betas_of(self._module)
        return self._measurement(measured, r)

    def state_dict(self) -> State:
        """What a resumed run needs beside the module and the optimizer, as plain values that JSON can hold."""
        return {
            "steps": self.steps,
            "events": self.events,
            "lam": self._schedule.value,
            "previous_r": self._schedule.previous_r,
            "note": self.note,
            "betas": {name: mask.nonzero().flatten().tolist() for name, mask in self._betas.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], module: TracedModule | None = None) -> None:
        """Goes on from a `state_dict`, with another module if one is given (that of the checkpoint).

        Raises:
            TrainingError: a value is missing, unknown or of another type. Nothing was changed.
        """
        saved = parsed(State, state, "The state of a Rejuvenator (what state_dict returned)", TrainingError)
        schedule = replace(self._schedule, value=saved["lam"], previous_r=saved["previous_r"])
        trained = self._module if module is None else module
        try:
            masks = {name: _mask(trained.get_parameter(name), positions) for name, positions in saved["betas"].items()}
        except (AttributeError, IndexError, RuntimeError, ValueError) as error:
            raise TrainingError(
                f"The state of a Rejuvenator holds betas that its module has not: {reprlib.repr(saved['betas'])}. "
                "Load what Rejuvenator.state_dict returned."
            ) from error
        if module is not None:
            self._module, self._prunable, self._meter = module, self._prunable_of(module), self._meter_of(module)
        self._betas, self._signs = masks, {}
        self._schedule, self.steps, self.events, self.note = schedule, saved["steps"], saved["events"], saved["note"]

    def _searches(self, step: int) -> bool:
        within = self.until is None or step <= self.until
        return within and (self.max_events is None or self.events < self.max_events)

    def _event(self, r: float, result: Rejuvenation) -> Event:
        """Puts the result in the place of the module."""
        event = Event(self.steps, r, result, self.lam)
        # what can raise comes before the first change, so that an event that fails leaves everything as it was
        if self.calibration is not None:
            recalibrate(result.module, self.calibration, result.origins)
        prunable, betas = self._prunable_of(result.module), self._betas_of(result.module)
        migrate(self.optimizer, self._module, result)
        if self.scheduler is not None:
            restart(self.scheduler)
        self._module, self._prunable, self._betas = result.module, prunable, betas
        self._meter = self._meter_of(result.module)
        self._schedule = self._schedule.reset()
        self.events += 1
        self.note = ""
        return event

    def _meter_of(self, module: TracedModule) -> Meter:
        return Meter(module, self._options.threshold, self._options.residual)

    def _measurement(self, measured: MeterReading, r: float) -> Measurement:
        self._schedule = self._schedule.observe(r)
        if self.events == 0 and not self._searches(self.steps + self.interval):
            self.note = self._never(r)
        how = self._options
        report = partial(_reported, weakref.ref(self._module), threshold=how.threshold, residual=how.residual)
        return Measurement(self.steps, measured.params, measured.flops, r, self.lam, self.note, report=report)

    def _prunable_of(self, module: TracedModule) -> dict[str, Tensor]:
        """The masks of the gammas that can die, on the devices of the gammas."""
        masks = prunable_gammas(module, self._options.residual)
        return {name: mask.to(module.get_parameter(name).device) for name, mask in masks.items()}

    def _betas_of(self, module: TracedModule) -> dict[str, Tensor]:
        """The masks of the betas that hold gamma-dead channels; none without shrink_beta."""
        if not self.shrink_beta:
            return {}
        masks = shrinkable_betas(module, self._options.threshold, self._options.residual)
        return {name: mask.to(module.get_parameter(name).device) for name, mask in masks.items()}

    def _check_optimizer(self) -> None:
        trained = {parameter for group in self.optimizer.param_groups for parameter in group["params"]}
        missing = [name for name in self._prunable if self._module.get_parameter(name) not in trained]
        if self._prunable and len(missing) == len(self._prunable):
            raise TrainingError(
                f"The optimizer holds none of the {len(missing)} gammas that can die, such as {missing[0]}: no channel "
                "would ever die. Build it over gm.parameters() of the module given to the Rejuvenator."
            )

    def _check_budget(self) -> None:
        """Raises TrainingError for a budget below trigger * cost: about as much is alive at an event, and must fit."""
        now = self._meter.read()
        for measure in ("params", "flops"):
            bound, total = getattr(self.budget, measure), getattr(now, measure).total
            alive = int(self.trigger * total)
            if bound is not None and bound < alive:
                raise TrainingError(
                    f"At the trigger of {self.trigger}, {alive:,} of the network's {total:,} {measure} are alive: more "
                    f"than the budget of {bound:,}. Lower the trigger below {bound / total:.2g} or raise the budget."
                )

    def _never(self, r: float) -> str:
        """That the search ends without a rejuvenation, and what to change, in sentences."""
        dying = dying_time(self.optimizer, self._gammas(), self.lam)
        return (
            f"The search window ends at step {self.until} without a rejuvenation: after {self.steps} steps r is "
            f"{r:.3f} and the trigger {self.trigger}, at lambda {self.lam:.2g}. {dying}Training goes on "
            "without a penalty. For more channels to die, give the search more steps (until, or smaller batches), "
            "raise delta_lambda, shorten the interval, or raise the trigger."
        )

    def _gammas(self) -> dict[nn.Parameter, Tensor]:
        """The gammas that can die, with the masks of their elements that can."""
        return {self._module.get_parameter(name): mask for name, mask in self._prunable.items()}


def _mask(parameter: Tensor, positions: list[int]) -> Tensor:
    """bool of the parameter's shape: whether the position is listed; positions rise, the first is 0 or above."""
    if positions != sorted({*positions}) or any(position < 0 for position in positions[:1]):
        raise ValueError("the positions do not rise from 0 or above")
    mask = torch.zeros(parameter.shape, dtype=torch.bool, device=parameter.device)
    mask[torch.tensor(positions, dtype=torch.int64, device=parameter.device)] = True
    return mask


def _ratio(measured: MeterReading, budget: Budget) -> float:
    """r in the measure that the budget bounds; the larger r where it bounds both."""
    measures = {"params": measured.params.ratio, "flops": measured.flops.ratio}
    return max(ratio for measure, ratio in measures.items() if getattr(budget, measure) is not None)
