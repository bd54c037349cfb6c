"""Loops in which a search would do nothing are told so."""

import gc
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel

import nrfx
from nrfx.errors import TrainingError, TrainingWarning
from nrfx.training.guards import CallGuard, GradientGuard
from nrfx.training.rejuvenator import Rejuvenator
from tests.training.small_loop import kill, set_up, step
from tests.zoo import IMAGE, norms, vgg_bn

X = torch.randn(8, *IMAGE[1:], generator=torch.Generator().manual_seed(1))


def test_parameters_that_no_optimizer_holds_are_named() -> None:
    gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE))
    some = [p for name, p in gm.named_parameters() if not name.startswith(("0.", "4."))]
    with pytest.warns(TrainingWarning, match=r"No optimizer holds 0\.weight and 1 more, .*optimizer=\[one, other\]"):
        Rejuvenator(gm, SGD(some, lr=0.1), nrfx.Budget.relative(gm, params=1.0))
    gm.get_parameter("0.weight").requires_grad_(False)
    gm.get_parameter("4.weight").requires_grad_(False)
    Rejuvenator(gm, SGD(some, lr=0.1), nrfx.Budget.relative(gm, params=1.0))


def test_a_loop_without_penalize_is_told_once() -> None:
    nr, _ = set_up(delta_lambda=0.01)
    nr.step(), nr.step()
    with pytest.warns(TrainingWarning, match=r"lambda is 0\.01, and penalize has not been called.*nr\.attach\(\)"):
        nr.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nr.step()


def test_a_call_in_each_interval_is_enough() -> None:
    guard = CallGuard()
    guard.called = True
    guard.measured(0.1, "sign")
    with pytest.warns(TrainingWarning):
        guard.measured(0.1, "sign")


def test_a_loss_of_another_network_after_an_event_is_an_error_before_the_step() -> None:
    nr, optimizer = set_up()
    old = nr.module.__deepcopy__({})
    kill(nr)
    nr.penalize()
    nr.step()
    old(X).sum().backward()
    with pytest.raises(TrainingError, match="Since the last event no gamma has a gradient"):
        nr.penalize()
    F.cross_entropy(nr.module(X), torch.zeros(8, dtype=torch.long)).backward()
    nr.penalize()
    optimizer.zero_grad()
    nr.penalize()  # it has been seen


def test_gammas_that_are_frozen_have_no_gradient_to_miss() -> None:
    gamma = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    GradientGuard("event").look([gamma])
    GradientGuard("event").look([])
    with pytest.raises(TrainingError):
        GradientGuard("event").look([gamma.requires_grad_()])


def test_parameters_that_come_later_are_named_at_the_next_measurement() -> None:
    nr, _ = set_up(trigger=0.01)
    step(nr)
    nr.module.register_parameter("late", torch.nn.Parameter(torch.ones(3)))
    with pytest.warns(TrainingWarning, match=r"No optimizer holds late, which require"):
        step(nr)
    step(nr)


def test_an_average_that_is_carried_by_hand_is_not_told_of() -> None:
    nr, _ = set_up(on_event=lambda event: nrfx.carry_into(average, event.result))
    average = AveragedModel(nr.module)
    kill(nr)
    assert isinstance(step(nr), nrfx.Event)


def test_an_average_that_nobody_named_is_told_of_behind_the_event() -> None:
    nr, _ = set_up()
    average = AveragedModel(nr.module)
    kill(nr)
    with pytest.warns(TrainingWarning, match=r"class AveragedModel averages this one.*followers=\[it\]"):
        event = step(nr)
    assert isinstance(event, nrfx.Event) and average is not None
    del average
    gc.collect()


@pytest.mark.parametrize("inplace", [True, False])
def test_another_trace_of_the_model_is_told_of_where_the_event_changed_its_parameters(inplace: bool) -> None:
    model = vgg_bn()
    nr, _ = set_up(model, inplace=inplace)
    other = nrfx.trace(model, torch.zeros(IMAGE))
    kill(nr)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        event = step(nr)
    told = [str(each.message) for each in heard if "Another trace of the Sequential shares" in str(each.message)]
    assert isinstance(event, nrfx.Event) and len(told) == inplace and other is not None
    del other
    gc.collect()


def test_a_trace_that_only_waits_to_be_collected_is_not_told_of() -> None:
    model = vgg_bn()
    gc.collect()
    gc.disable()
    try:
        budget = nrfx.Budget.relative(model, params=1.0, example_inputs=torch.zeros(IMAGE))  # of a trace of its own
        nr, _ = set_up(model, budget=budget)
        kill(nr)
        assert isinstance(step(nr), nrfx.Event)
    finally:
        gc.enable()


def test_a_step_inside_of_backward_is_refused() -> None:
    nr, _ = set_up()
    optimizers = []
    for parameter in nr.module.parameters():
        own = SGD([parameter], lr=0.1)
        parameter.register_post_accumulate_grad_hook(lambda _, own=own: own.step())
        optimizers.append(own)
    other = Rejuvenator(nr.module, optimizers, nr.budget, interval=1).attach()
    with pytest.raises(TrainingError, match="inside of backward, in a hook of a parameter"):
        F.cross_entropy(other.module(X), torch.zeros(8, dtype=torch.long)).backward()


def test_two_rejuvenators_of_one_network_see_each_others_events() -> None:
    one, optimizer = set_up()
    other = Rejuvenator(one.module, optimizer, one.budget, interval=1, trigger=0.01, delta_lambda=0.1)
    step(other), step(other)
    kill(one)
    with torch.no_grad():
        next(iter(norms(one.module))).weight[:7] = 0  # so that widths change
    assert isinstance(step(one), nrfx.Event)
    assert isinstance(step(other), nrfx.Measurement) and isinstance(step(other), nrfx.Measurement)
    assert other.last.params == nrfx.utilization(one.module).params
