"""Steps that a Rejuvenator does not count: a warning after two intervals, none where it counts or has no search."""

import copy
import gc
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch.optim import SGD
from torch.optim.optimizer import _global_optimizer_post_hooks, register_optimizer_step_post_hook

from nrfx.errors import TrainingError, TrainingWarning
from nrfx.training.rejuvenator import Rejuvenator
from nrfx.training.witness import _WITNESSES, LEAST
from tests.training.small_loop import set_up


def steps(optimizer: Any, count: int) -> None:
    for _ in range(count):
        optimizer.step()


def test_no_step_is_missed_where_the_rejuvenator_counts_is_over_or_trains_another_network() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nr, optimizer = set_up(interval=10**6)
        for _ in range(3):
            steps(optimizer, LEAST)
            nr.step()
        over, optimizer = set_up(until=1)
        over.steps = 1
        steps(optimizer, LEAST + 5)
        alone, _ = set_up()
        steps(SGD(set_up()[0].module.parameters(), lr=0.1), LEAST + 5)
        assert alone.steps == 0


def test_steps_that_nobody_counts_are_told_once_after_two_intervals() -> None:
    nr, optimizer = set_up(interval=30)
    steps(optimizer, 60)
    with pytest.warns(TrainingWarning, match=r"^The SGD has made 61 steps, and .* counted none .* nr\.attach\(\) once"):
        optimizer.step()
    steps(optimizer, 200)
    assert nr.steps == 0


def test_an_optimizer_that_was_built_later_is_named() -> None:
    nr, _ = set_up()
    nr.attach()
    later = torch.optim.Adam(nr.module.parameters(), lr=0.1)
    steps(later, LEAST)
    with pytest.warns(TrainingWarning, match=r"^A Adam that the Rejuvenator was not given trains the network"):
        later.step()


def test_a_witness_ends_with_its_rejuvenator_in_the_middle_of_a_step_too() -> None:
    """torch goes through its hooks in a step, and they must not change meanwhile."""
    held: list[Rejuvenator] = []

    def collect(*_: object) -> None:
        held.clear()
        gc.collect()

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    handle = register_optimizer_step_post_hook(collect)  # before the hooks of those that go in it
    try:
        held += [set_up()[0], set_up()[0]]
        ours, hooks = _WITNESSES[-2:], dict(_global_optimizer_post_hooks)
        assert all(each() is not None for each in ours)
        optimizer.step()
        assert not any(each() for each in ours) and dict(_global_optimizer_post_hooks) == hooks
    finally:
        handle.remove()
    later = set_up()[0]
    assert all(each() is not None for each in _WITNESSES) and later.events == 0


def test_an_attached_rejuvenator_is_not_copied_and_a_detached_one_is_copied_without_its_witness() -> None:
    nr, _ = set_up()
    nr.attach()
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TrainingError, match=r"attached cannot be copied or pickled.*nr\.detach\(\)"):
            copied(nr)
    nr.detach()
    assert copy.deepcopy(nr).steps == 0
