"""The monitor of Sec. 3.1.3 around the Rejuvenator: lambda over a search, its two settings, and the forecast."""

import gc
import pickle
import weakref
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop
from torch.optim.lr_scheduler import StepLR

import nrfx
from nrfx.errors import TrainingError, TrainingWarning
from nrfx.training.events import Event, Measurement
from nrfx.training.rejuvenator import Rejuvenator
from tests.training.small_loop import kill, learn, set_up, step
from tests.zoo import IMAGE, norms, vgg_bn


def simulated(nr: Rejuvenator, rs: list[float], monkeypatch: pytest.MonkeyPatch) -> list[Measurement | Event | None]:
    """The answers of a search that measures these utilizations, one a step, in place of the network's own."""
    values = iter(rs)
    monkeypatch.setattr("nrfx.training.rejuvenator._ratio", lambda *_: next(values))
    return [step(nr) for _ in rs]


# The law of Sec. 3.1.3


def test_a_utilization_that_never_rises_reaches_the_trigger_with_few_intervals_that_leave_lambda_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nr, _ = set_up(delta_lambda=1.0, delta_r=0.05)
    kill(nr)
    rs = [1.0, 0.94, 0.94, 0.93, 0.87, 0.86, 0.80, 0.80, 0.74, 0.68, 0.62, 0.56, 0.505, 0.5, 0.5, 0.49]
    seen = simulated(nr, rs, monkeypatch)
    lams = [one.lam for one in seen if isinstance(one, Measurement)]
    kept = sum(after == before for before, after in pairwise(lams))
    assert lams[0] == 0 and kept == 8 <= (1 - 0.5) / 0.05
    assert isinstance(seen[-1], Event) and len(lams) == len(rs) - 1
    assert seen[-1].lam == lams[-1] == len(lams) - 1 - kept
    assert nr.lam == 0


def test_lambda_is_zero_until_two_measurements_can_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    nr, _ = set_up(delta_lambda=1.0)
    assert nr.lam == 0
    assert [one.lam for one in simulated(nr, [1.0, 1.0], monkeypatch) if one] == [0.0, 1.0]


def test_a_utilization_at_the_trigger_is_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    nr, _ = set_up()
    kill(nr)
    assert [type(one) for one in simulated(nr, [0.5, 0.4999], monkeypatch)] == [Measurement, Event]


# Its two settings (Sec. 4.1 and 4.4)


def test_as_on_imagenet_the_flag_is_on_in_a_window_and_one_event_ends_the_search() -> None:
    """`until` is the window: 30 epochs there. Outside it nothing is measured, penalised or rejuvenated."""
    late, _ = set_up(until=3)
    assert [type(step(late)) for _ in range(3)] == [Measurement] * 3
    kill(late)
    assert step(late) is None and not late.searching
    nr, optimizer = set_up(until=3)
    kill(nr)
    assert isinstance(step(nr), Event) and not nr.searching
    kill(nr)
    assert [learn(nr, optimizer) for _ in range(2)] == [None, None]


def test_as_on_cifar_events_come_without_a_limit_and_each_starts_the_schedules_anew() -> None:
    gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE))
    optimizer = SGD(gm.parameters(), lr=0.08)
    scheduler = StepLR(optimizer, step_size=1, gamma=0.5)
    budget = nrfx.Budget.relative(gm, params=1.0)
    nr = Rejuvenator(
        gm, optimizer, budget, interval=1, trigger=0.8, max_events=None, delta_lambda=1e-9, scheduler=scheduler
    )
    for number in range(1, 4):
        for _ in range(2):
            learn(nr, optimizer)
            scheduler.step()
        assert nr.lam > 0 and optimizer.param_groups[0]["lr"] == 0.02
        kill(nr)
        event = step(nr)
        assert isinstance(event, Event) and (nr.events, nr.lam, nr.searching) == (number, 0.0, True)
        assert optimizer.param_groups[0]["lr"] == 0.08 and scheduler.last_epoch == 0
        assert event.result.after.params.total <= budget.params


def test_the_defaults_are_the_papers() -> None:
    gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE))
    nr = Rejuvenator(gm, SGD(gm.parameters(), lr=0.1), nrfx.Budget.relative(gm, params=1.0))
    schedule = nr.search.schedule
    assert (nr.search.trigger, schedule.delta_lambda, schedule.delta_r, schedule.value) == (0.5, 5e-5, 0.01, 0.0)


# The forecast

AS_IN_THE_PAPER: Any = {"penalty": "sign", "weighted": "alike", "spare": "none"}


def test_the_forecast_of_weighted_gammas_is_that_of_the_mean_cost() -> None:
    weighted, alike = set_up(interval=5)[0].forecast, set_up(interval=5, weighted="alike")[0].forecast
    assert weighted.replace(", of a channel of mean cost,", "") == alike != weighted


def test_the_forecast_is_what_the_penalty_alone_does() -> None:
    """Under the penalty alone the first gammas die in the step of the forecast, but for the lag of momentum."""
    model = vgg_bn()
    for norm in norms(model):
        torch.nn.init.constant_(norm.weight, 0.5)
    nr, optimizer = set_up(model, interval=5, delta_lambda=0.02, lr=0.05, trigger=0.01, **AS_IN_THE_PAPER)
    assert "A gamma of 0.5 that the loss has no use for dies after 30 steps" in nr.forecast
    gamma = nr.module.get_parameter("5.weight")
    for number in range(1, 50):
        for parameter in nr.module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        nr.penalize()
        optimizer.step()
        nr.step()
        if float(gamma.detach()[0]) < 0.005:
            assert 30 <= number <= 40
            return
    raise AssertionError("nothing died")


def test_a_search_that_is_too_short_is_told_with_a_delta_lambda_that_is_not() -> None:
    nr, _ = set_up(until=400, interval=10)
    assert "The search ends at step 400. delta_lambda=" in nr.forecast
    better = float(nr.forecast.partition("delta_lambda=")[2].split()[0])
    again, _ = set_up(until=400, interval=10, delta_lambda=better)
    assert "The search ends" not in again.forecast
    hasty, _ = set_up(until=100, interval=15)
    assert "Measure more often: the interval is 15 steps" in hasty.forecast


@pytest.mark.parametrize("optimizer_of", [Adam, AdamW, NAdam, RMSprop])
def test_the_forecast_of_an_adaptive_optimizer_is_what_the_penalty_does_under_it(optimizer_of: type[Optimizer]) -> None:
    """With gradients of the loss of mean 0 and a known size, which the optimizer's state tells."""
    torch.manual_seed(0)
    model = vgg_bn()
    for norm in norms(model):
        torch.nn.init.constant_(norm.weight, 0.5)
    gm = nrfx.trace(model, torch.zeros(IMAGE))
    optimizer = optimizer_of(gm.parameters(), lr=0.004)
    options = {"interval": 20, "delta_lambda": 0.02, "trigger": 0.01, "threshold": 0.05, **AS_IN_THE_PAPER}
    nr = Rejuvenator(gm, optimizer, nrfx.Budget.relative(gm, params=1.0), **options)
    assert "dies after 164 steps" in nr.forecast and "at the earliest" in nr.forecast
    gamma = gm.get_parameter("5.weight")
    for number in range(1, 500):
        for parameter in gm.parameters():
            parameter.grad = torch.randn_like(parameter) * 0.1
        nr.penalize()
        optimizer.step()
        nr.step()
        if number == 15:
            told = float(nr.forecast.split("dies after ")[1].split(" steps")[0])
            assert "with gradients of the size that they have now, 0." in nr.forecast
        if float(gamma.detach().median()) < 0.01:
            break
    assert told > 180 and abs(number - told) < 0.25 * told


def test_an_adaptive_search_that_is_too_short_is_told_what_is_long_enough() -> None:
    gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE))
    budget = nrfx.Budget.relative(gm, params=1.0)

    def forecast(lr: float, delta_lambda: float) -> str:
        optimizer = AdamW(gm.parameters(), lr=lr)
        nr = Rejuvenator(gm, optimizer, budget, interval=10, until=400, delta_lambda=delta_lambda, **AS_IN_THE_PAPER)
        for gamma in nr._gammas():
            optimizer.state[gamma] = {"step": torch.tensor(1.0), "exp_avg_sq": torch.full_like(gamma, 1e-5)}
        return nr.forecast

    slow = forecast(1e-3, 1e-2)
    assert "falls by the learning rate at most, which is 0.001: take 0.013 or more" in slow
    late = forecast(0.02, 1e-4)
    assert "The search ends at step 400. delta_lambda=" in late
    better = float(late.partition("delta_lambda=")[2].split()[0])
    assert "The search ends" not in forecast(0.02, better)


def test_a_delta_lambda_that_is_chosen_leaves_room_for_measurements_before_gammas_die() -> None:
    nr, _ = set_up(until=400, interval=25, delta_lambda=None)
    assert "dies after 100 steps" in nr.forecast
    with pytest.warns(TrainingWarning, match=r"interval of 26 steps is long for a search of 400.* interval=20\."):
        nr, _ = set_up(until=400, interval=26, delta_lambda=None)
    assert "dies after 104 steps" in nr.forecast


def test_a_delta_lambda_that_is_chosen_lets_gammas_die_after_a_quarter_of_the_search() -> None:
    nr, _ = set_up(until=400, interval=10, delta_lambda=None)
    assert "dies after 100 steps" in nr.forecast
    with pytest.raises(TrainingError, match="needs the length of the search: give until="):
        set_up(delta_lambda=None)
    gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE))
    with pytest.raises(
        TrainingError, match="is for SGD, or penalty='proximal': how long dying takes under Adam depends"
    ):
        Rejuvenator(
            *(gm, Adam(gm.parameters()), nrfx.Budget.relative(gm, params=1.0), 0.5, 10),
            until=400,
            delta_lambda=None,
            penalty="sign",
        )


def test_what_is_not_known_of_an_optimizer_is_said_and_where_nothing_can_die_there_is_no_forecast() -> None:
    gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE))
    unknown = Rejuvenator(gm, Adagrad(gm.parameters()), nrfx.Budget.relative(gm, params=1.0), penalty="sign")
    assert unknown.forecast.startswith("How long a gamma takes to die under Adagrad is not known")
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 14 * 14, 5))
    with pytest.warns(TrainingWarning, match="no norm with a gamma"):
        assert set_up(plain)[0].forecast == ""


def test_a_step_measures_without_the_report_which_is_made_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    nr, _ = set_up(trigger=0.01)
    kill(nr)
    step(nr)
    asked: list[object] = []
    monkeypatch.setattr("nrfx.training.events.utilization", lambda *args, **_: asked.append(args))
    seen = step(nr)
    assert isinstance(seen, Measurement) and not asked
    monkeypatch.undo()
    expected = nrfx.utilization(nr.module)
    assert (seen.params, seen.flops) == (expected.params, expected.flops)
    seen = step(nr)
    assert isinstance(seen, Measurement) and seen.utilization == expected


def test_the_report_of_a_network_that_has_changed_since_is_refused() -> None:
    nr, _ = set_up(trigger=0.01)
    early, late = step(nr), step(nr)
    assert isinstance(early, Measurement) and isinstance(late, Measurement)
    known = early.utilization
    kill(nr)
    assert early.utilization is known
    with pytest.raises(TrainingError, match=r"changed since the measurement at step 2.*before the next step"):
        _ = late.utilization


def test_a_measurement_holds_no_network() -> None:
    nr, _ = set_up()
    asked, seen = step(nr), nr.step()
    assert isinstance(asked, Measurement) and isinstance(seen, Measurement)
    known = asked.utilization
    twins = pickle.loads(pickle.dumps([asked, seen]))
    assert twins == [asked, seen] and len(pickle.dumps(seen)) < 2000
    assert twins[0].utilization == known
    gone = weakref.ref(nr.module)
    del nr
    gc.collect()
    assert gone() is None
    for each in (seen, twins[1]):
        with pytest.raises(TrainingError, match="is gone"):
            _ = each.utilization


def test_after_an_event_and_a_resumption_the_new_network_is_measured() -> None:
    nr, _ = set_up(max_events=None)
    kill(nr)
    event, after = step(nr), step(nr)
    assert isinstance(event, Event) and isinstance(after, Measurement)
    assert after.params == nrfx.utilization(event.result.module).params == nrfx.utilization(nr.module).params
    other, _ = set_up(trigger=0.01)
    kill(other)
    nr.load_state_dict(nr.state_dict(), other.module)
    nr.search.trigger = 0.01
    with pytest.warns(TrainingWarning, match="No optimizer holds"):  # those of the other module
        seen = step(nr)
    assert isinstance(seen, Measurement) and seen.params == nrfx.utilization(other.module).params
