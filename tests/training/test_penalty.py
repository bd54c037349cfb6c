"""The penalty in its two forms: exact zeros under any optimizer, the same lambda for both, weights by cost."""

import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import ASGD, SGD, Adam, AdamW, Optimizer

import nrfx
from nrfx.errors import TrainingError
from nrfx.training.forecast import dying_time
from nrfx.training.gamma_weights import gamma_weights
from nrfx.training.rejuvenator import Rejuvenator
from tests.training.small_loop import learn, set_up, step
from tests.zoo import IMAGE, norms, vgg_bn


def searching(kind: type[Optimizer] = SGD, lam: float = 0.5, lr: float = 0.05, **options: Any) -> Rejuvenator:
    """A Rejuvenator in its search, at this lambda, with gradients of 0 everywhere."""
    torch.manual_seed(0)
    gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE))
    own = {"momentum": 0.9} if kind is SGD else {}
    optimizer = kind(gm.parameters(), lr=lr, **own)
    nr = Rejuvenator(gm, optimizer, nrfx.Budget.relative(gm, params=1.0), interval=1000, **options)
    nr.load_state_dict({**nr.state_dict(), "lam": lam})
    for parameter in gm.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return nr


def gammas(nr: Rejuvenator) -> torch.Tensor:
    return torch.cat([norm.weight.detach() for norm in norms(nr.module)])


@pytest.mark.parametrize(("kind", "rate"), [(SGD, 0.5), (Adam, 0.05), (AdamW, 0.05)])
def test_a_proximal_step_moves_gammas_by_rate_times_lambda_and_leaves_them_at_zero(
    kind: type[Optimizer], rate: float
) -> None:
    nr = searching(kind, penalty="proximal", weighted="alike")
    with torch.no_grad():
        for norm in norms(nr.module):
            norm.weight.copy_(torch.linspace(-1.2, 1.2, norm.num_features) * rate)
    before = gammas(nr)
    nr.penalize()
    assert not any(bool(parameter.grad.any()) for parameter in nr.module.parameters())
    nr.step()
    expected = before.sign() * (before.abs() - rate * 0.5).clamp(min=0)
    torch.testing.assert_close(gammas(nr), expected)
    near = before.abs() < rate * 0.5
    assert near.any() and not gammas(nr)[near].any()


def test_under_momentum_both_penalties_take_a_gamma_as_far_in_the_long_run() -> None:
    moved = []
    for penalty in ("sign", "proximal"):
        nr = searching(lam=0.01, lr=0.01, penalty=penalty)
        for _ in range(100):
            for parameter in nr.module.parameters():
                parameter.grad.zero_()
            nr.penalize()
            nr.optimizer.step()
            nr.step()
        moved.append(1 - float(gammas(nr).mean()))
    # the momentum needs its first steps to build up: 100 steps of the proximal one, 91 of the other
    assert moved == pytest.approx([0.091, 0.1], rel=0.01)


def test_attached_each_optimizer_moves_the_gammas_that_it_holds_by_its_own_rate() -> None:
    gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE))
    first, *others = norms(gm)
    rest = [p for p in gm.parameters() if p is not first.weight]
    optimizers = [SGD([first.weight], lr=0.1), SGD(rest, lr=0.01)]
    nr = Rejuvenator(gm, optimizers, nrfx.Budget.relative(gm, params=1.0), interval=1000, weighted="alike").attach()
    nr.load_state_dict({**nr.state_dict(), "lam": 1.0})
    for parameter in gm.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in optimizers:
        optimizer.step()
    assert bool((first.weight == 0.9).all())
    assert all(torch.allclose(norm.weight, torch.tensor(0.99)) for norm in others)
    assert nr.steps == 1


def test_a_gamma_without_a_gradient_is_left_and_so_is_one_outside_of_the_search() -> None:
    nr = searching(penalty="proximal", max_events=1)
    first, *others = norms(nr.module)
    first.weight.grad = None
    nr.penalize(), nr.step()
    assert bool((first.weight == 1).all()) and all(bool((norm.weight < 1).all()) for norm in others)
    nr.events, before = 1, gammas(nr)
    nr.step()
    assert torch.equal(gammas(nr), before)


def test_gradients_may_be_gone_when_the_step_is_counted() -> None:
    nr, optimizer = set_up(interval=1000)
    nr.load_state_dict({**nr.state_dict(), "lam": 0.5})
    before = gammas(nr)
    for parameter in nr.module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    nr.penalize()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    nr.step()
    assert bool((gammas(nr) < before).all())
    again = gammas(nr)
    nr.step()  # which follows no gradients at all
    assert torch.equal(gammas(nr), again)


def test_copies_of_a_gamma_in_the_optimizer_follow() -> None:
    nr = searching(ASGD, penalty="proximal", weighted="alike")
    nr.optimizer.step()
    gamma = norms(nr.module)[0].weight
    average = nr.optimizer.state[gamma]["ax"]
    before = average.clone()
    nr.penalize(), nr.step()
    torch.testing.assert_close(average, before - 0.05 * 0.5)


@pytest.mark.parametrize("penalty", ["sign", "proximal"])
def test_the_larger_a_gamma_is_against_the_mean_the_less_it_is_pulled(penalty: str) -> None:
    """By 2 - 1.5 gamma / mean in lambda, and from 4/3 of the mean on not at all; alike where none are spared."""
    pulls = {}
    for spare in ("large", "none"):
        nr = searching(lam=0.01, lr=1.0, penalty=penalty, weighted="alike", spare=spare)
        with torch.no_grad():
            for norm in norms(nr.module):
                norm.weight.copy_(torch.linspace(0.4, 3.6, norm.num_features))
        nr.load_state_dict({**nr.state_dict(), "mean": 2.0})
        before = gammas(nr)
        nr.penalize()
        pulled = torch.cat([norm.weight.grad for norm in norms(nr.module)])
        nr.step()
        pulls[spare] = pulled / 0.01 if penalty == "sign" else (before - gammas(nr)) / (10 * 0.01)
    torch.testing.assert_close(pulls["none"], torch.ones_like(before), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pulls["large"], (2 - 0.75 * before).clamp(min=0), rtol=1e-4, atol=1e-4)
    assert bool((pulls["large"][before > 2.7] == 0).all()) and bool((before > 2.7).any())


def test_the_mean_is_that_of_all_gammas_that_can_die_at_the_last_measurement() -> None:
    nr, _ = set_up(trigger=1e-9, interval=2, weighted="alike")
    assert nr.state_dict()["mean"] is None
    with torch.no_grad():
        norms(nr.module)[0].weight[:4] = 0
        norms(nr.module)[1].weight.mul_(-3)
    masks = nr._watched.penalty.gammas
    expected = torch.cat([nr.module.get_parameter(name).detach().abs()[mask] for name, mask in masks.items()]).mean()
    step(nr)
    assert nr.state_dict()["mean"] is None  # nothing was measured yet, and lambda is 0
    step(nr)
    assert nr.state_dict()["mean"] == pytest.approx(float(expected)) and expected != 1
    with torch.no_grad():
        norms(nr.module)[1].weight[0] = float("nan")
    nr._watched.penalty.look("again")
    assert nr.state_dict()["mean"] is None  # of a network that has diverged
    other, _ = set_up(trigger=1e-9, interval=1, spare="none")
    step(other)
    assert other.state_dict()["mean"] is None
    other.load_state_dict({**other.state_dict(), "mean": 2.0})
    assert other.state_dict()["mean"] is None


def test_a_gamma_of_mean_size_dies_in_the_time_of_the_forecast_while_the_others_stay() -> None:
    nr = searching(lam=0.01, lr=0.01, weighted="alike")
    nr.load_state_dict({**nr.state_dict(), "mean": 1.0})
    told = float(dying_time(nr._law(), nr.lam).split("takes ")[1].split(" steps")[0])
    steps = 0
    while float(gammas(nr)[0]) > 0.01:
        nr.penalize(), nr.step()
        steps += 1
    assert steps == pytest.approx(told, rel=0.03) and steps < 0.95 / (0.01 * 0.1)
    alike = searching(lam=0.01, lr=0.01, spare="none")
    assert "takes 990 steps" in dying_time(alike._law(), alike.lam)
    assert "and the others stay" in nr.forecast and "others" not in alike.forecast


@pytest.mark.parametrize("penalty", ["sign", "proximal"])
@pytest.mark.parametrize("measure", ["params", "flops"])
def test_weighted_gammas_are_pulled_by_what_their_channels_cost_with_a_mean_of_one(measure: str, penalty: str) -> None:
    plain, nr = (searching(lam=0.01, lr=1.0, penalty=penalty, weighted=each) for each in ("alike", measure))
    weights = torch.cat(list(gamma_weights(nr.module, measure).values()))
    pulls = []
    for each in (plain, nr):
        before = gammas(each)
        each.penalize()
        pulled = torch.cat([norm.weight.grad for norm in norms(each.module)])
        each.step()
        pulls.append(pulled if penalty == "sign" else before - gammas(each))
    torch.testing.assert_close(pulls[1] / pulls[0], weights / weights.mean(), rtol=1e-3, atol=1e-5)
    assert float(weights.max()) > 1.5 * float(weights.min())


def test_weights_follow_the_channels_that_have_died() -> None:
    nr, optimizer = set_up(weighted="params", trigger=1e-9, delta_lambda=0.1)
    step(nr), step(nr)
    before = {name: weight.clone() for name, weight in nr._watched.penalty._weights.items()}
    with torch.no_grad():
        norms(nr.module)[0].weight[:4] = 0
    step(nr)
    after = nr._watched.penalty._weights
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert float(torch.cat([*after.values()]).mean()) == pytest.approx(1)
    assert learn(nr, optimizer) is not None


def test_weights_of_a_search_that_goes_on_are_those_that_it_had() -> None:
    """They are of the last measurement: channels that died since do not change them yet."""
    nr, _ = set_up(nn.Sequential(*vgg_bn()), interval=3, trigger=1e-9, delta_lambda=0.1)
    step(nr), step(nr), step(nr)
    with torch.no_grad():
        norms(nr.module)[0].weight[:4] = 0
    step(nr)
    again, _ = set_up(nn.Sequential(*vgg_bn()), interval=3, trigger=1e-9, delta_lambda=0.1)
    again.module.load_state_dict(nr.module.state_dict())
    again.load_state_dict(json.loads(json.dumps(nr.state_dict())))
    for name, weight in nr._watched.penalty.weights.items():
        assert torch.equal(weight, again._watched.penalty.weights[name]), name
    fresh = gamma_weights(nr.module, "params")
    assert not torch.equal(torch.cat([*fresh.values()]), torch.cat([*nr._watched.penalty.weights.values()]))
    step(nr), step(nr), step(again), step(again)
    for name, weight in nr._watched.penalty.weights.items():
        assert torch.equal(weight, again._watched.penalty.weights[name]), name


def test_what_channels_cost_is_computed_again_only_where_something_else_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nr, _ = set_up(trigger=1e-9, delta_lambda=1e-9)
    step(nr)
    asked = []

    def counted(*args: Any, **options: Any) -> dict[str, torch.Tensor]:
        asked.append(1)
        return gamma_weights(*args, **options)

    monkeypatch.setattr("nrfx.training.penalty.gamma_weights", counted)
    step(nr), step(nr)
    assert not asked
    with torch.no_grad():
        norms(nr.module)[0].weight[:4] = 0
    step(nr), step(nr)
    assert len(asked) == 1


def test_channels_that_cost_nothing_are_not_pulled(monkeypatch: pytest.MonkeyPatch) -> None:
    def free(module: nn.Module, *_: Any, **__: Any) -> dict[str, torch.Tensor]:
        return {name: 0 * weight for name, weight in gamma_weights(module).items()}

    monkeypatch.setattr("nrfx.training.penalty.gamma_weights", free)
    nr = searching(penalty="proximal", weighted="flops")
    nr.penalize(), nr.step()
    assert bool((gammas(nr) == 1).all())


def test_the_forecast_of_a_proximal_penalty_is_known_for_every_optimizer() -> None:
    forecasts = [searching(kind, lr=0.01, penalty="proximal").forecast for kind in (Adam, ASGD)]
    assert forecasts[0] == forecasts[1] and "dies after" in forecasts[0]
    assert "not known" in searching(ASGD, lr=0.01, penalty="sign").forecast


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"penalty": "l1"}, "penalty is 'l1'; expected 'sign' or 'proximal'"),
        ({"weighted": "time"}, "weighted is 'time'; expected 'budget' or 'params' or 'flops' or 'alike'"),
        ({"spare": "small"}, "spare is 'small'; expected 'large' or 'none'"),
        ({"raise_lambda": "never"}, "raise_lambda is 'never'; expected 'slow' or 'late'"),
        ({"raise_lambda": "late"}, "no end to be late for: give until="),
    ],
)
def test_choices_that_are_none_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        set_up(**options)


def test_a_lambda_that_is_raised_when_late_waits_while_r_is_on_course() -> None:
    lams = {}
    for rule in ("slow", "late"):
        nr, _ = set_up(nn.Sequential(*vgg_bn()), raise_lambda=rule, until=40, trigger=0.2, delta_r=0.5)
        for index in range(6):
            with torch.no_grad():
                norms(nr.module)[-1].weight[:index] = 0
            step(nr)
        lams[rule] = nr.lam / 5e-5
    assert lams["slow"] == pytest.approx(5) and lams["late"] < 2
