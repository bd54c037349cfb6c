"""nr.advice in the middle of a search: what it says, when it refuses, and that the training does not notice."""

import pytest
import torch
from torch import nn

import nrfx
from nrfx.errors import TrainingError, TrainingWarning
from tests.training.small_loop import contents, equal, kill, learn, set_up
from tests.zoo import IMAGE, head


def test_advice_in_the_middle_of_a_search_plans_the_event_that_will_come() -> None:
    torch.manual_seed(0)
    nr, optimizer = set_up(interval=2, trigger=0.6)
    learn(nr, optimizer)
    kill(nr, 0.5)
    told = nr.advice
    assert told.steps == (1,) and told.seeds == 1 and told.asked == "params" and told.trigger == 0.6
    event = learn(nr, optimizer)
    assert isinstance(event, nrfx.Event)
    rows = {row.name: row.out for row in event.result.after.rows}
    assert told.prospect is not None
    assert {name: widths[0] for name, widths in told.prospect.widths.items()} == {
        name: rows[name] for name in told.layers
    }
    assert told.prospect.alpha == (event.result.alpha,)


def test_the_training_does_not_notice() -> None:
    torch.manual_seed(0)
    nr, optimizer = set_up(interval=2)
    learn(nr, optimizer)
    before, mode = contents(nr, optimizer), nr.module.training
    assert "a gain over plain training is" in str(nr.advice)
    assert equal(contents(nr, optimizer), before) and nr.module.training is mode and nr.steps == 1


def test_before_the_first_step_there_is_no_advice() -> None:
    nr, _ = set_up()
    with pytest.raises(TrainingError, match="behind some steps"):
        _ = nr.advice


def test_behind_the_search_there_is_no_advice() -> None:
    nr, optimizer = set_up(until=2)
    learn(nr, optimizer), learn(nr, optimizer)
    with pytest.raises(TrainingError, match="The search is over"):
        _ = nr.advice


def test_without_gammas_there_is_no_advice() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *head(8))
    with pytest.warns(TrainingWarning, match="no norm with a gamma"):
        nr, optimizer = set_up(model)
    learn(nr, optimizer)
    with pytest.raises(TrainingError, match=r"no norm with a gamma.*insert_scales"):
        _ = nr.advice


def test_with_a_criterion_there_is_no_advice() -> None:
    batches = [torch.randn(8, *IMAGE[1:], generator=torch.Generator().manual_seed(0))]
    nr, optimizer = set_up(liveness=nrfx.liveness.Activation(batches))
    learn(nr, optimizer)
    with pytest.raises(TrainingError, match="a criterion decides here"):
        _ = nr.advice
