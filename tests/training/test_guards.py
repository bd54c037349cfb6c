"""Loops in which a search would do nothing are told so."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.optim import SGD

import nrfx
from nrfx.errors import TrainingError, TrainingWarning
from nrfx.training.guards import CallGuard, GradientGuard
from nrfx.training.rejuvenator import Rejuvenator
from tests.training.small_loop import kill, set_up
from tests.zoo import IMAGE, vgg_bn

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
    guard.measured(0.1)
    with pytest.warns(TrainingWarning):
        guard.measured(0.1)


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
    GradientGuard(after_event=True).look([gamma])
    GradientGuard(after_event=True).look([])
    with pytest.raises(TrainingError):
        GradientGuard(after_event=True).look([gamma.requires_grad_()])
