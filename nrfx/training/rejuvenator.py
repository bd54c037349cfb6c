"""Neural Rejuvenation around a training loop of the user's own (Algorithm 1).

search        the steps in which the penalty acts and the utilization is measured: up to `until`, or to the last of
              `max_events`
measurement   every `interval` steps; it raises lambda, or finds r below the trigger
event         the rejuvenation: a new module, the optimizer migrated to it, lambda 0
"""

import inspect
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import TypedDict

from nrfx.budget import Budget
from nrfx.errors import TrainingError
from nrfx.files import parsed
from nrfx.liveness import mortal_gammas, shrinkable_betas
from nrfx.options import check_options
from nrfx.recalibrate import recalibrate
from nrfx.rejuvenate import Rejuvenation, rejuvenate
from nrfx.trace import TracedModule, as_traced
from nrfx.training.optimizer import check_state, migrate
from nrfx.training.restart import check_restartable, restart
from nrfx.training.schedule import LambdaSchedule, steps_of_search, steps_to_die, suggest_delta_lambda
from nrfx.utilization import Utilization, utilization


@dataclass(frozen=True)
class Measurement:
    """What the monitor saw at a step. `note` is empty, or says in a sentence why no rejuvenation will come of it."""

    step: int
    utilization: Utilization
    r: float
    lam: float
    note: str = ""


@dataclass(frozen=True)
class Event:
    """A rejuvenation: the step, the r that triggered it, its result, and the lambda up to it (it is 0 from here on)."""

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
        gm: what is trained: a traced module, a GraphModule, or any module with `example_inputs`. It shares its
            parameters with the model that was traced, so that the optimizer may hold those of either.
        optimizer: SGD, Adam or AdamW over the parameters.
        budget: what the network may cost after an event. It also chooses the measure of r: params, flops, or the larger
            of both.
        trigger: an r below this causes an event (the paper's T_r).
        interval: steps between two measurements, about an epoch in the paper; 1 or more.
        delta_lambda, delta_r: see LambdaSchedule.
        max_events: after so many events the search ends; None for no limit.
        until: the last step of the search, counted from 1; None for no limit.
        shrink_beta: the pull on the betas of gamma-dead channels that their constant alone holds (behind gates and
            padded depthwise convolutions), in units of lambda; 0 for none, 1 for as strong as on the gammas. A beta
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
        _check_arguments(trigger, interval, max_events, until, options)
        if isinstance(shrink_beta, bool) or not isinstance(shrink_beta, int | float) or not 0 <= shrink_beta < inf:
            raise TrainingError(f"shrink_beta is {shrink_beta!r}; expected 0, or a positive number such as 1.0.")
        if not isinstance(budget, Budget):
            raise TrainingError(f"budget is {budget!r}; expected nrfx.Budget, such as Budget.relative(gm, params=1.0).")
        if not isinstance(optimizer, Optimizer):
            raise TrainingError(
                f"optimizer is {optimizer!r}; expected one of torch.optim over gm.parameters(), such as SGD."
            )
        if calibration is not None and (isinstance(calibration, Iterator) or not isinstance(calibration, Iterable)):
            raise TrainingError(
                f"calibration is {calibration!r}; expected a list of batches, which every event can go through anew."
            )
        if scheduler is not None:
            check_restartable(scheduler)
            if scheduler.optimizer is not optimizer:
                raise TrainingError(
                    f"The {type(scheduler).__name__} belongs to another optimizer: build it over the one that is given."
                )
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
        self._options = dict(options)
        self._module = as_traced(gm, example_inputs)
        self._mortal = self._mortal_of(self._module)
        self._betas = self._betas_of(self._module)
        self._signs: dict[str, Tensor] = {}
        self._check_optimizer()
        self._check_budget()
        if not self._mortal:
            self.note = (
                "No gamma of the network can die: it will be trained as it is. nrfx.utilization lists the pins and why."
            )

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
        """Whether the penalty acts in the step that is under way."""
        return self._searches(self.steps + 1)

    @property
    def forecast(self) -> str:
        """How long dying takes from the start of a search, and whether the search is long enough for it, in sentences.

        "" for Adam, whose steps hardly depend on lambda, and where no gamma can die.
        """
        sgd, gamma = self._sgd(), self._mean_gamma()
        if sgd is None or gamma == 0:
            return ""
        steps = steps_of_search(delta_lambda=self._schedule.delta_lambda, interval=self.interval, gamma=gamma, **sgd)
        text = (
            f"A gamma of {gamma:.2g} that the loss has no use for dies after {steps:,.0f} steps of a search in which "
            "every measurement raises lambda."
        )
        if self.until is None or steps <= self.until:
            return text
        text += f" The search ends at step {self.until:,}."
        quarter = self.until // 4
        if quarter <= 2 * self.interval:
            return f"{text} Measure more often: the interval is {self.interval:,} steps."
        better = suggest_delta_lambda(steps=quarter, interval=self.interval, gamma=gamma, **sgd)
        return f"{text} delta_lambda={better:.2g} would take a quarter of that."

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
        for name, mask in self._mortal.items():
            self._pull(name, mask, self.lam)
        self._signs = {name: self._pull(name, mask, self.lam * self.shrink_beta) for name, mask in self._betas.items()}

    def _pull(self, name: str, mask: Tensor, strength: float) -> Tensor:
        """Adds strength * sign to the gradient where the mask says, and returns the signs."""
        parameter = self._module.get_parameter(name)
        signs = parameter.sign() * mask.to(parameter.device, non_blocking=True)
        if parameter.grad is not None:
            parameter.grad.add_(signs, alpha=strength)
        return signs

    @torch.no_grad()
    def _settle_betas(self) -> None:
        """Sets to 0 the betas that the step took across it, or away from it: the proximal step of the pull."""
        for name, signs in self._signs.items():
            beta = self._module.get_parameter(name)
            beta.masked_fill_(self._betas[name].to(beta.device) & (beta.sign() != signs), 0.0)
        self._signs = {}

    def step(self) -> Measurement | Event | None:
        """Counts a step; every `interval` steps of the search, measures, and rejuvenates if r is below the trigger.

        Raises:
            TrainingError: the optimizer's state cannot be carried over. Found at the first measurement already.
            NrfxError: what `nrfx.rejuvenate` raises. Module, optimizer, lambda and history are then as before.
        """
        self.steps += 1
        self._settle_betas()
        if not self._searches(self.steps) or self.steps % self.interval:
            return None
        check_state(self.optimizer, self._module)
        measured = utilization(self._module, **_shared(self._options, utilization))
        r = _ratio(measured, self.budget)
        if r < self.trigger:
            result = rejuvenate(self._module, self.budget, **self._options)
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
            self._module, self._mortal = module, self._mortal_of(module)
        self._betas, self._signs = masks, {}
        self._schedule, self.steps, self.events, self.note = schedule, saved["steps"], saved["events"], saved["note"]

    def _searches(self, step: int) -> bool:
        within = self.until is None or step <= self.until
        return within and (self.max_events is None or self.events < self.max_events)

    def _event(self, r: float, result: Rejuvenation) -> Event:
        event = Event(self.steps, r, result, self.lam)
        if self.calibration is not None:
            recalibrate(result.module, self.calibration, result.origins)
        mortal, betas = self._mortal_of(result.module), self._betas_of(result.module)
        migrate(self.optimizer, self._module, result)
        if self.scheduler is not None:
            restart(self.scheduler)
        self._module, self._mortal, self._betas = result.module, mortal, betas
        self._schedule = self._schedule.reset()
        self.events += 1
        self.note = ""
        return event

    def _measurement(self, measured: Utilization, r: float) -> Measurement:
        self._schedule = self._schedule.observe(r)
        if self.events == 0 and not self._searches(self.steps + self.interval):
            self.note = self._never(r)
        return Measurement(self.steps, measured, r, self.lam, self.note)

    def _mortal_of(self, module: TracedModule) -> dict[str, Tensor]:
        """The masks of the gammas that can die, on the devices of the gammas."""
        masks = mortal_gammas(module, **_shared(self._options, mortal_gammas))
        return {name: mask.to(module.get_parameter(name).device) for name, mask in masks.items()}

    def _betas_of(self, module: TracedModule) -> dict[str, Tensor]:
        """The masks of the betas that hold gamma-dead channels; none without shrink_beta."""
        if not self.shrink_beta:
            return {}
        masks = shrinkable_betas(module, **_shared(self._options, shrinkable_betas))
        return {name: mask.to(module.get_parameter(name).device) for name, mask in masks.items()}

    def _check_optimizer(self) -> None:
        trained = {parameter for group in self.optimizer.param_groups for parameter in group["params"]}
        missing = [name for name in self._mortal if self._module.get_parameter(name) not in trained]
        if self._mortal and len(missing) == len(self._mortal):
            raise TrainingError(
                f"The optimizer holds none of the {len(missing)} gammas that can die, such as {missing[0]}: no channel "
                "would ever die. Build it over gm.parameters() of the module given to the Rejuvenator."
            )

    def _check_budget(self) -> None:
        """At an event, r is just below the trigger: what is alive then must fit."""
        now = utilization(self._module, **_shared(self._options, utilization))
        for measure in ("params", "flops"):
            bound, total = getattr(self.budget, measure), getattr(now, measure).total
            alive = int(self.trigger * total)
            if bound is not None and bound < alive:
                raise TrainingError(
                    f"At the trigger of {self.trigger}, {alive:,} of the network's {total:,} {measure} are alive: more "
                    f"than the budget of {bound:,}. Lower the trigger below {bound / total:.2g} or raise the budget."
                )

    def _never(self, r: float) -> str:
        return (
            f"The search window ends at step {self.until} without a rejuvenation: after {self.steps} steps r is "
            f"{r:.3f} and the trigger {self.trigger}, at lambda {self.lam:.2g}. {self._dying()}Training goes on "
            "without a penalty. For more channels to die, give the search more steps (until, or smaller batches), "
            "raise delta_lambda, shorten the interval, or raise the trigger."
        )

    def _dying(self) -> str:
        """How long a gamma takes to die under the penalty alone; "" for Adam, whose steps hardly depend on lambda."""
        sgd = self._sgd()
        steps = inf if sgd is None else steps_to_die(lam=self.lam, **sgd)
        return f"A gamma of 1 takes {steps:,.0f} steps to die under it. " if isfinite(steps) else ""

    def _mean_gamma(self) -> float:
        """The mean size of the gammas that can die; 0 where none can."""
        sizes = [self._module.get_parameter(name).detach()[mask].abs().mean() for name, mask in self._mortal.items()]
        return float(torch.stack([size.double().cpu() for size in sizes]).mean()) if sizes else 0.0

    def _sgd(self) -> dict[str, float] | None:
        """Learning rate and momentum of the gammas that can die; None where none can, or for another optimizer."""
        if not isinstance(self.optimizer, SGD) or not self._mortal:
            return None
        gammas = {self._module.get_parameter(name) for name in self._mortal}
        group = next(group for group in self.optimizer.param_groups if gammas & set(group["params"]))
        return {"lr": float(group["lr"]), "momentum": float(group["momentum"])}


def _mask(parameter: Tensor, positions: list[int]) -> Tensor:
    """bool, of the parameter's shape: whether its position is listed."""
    mask = torch.zeros(parameter.shape, dtype=torch.bool, device=parameter.device)
    mask[torch.tensor(positions, dtype=torch.int64, device=parameter.device)] = True
    return mask


def _ratio(measured: Utilization, budget: Budget) -> float:
    """r in the budget's measure; the larger one of two."""
    measures = {"params": measured.params.ratio, "flops": measured.flops.ratio}
    return max(ratio for measure, ratio in measures.items() if getattr(budget, measure) is not None)


def _shared(options: Mapping[str, Any], function: Callable[..., object]) -> dict[str, Any]:
    """The options that `function` takes as well."""
    return {key: value for key, value in options.items() if key in inspect.signature(function).parameters}


def _check_arguments(
    trigger: float, interval: int, max_events: int | None, until: int | None, options: Mapping[str, Any]
) -> None:
    if isinstance(trigger, bool) or not isinstance(trigger, int | float) or not 0 < trigger <= 1:
        raise TrainingError(f"trigger is {trigger!r}; expected a utilization above 0 and up to 1, such as 0.5.")
    for name, value in {"interval": interval, "max_events": max_events, "until": until}.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise TrainingError(f"{name} is {value!r}; expected a whole number of 1 or more.")
    if until is not None and until < interval:
        raise TrainingError(
            f"until is {until}, before the first measurement at step {interval}: make the interval shorter."
        )
    known = set(inspect.signature(rejuvenate).parameters) - {"gm", "budget", "example_inputs"}
    if unknown := sorted(options.keys() - known):
        raise TrainingError(f"unknown option {unknown[0]!r}; nrfx.rejuvenate takes {', '.join(sorted(known))}.")
    check_options(**options)
