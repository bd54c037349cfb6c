"""Neural Rejuvenation around a training loop of the user's own (Algorithm 1).

search        the steps in which the penalty acts and the utilization is measured: up to `until`, or to the last of
              `max_events`
measurement   every `interval` steps; it raises lambda, or finds r below the trigger
event         the rejuvenation: the network becomes the new one, the optimizers are migrated to it, lambda is 0
"""

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nrfx.analysis.gammas import gammas_of
from nrfx.analysis.meter import Meter, MeterReading
from nrfx.analysis.spaces import channels_of
from nrfx.choices import PenaltyName, RaiseLambda, Spare, Weighted
from nrfx.errors import TrainingError, TrainingWarning
from nrfx.optimizers.wrappers import optimizers_of
from nrfx.plan.advice import Advice
from nrfx.plan.advised import advised, asked_name, budgets_of
from nrfx.plan.budget import Budget
from nrfx.rewrite.heads import renew_heads
from nrfx.rewrite.rejuvenate import rewritten
from nrfx.rewrite.result import Rejuvenation
from nrfx.tracing import TracedModule, as_traced
from nrfx.tracing.graph.original import traced_of
from nrfx.training.arguments import (
    check_objects,
    check_processes,
    check_pull,
    check_room,
    check_search,
    checked_options,
)
from nrfx.training.change import Change
from nrfx.training.events import Event, Measurement, measurement
from nrfx.training.followers import checked_followers
from nrfx.training.forecast import Law, chosen_delta_lambda, law_of, never, search_forecast
from nrfx.training.guards import (
    CallGuard,
    GradientGuard,
    HeldGuard,
    check_held,
    refuse_in_backward,
    tell_of_other_traces,
)
from nrfx.training.hooks import StepHooks
from nrfx.training.in_place import join_original
from nrfx.training.optimizer import check_optimizer, check_state
from nrfx.training.penalty import Pull, gradient_scales, measure_of
from nrfx.training.processes import WAIT, Alone, processes
from nrfx.training.replicas import replicas_of
from nrfx.training.resumed import State, positions, saved_masks, saved_mean, saved_state, saved_weights
from nrfx.training.schedule import LambdaSchedule
from nrfx.training.search import Search
from nrfx.training.sharded import Whole, check_sharded, is_sharded
from nrfx.training.together import (
    FIRST_STEP,
    GATHERING,
    agree_on,
    agreed_reading,
    first_statistics,
    settings,
    weights,
)
from nrfx.training.watched import Watched
from nrfx.training.witness import StepWitness
from nrfx.training.wrappers import group_of, unwrapped


class Rejuvenator:
    """Watches a network while it trains, and rejuvenates it when its utilization falls below the trigger.

    Call `attach` once before the loop, or in each step `penalize` between backward (after GradScaler.unscale_, if there
    is one) and optimizer.step, and `step` after it.

    An event changes the network in place: the module stays the same object, and so do its submodules, parameters and
    buffers where the new network has some of the same name. Loops, compiled modules, hooks and lists of parameters that
    hold them go on. The model that was traced, if it still shares its tensors, becomes one with the traced module, and
    runs its graphs from the first event on. An event that fails changes nothing.

    Args:
        gm: the network to train: a traced module, a GraphModule, or any module with `example_inputs`; also inside of
            torch.compile, DistributedDataParallel or DataParallel.
        optimizer: the optimizers of the network's parameters or wrappers of them, one or several, in the order in which
            they step: any of torch.optim, many others, and what `nrfx.register_optimizer` was told of.
        budget: what the network may cost after an event. It also chooses the measure of r: params, flops, or the larger
            of both.
        trigger: an r below this causes an event (the paper's T_r).
        interval: steps between two measurements, about an epoch in the paper; 1 or more.
        delta_lambda: what lambda rises by; None chooses it so that, under the penalty alone, the gammas die after a
            quarter of the search: it needs `until`, an interval of a sixteenth of that or less, and SGD or penalty
            "proximal".
        delta_r: see LambdaSchedule.
        max_events: after so many events the search ends; None for no limit.
        until: the last step of the search, counted from 1; None for no limit.
        penalty: "proximal" moves each gamma towards 0 after the optimizer's step, by lr * lambda (with momentum, as far
            as the other would in the long run), and leaves it at 0: exact zeros, under any optimizer; "sign" adds
            lambda * sign(gamma) to the gradients, as in the paper, so that in the end gammas swing around 0.
        weighted: "params" or "flops": a gamma is pulled in proportion to what its channel costs by this measure, with
            a mean of 1 over all; "budget": by the measure that the budget bounds (params where it bounds both; under
            fully_shard all alike); "alike": all alike, as in the paper.
        spare: "large": the larger a gamma is, the less it is pulled: by lambda * max(0, 2 - 1.5 * abs(gamma) / mean),
            with the mean over all gammas that can die at the last measurement. What the loss has no use for dies as
            fast, and what it uses stays. "none": all gammas are pulled alike, as in the paper.
        raise_lambda: "slow": whenever r has not fallen by delta_r, as in the paper; "late": only where, besides, at
            the pace of the last measurements r would not fall below the trigger by `until`.
        shrink_beta: the pull, in units of lambda, on the betas of gamma-dead channels that are held for their constant
            alone (behind gates and padded depthwise convolutions); 0 for none, 1 for as strong as on the gammas. A beta
            that is pulled across 0 stays 0 as long as its gamma is dead: the channel can then go.
        scheduler: a learning rate schedule that each event sets back to its epoch 0, as the paper does; None for none.
        calibration: batches, as for `nrfx.recalibrate`, from which each event takes the running statistics of the new
            channels; a list of a few, for all are run. None: they start at 0 and 1 and follow with their momentum.
        inplace: whether an event changes the network; if not, it replaces it, and the loop takes `module` anew in every
            step.
        followers: networks that follow this one with numbers of their own (averages of its weights, teachers), or
            wrappers that hold one as `module` or `ema`: an event changes them as `nrfx.carry` would, in place.
        on_event: called with each Event, when everything is done. What it raises stops the step, not the event.
        process_group: the processes that train this network; None: those of the DistributedDataParallel around it, or
            of the default group if torch.distributed is initialised; "alone": this process trains a network of its
            own. In all of them the decisions and the new weights are the same.
        wait: seconds that a process waits for the others at the first step, at a measurement and in an event.
        options: those of `nrfx.rejuvenate`, passed on. With a criterion as `liveness` there is no penalty, `lam`
            stays 0, and the batches of the criterion are run at every measurement.

    Raises:
        TrainingError: an argument is out of range, the schedule cannot be set back, the budget is too small for the
            trigger, or the optimizer holds none of the gammas that can die. In `step`, in all processes: one of them
            has other settings, steps or weights, has failed, or has not come.

    Warns:
        TrainingWarning: no gamma can die; the interval is too long to choose delta_lambda by; a parameter is in no
            optimizer; the model that was traced has other tensors by now.

    Source: Neural Rejuvenation, Algorithm 1 and Sec. 3.1.3. The authors' code raises lambda once more after the reset.

    >>> import nrfx
    >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
    >>> gm = nrfx.trace(model, torch.zeros(2, 1, 5, 5))
    >>> optimizer = torch.optim.SGD(gm.parameters(), lr=0.1)
    >>> budget = Budget.relative(gm, params=1.0)
    >>> nr = Rejuvenator(gm, optimizer, budget, interval=1, on_event=lambda event: print(round(event.r, 2))).attach()
    >>> with torch.no_grad():
    ...     _ = gm.get_parameter("1.weight")[:6].zero_()
    >>> gm(torch.zeros(2, 1, 5, 5)).sum().backward()
    >>> optimizer.step()
    0.26
    >>> nr.module is gm, nr.events, nr.lam
    (True, 1, 0.0)
    """

    def __init__(
        self,
        gm: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        budget: Budget,
        trigger: float = 0.5,
        interval: int = 1000,
        delta_lambda: float | None = 5e-5,
        delta_r: float = 0.01,
        max_events: int | None = 1,
        until: int | None = None,
        penalty: PenaltyName = "proximal",
        weighted: Weighted = "budget",
        spare: Spare = "large",
        raise_lambda: RaiseLambda = "slow",
        shrink_beta: float = 0.0,
        scheduler: LRScheduler | None = None,
        calibration: Iterable[Any] | None = None,
        example_inputs: Tensor | tuple[Tensor, ...] | None = None,
        inplace: bool = True,
        on_event: Callable[[Event], object] | None = None,
        followers: Iterable[nn.Module] = (),
        process_group: Any = None,
        wait: float = WAIT,
        **options: Any,
    ) -> None:
        check_search(trigger, interval, max_events, until, raise_lambda)
        check_pull(penalty, weighted, spare, shrink_beta)
        check_processes(process_group, wait)
        self.optimizer: Any = optimizer
        self.optimizers = optimizers_of(optimizer)
        check_optimizer(self.optimizers)
        check_objects(budget, self.optimizers, scheduler, calibration, on_event)
        self._options = checked_options(options, inspect.signature(Rejuvenator).parameters)
        self.budget = budget
        self.scheduler = scheduler
        self.calibration = calibration
        self.inplace = inplace
        self.on_event = on_event
        self.followers = checked_followers(followers)
        self.process_group = group_of(gm) if process_group is None else process_group
        self.wait = wait
        self._processes: Alone | None = None
        self.events = 0
        self.steps = 0
        self.note = ""
        self.last: Measurement | Event | None = None
        self._hooks: StepHooks | None = None
        self._calls = CallGuard()
        self._held = HeldGuard()
        self._gradients = GradientGuard()
        given = unwrapped(gm)
        known = given if isinstance(given, TracedModule) else traced_of(given)
        traced = as_traced(given, example_inputs) if known is None else known
        check_sharded(traced, self._options, inplace, self.followers, weighted)
        self._cut = is_sharded(traced)
        self.pull = Pull(penalty, measure_of(weighted, budget, self._cut), shrink_beta, spare)
        with Whole(traced, values=False):
            self._watch(as_traced(traced))
            # the batches of a criterion may come from the training that has not begun
            meter = self._watched.meter
            room = meter.read() if isinstance(meter, Meter) else meter.whole()
        self._before: TracedModule | None = None  # between load_state_dict and settle
        schedule = LambdaSchedule(self._rise(delta_lambda, interval, until), delta_r)
        self.search = Search(schedule, trigger, interval, max_events, until, raise_lambda)
        check_held(self.optimizers, self.module, self._watched.penalty.gammas)
        self._held.look(self.optimizers, self.module)
        check_room(self.budget, trigger, room)
        self._witness = StepWitness(self)
        if inplace:
            join_original(self.module)
        if not self._watched.penalty.gammas and self._options.criterion is None:
            gammas = gammas_of(self.module, channels_of(self.module), self._options.residual, in_training=True)
            self.note = f"{gammas.note} It will be trained as it is."
            warnings.warn(self.note, TrainingWarning, stacklevel=2)

    @property
    def module(self) -> TracedModule:
        """The network to train now."""
        return self._watched.module

    @property
    def lam(self) -> float:
        """lambda now: the weight of the L1 penalty on each gamma that can die."""
        return self.search.schedule.value

    @property
    def interval(self) -> int:
        """Steps between two measurements."""
        return self.search.interval

    @property
    def trigger(self) -> float:
        """An r below this causes an event; `search.trigger` may be set."""
        return self.search.trigger

    @property
    def until(self) -> int | None:
        """The last step of the search; `search.until` may be set."""
        return self.search.until

    @property
    def max_events(self) -> int | None:
        """After so many events the search ends; `search.max_events` may be set."""
        return self.search.max_events

    @property
    def searching(self) -> bool:
        """Whether the penalty acts in the next call of `penalize`."""
        return self.search.goes_on(self.steps + 1, self.events)

    @property
    def forecast(self) -> str:
        """How long dying takes from the start of a search, and whether the search is long enough for it, in sentences.

        Of Adam and its like under penalty "sign" it is more exact after the first steps, when the size of the
        gradients is known. "" where no gamma can die, and under fully_shard.
        """
        search = self.search
        law, gammas, weighted = self._law(), self._gammas(), self.pull.weighted is not None
        return search_forecast(law, gammas, search.schedule.delta_lambda, search.interval, search.until, weighted)

    @property
    def advice(self) -> Advice:
        """What an event at the trigger would make of the network, from its gammas as they are; see `nrfx.Advice`.

        Planned within the params, the flops and both: as the budget says, and what it leaves free as it is now. Nothing
        is trained or changed: without the trial of `nrfx advise` a gain can be ruled out, and not be promised.

        Raises:
            TrainingError: no step has been made, no gamma can die, liveness is by a criterion, or the network is under
                fully_shard.
        """
        if self._options.criterion is not None or self._cut:
            which = "under fully_shard each process has a part of them" if self._cut else "a criterion decides here"
            raise TrainingError(f"Advice is planned from gammas, and {which}: ask a search of one process, by gammas.")
        if not self._watched.penalty.gammas:
            raise TrainingError(self.note)
        if not self.searching:
            raise TrainingError("The search is over, and no event is to come that could be advised on.")
        if not self.steps:
            raise TrainingError("Advice is planned from what gammas have become: ask behind some steps of the search.")
        with torch.no_grad():
            traced = as_traced(self.module)
            budgets, trigger = budgets_of(traced, self.budget), self.search.trigger
            return advised(traced, self.steps, trigger, self._options, budgets, asked_name(self.budget))

    def attach(self) -> Self:
        """Puts `penalize` and `step` into the optimizers, so that the loop needs no line of its own; returns itself.

        It works with GradScaler, accumulated gradients, closures and trainers that call optimizer.step themselves. A
        step is counted when the last of the optimizers that hold parameters of the network has made its own.

        Raises:
            TrainingError: it is attached already.
        """
        if self._hooks is not None:
            raise TrainingError("This Rejuvenator is attached already: call attach once, before the loop.")
        self._hooks = StepHooks(self.optimizers, self._ahead, self._behind)
        return self

    def detach(self) -> None:
        """Takes `penalize` and `step` out of the optimizers again."""
        if self._hooks is not None:
            self._hooks.remove()
        self._hooks = None

    def penalize(self) -> None:
        """Looks which gammas learn; under penalty "sign" adds lambda * sign(gamma) to their gradients. No device sync.

        Under penalty "proximal" `step` moves the gammas that had a gradient here.
        With `shrink_beta`, also lambda * shrink_beta * sign(beta) to that of the betas that hold gamma-dead channels.

        Once per optimizer step. With mixed precision it belongs after `scaler.unscale_(optimizer)`, or the scale would
        divide the penalty away. Gammas without a gradient are passed over.

        Raises:
            TrainingError: since the last event no gamma has had a gradient, or the Rejuvenator is attached.

        Source: Neural Rejuvenation, Eq. 3, in gradient form.
        """
        self._refuse_if_attached("penalize")
        self._penalize({}, None)

    def step(self) -> Measurement | Event | None:
        """Counts a step; every `interval` steps of the search, measures, and rejuvenates if r is below the trigger.

        Raises:
            TrainingError: the optimizer's state cannot be carried over. This is checked at every measurement.
            NrfxError: what `nrfx.rejuvenate` raises. Module, optimizer, lambda and history are as before the event; the
                step is counted, and a proximal step of the penalty made.
        """
        self._refuse_if_attached("step")
        self._shrink(self.optimizers)
        return self._step()

    def state_dict(self) -> State:
        """What a resumed run needs beside the module and the optimizer, as plain values that JSON can hold."""
        return {
            "steps": self.steps,
            "events": self.events,
            "lam": self.lam,
            "previous_r": self.search.schedule.previous_r,
            "falls": list(self.search.schedule.falls),
            "note": self.note,
            "betas": positions(self._watched.penalty.betas),
            "weights": {name: weight.tolist() for name, weight in self._watched.penalty.weights.items()},
            "mean": self._watched.penalty.mean,
        }

    def load_state_dict(self, state: Mapping[str, Any], module: TracedModule | None = None) -> None:
        """Goes on from a `state_dict`, with another module if one is given (that of the checkpoint).

        Raises:
            TrainingError: a value is missing, unknown or of another type. Nothing was changed.
        """
        before, saved = self.module, saved_state(state)
        trained = before if module is None else module
        masks, pulls = saved_masks(trained, saved["betas"]), saved_weights(trained, saved.get("weights", {}))
        mean = saved_mean(saved)
        self._cut = is_sharded(trained)
        with Whole(trained, values=False):
            self._watch(trained)  # its network may have become another one since, by module.load_state_dict
        self._watched.penalty.restore(masks, pulls, mean)
        self._processes = None
        self.search.restore(saved)
        self.steps, self.events, self.note = saved["steps"], saved["events"], saved["note"]
        self._before = before
        if module is not None:
            self._gradients = GradientGuard("load")

    def settle(self) -> TracedModule:
        """After `load_state_dict` with another module, which the optimizers hold by now: brings it about in place.

        The module from before becomes the other one, as in an event, unless `inplace` is False. Returns `module`.
        """
        before, loaded, penalty = self._before, self.module, self._watched.penalty
        if self.inplace and before is not None and before is not loaded:

            def watch(module: TracedModule) -> None:
                self._watch(module)
                self._watched.penalty.restore(penalty.betas, penalty.weights, penalty.mean)

            self._change(watch).load(before, loaded)
        self._before = None
        return self.module

    def _watch(self, module: TracedModule) -> None:
        """Takes a network as the one that is trained."""
        self._watched = Watched(module, self.optimizers, self._options, self.pull)

    def _look_again(self) -> None:
        """Watches the network anew where somebody else has made it another one."""
        if not self._watched.is_current and not self._cut:
            self._watch(self.module)

    def _change(self, watch: Callable[[TracedModule], None]) -> Change:
        return Change(self.optimizers, self.followers, self.scheduler, self.calibration, self.inplace, watch)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """What is watched stays the same if an error ends the block."""
        before = self._watched
        try:
            yield
        except BaseException:
            self._watched = before
            raise

    def _refuse_if_attached(self, name: str) -> None:
        if self._hooks is not None:
            raise TrainingError(f"{name} is called by the optimizer after attach: remove the line, or do not attach.")

    def _ahead(self, optimizer: Optimizer) -> None:
        held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        self._penalize(gradient_scales(optimizer), held)

    def _behind(self, optimizer: Optimizer) -> None:
        self._shrink((optimizer,))
        if optimizer is self._watched.clock:
            refuse_in_backward()
            self._step()

    @torch.no_grad()
    def _penalize(self, scales: Mapping[torch.device, Tensor], held: set[Tensor] | None) -> None:
        self._look_again()
        gammas = self._watched.penalty.parameters()
        self._gradients.look(gamma for gamma in gammas if held is None or gamma in held)
        self._calls.called = True
        if self.searching and self.lam > 0:
            self._watched.penalty.pull(self.lam, scales, held)

    @torch.no_grad()
    def _shrink(self, optimizers: Sequence[Optimizer]) -> None:
        """The proximal steps that follow the steps of these optimizers."""
        if self.searching and self.lam > 0:
            self._look_again()
            self._watched.penalty.shrink(self.lam, optimizers)

    def _step(self) -> Measurement | Event | None:
        self.steps += 1
        self._look_again()
        with torch.no_grad():
            self._watched.penalty.stop_betas_at_zero()
        together = self._meet() if self._processes is None else self._processes
        if not self.search.measures(self.steps, self.events):
            return None
        with together.telling(f"step {self.steps}"), torch.no_grad():
            check_state(self.optimizers, self.module)
            self._held.look(self.optimizers, self.module)
            self._calls.measured(self.lam, self.pull.penalty)
            if self._cut:
                together.agree(GATHERING, {"step": self.steps, "lambda": self.lam})
            with Whole(self.module, self.optimizers) as whole:
                self.last = self._measured(together, whole)
            if self._cut:
                self._watched.meter.forget()
        if isinstance(self.last, Event):
            if self.on_event is not None:
                self.on_event(self.last)
            self._averages.tell()
            if self.inplace:
                tell_of_other_traces(self.module)
        return self.last

    def _meet(self) -> Alone:
        """Finds the processes that train the network, and checks that they do it in the same way."""
        group = self.process_group
        if group is None:
            group = next((replica.process_group for replica in replicas_of([self.module])), None)
        together = processes(group, self.wait)
        if together.size > 1:
            state = {name: value for name, value in self.state_dict().items() if name not in ("note", "weights")}
            own = {**self.search.settings(), **asdict(self.pull), "inplace": self.inplace}
            facts = {**state, **settings(self.budget, self._options, **own), **weights(self.module)}
            together.agree(FIRST_STEP, facts)
            together.spread(self._watched.penalty.weights.values())
        self._processes = together
        return together

    def _measured(self, together: Alone, whole: Whole) -> Measurement | Event:
        module, own = self.module, self._watched.meter.read()
        measured = agreed_reading(together, {"step": self.steps, "lambda": self.lam}, module, own)
        r = _ratio(measured, self.budget)
        if r < self.search.trigger:
            with first_statistics(together, module):
                result = rewritten(as_traced(module), self.budget, self._options)
                agree_on(together, result)
                if result.changed:
                    return self._event(r, result, together, whole)
            self.note = " ".join(("Nothing could be rejuvenated.", *result.notes))
        if self._watched.penalty.look(measured):  # by running statistics of their own, processes may differ
            together.spread(self._watched.penalty.weights.values())
        if self._options.criterion is None:
            self.search.observe(r, self.steps)
            if self.events == 0 and not self.search.goes_on(self.steps + self.interval, self.events):
                self.note = never(self._law(), self.steps, self.search.until, r, self.search.trigger, self.lam)
        return measurement(self.steps, measured, r, self.lam, self.note, module, self._options)

    def _event(self, r: float, result: Rejuvenation, together: Alone, whole: Whole) -> Event:
        """The network becomes the new one, and a new search begins."""
        with self._kept():
            changed = self._change(self._watch).rejuvenate(self.module, result, together, whole)
        self._averages = changed.averages
        renew_heads(self.module)
        event = Event(self.steps, r, changed.result, self.lam, changed.notes)
        self.search.restart()
        self._gradients = GradientGuard("event")
        self.events += 1
        self.note = ""
        return event

    def _rise(self, delta_lambda: float | None, interval: int, until: int | None) -> float:
        """delta_lambda, chosen where it is None."""
        if delta_lambda is not None:
            return delta_lambda
        if self._cut:
            raise TrainingError(
                "delta_lambda=None is chosen by the gammas, of which each process has a part under fully_shard: build "
                "the Rejuvenator with delta_lambda=..., such as 5e-5."
            )
        return chosen_delta_lambda(self._law(), self._gammas(), interval, until)

    def _law(self) -> Law:
        return law_of(self._watched.clock, self._gammas(), self.pull)

    def _gammas(self) -> dict[nn.Parameter, Tensor]:
        """The gammas that can die, with the masks of their elements that can; none where they are cut (sharded.py)."""
        return {} if self._cut else self._watched.gammas


def _ratio(measured: MeterReading, budget: Budget) -> float:
    """r in the measure that the budget bounds; the larger r where it bounds both."""
    measures = {"params": measured.params.ratio, "flops": measured.flops.ratio}
    return max(ratio for measure, ratio in measures.items() if getattr(budget, measure) is not None)
