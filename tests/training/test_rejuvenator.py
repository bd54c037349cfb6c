"""The Rejuvenator around a loop: what it refuses, the penalty, the search, the event, and going on."""

import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

import nrfx
from nrfx.errors import BudgetError, NrfxError, RewriteError, TrainingError, TrainingWarning
from nrfx.training.events import Event, Measurement
from nrfx.training.rejuvenator import Rejuvenator
from tests.training.small_loop import contents, equal, kill, learn, set_up, step
from tests.training.unknown import Unknown
from tests.zoo import IMAGE, SMALL, norms, resnet, vgg_bn

# What it refuses


@pytest.mark.parametrize(("options", "message"), [
    ({"trigger": 0.0}, r"trigger is 0\.0; expected .* above 0"),
    ({"trigger": float("nan")}, "trigger is nan"),
    ({"interval": 0}, "interval is 0; expected a whole number of 1 or more"),
    ({"interval": 2.5}, r"interval is 2\.5"),
    ({"max_events": 0}, "max_events is 0"),
    ({"until": 0}, "until is 0"),
    ({"interval": 10, "until": 9}, "until is 9, before the first measurement at step 10"),
    ({"delta_lambda": -1.0}, r"delta_lambda is -1\.0"),
    ({"delta_r": -1.0}, r"delta_r is -1\.0"),
    ({"shceme": "dense"}, r"unknown option 'shceme' \(close to it: scheme\); nrfx.rejuvenate takes .*scheme"),
    ({"intervall": 5}, r"unknown option 'intervall' \(close to it: interval\); nrfx"),
    ({"xyz": 5}, "unknown option 'xyz'; nrfx.rejuvenate takes"),
    ({"budget": nrfx.Budget(params=100)}, r"more than the budget of 100\. Lower the trigger below 0\.0"),
])  # fmt: skip
def test_an_argument_out_of_range_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        set_up(**options)


def test_an_optimizer_over_other_parameters_is_refused_by_the_name_of_a_gamma() -> None:
    gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE))
    with pytest.raises(TrainingError, match=r"none of the 3 gammas that can die, such as 1\.weight.*gm\.parameters"):
        Rejuvenator(gm, SGD(vgg_bn().parameters(), lr=0.1), nrfx.Budget(params=10**6))


def test_an_optimizer_whose_state_cannot_be_carried_is_refused_at_once() -> None:
    gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE))
    with pytest.raises(TrainingError, match=r"Unknown is no optimizer of which nrfx knows.*register_optimizer"):
        Rejuvenator(gm, Unknown(gm.parameters(), lr=0.0), nrfx.Budget(params=10**6))


def test_state_that_fits_no_parameter_is_found_at_the_first_measurement() -> None:
    nr, optimizer = set_up(interval=2)
    assert learn(nr, optimizer) is None
    optimizer.state[nr.module.get_parameter("0.weight")]["trace"] = torch.ones(7)
    with pytest.raises(TrainingError, match="SGD keeps 'trace'"):
        learn(nr, optimizer)


@pytest.mark.parametrize("place", ["rejuvenator.rewritten", "change.migrate", "change.become", "rejuvenator.Watched"])
def test_a_rejuvenation_that_fails_changes_nothing(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nr, optimizer = set_up()
    learn(nr, optimizer)
    kill(nr)

    def fails(*_: object, **__: object) -> None:
        raise RewriteError("no")

    monkeypatch.setattr(f"nrfx.training.{place}", fails)
    before = contents(nr, optimizer)
    with pytest.raises(RewriteError):
        nr.step()
    assert equal(before, contents(nr, optimizer))
    monkeypatch.undo()
    assert isinstance(nr.step(), Event)


def test_a_budget_that_the_live_part_exceeds_stops_the_event_with_both_numbers() -> None:
    nr, optimizer = set_up()
    kill(nr)
    nr.budget = nrfx.Budget(params=100)
    before = contents(nr, optimizer)
    with pytest.raises(BudgetError, match="100"):
        nr.step()
    assert equal(before, contents(nr, optimizer))


def test_a_gamma_that_is_nan_is_an_error_with_its_name() -> None:
    nr, _ = set_up()
    with torch.no_grad():
        nr.module.get_parameter("5.weight")[3] = torch.nan
    with pytest.raises(NrfxError, match=r"5\.weight\[3\]"):
        nr.step()


# The penalty


def gradients(nr: Rejuvenator) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in nr.module.named_parameters() if p.grad is not None}


def penalized(nr: Rejuvenator) -> dict[str, torch.Tensor]:
    """What penalize adds to gradients of zero."""
    for parameter in nr.module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    nr.penalize()
    return {name: grad for name, grad in gradients(nr).items() if grad.any()}


def test_without_lambda_no_gradient_changes() -> None:
    nr, _ = set_up()
    assert nr.lam == 0
    assert penalized(nr) == {}


def test_gammas_without_a_gradient_are_passed_over() -> None:
    nr, _ = set_up()
    nr.load_state_dict({**nr.state_dict(), "lam": 0.1})
    nr.penalize()
    assert gradients(nr) == {}


def test_the_penalty_is_lambda_times_the_sign_of_every_gamma_that_can_die_and_nothing_else() -> None:
    nr, _ = set_up(penalty="sign", weighted="alike")
    nr.load_state_dict({**nr.state_dict(), "lam": 0.25})
    with torch.no_grad():
        nr.module.get_parameter("1.weight")[:2] = torch.tensor([-3.0, 0.0])
    penalties = penalized(nr)
    assert set(penalties) == {"1.weight", "5.weight", "9.weight"}
    assert penalties["1.weight"].tolist() == [-0.25, 0.0, *[0.25] * 6]


def test_the_streams_of_a_resnet_are_not_penalized_unless_they_are_coupled() -> None:
    lam = {"lam": 0.25}
    live, _ = set_up(resnet(), penalty="sign")
    live.load_state_dict({**live.state_dict(), **lam})
    coupled, _ = set_up(resnet(), residual="coupled", penalty="sign")
    coupled.load_state_dict({**coupled.state_dict(), **lam})
    assert set(penalized(live)) == {"layer1.0.bn1.weight", "layer2.0.bn1.weight", "layer2.1.bn1.weight"}
    assert set(penalized(coupled)) > {"bn1.weight", "layer1.0.bn2.weight", "layer2.0.downsample.1.weight"}


def test_after_the_search_the_penalty_rests() -> None:
    nr, optimizer = set_up(until=2, delta_lambda=0.1)
    for _ in range(2):
        learn(nr, optimizer)
    assert nr.lam > 0
    assert penalized(nr) == {}


# The search


def test_r_is_measured_every_interval_and_at_no_other_step() -> None:
    nr, optimizer = set_up(interval=3)
    answers = [learn(nr, optimizer) for _ in range(7)]
    assert [isinstance(seen, Measurement) for seen in answers] == [False, False, True, False, False, True, False]


def test_lambda_rises_at_each_interval_after_the_first_in_which_nothing_dies() -> None:
    nr, optimizer = set_up(delta_lambda=1e-6)
    lams = [learn(nr, optimizer).lam for _ in range(4)]
    assert lams == pytest.approx([0, 1e-6, 2e-6, 3e-6])


@pytest.mark.parametrize(("steps", "interval", "until"), [(20, 3, None), (20, 3, 10), (9, 2, 9)])
def test_the_number_of_raises_is_bounded_by_the_measurements_of_the_search(
    steps: int, interval: int, until: int | None
) -> None:
    nr, optimizer = set_up(interval=interval, until=until, delta_lambda=1.0, lr=1e-6)
    for _ in range(steps):
        learn(nr, optimizer)
    assert nr.lam == min(steps, until or steps) // interval - 1


@pytest.mark.parametrize(("budget", "expected"), [
    ({"params": 1.0}, "params"), ({"flops": 1.0}, "flops"), ({"params": 1.0, "flops": 1.0}, "larger"),
])  # fmt: skip
def test_r_is_in_the_measure_of_the_budget_and_the_larger_of_two(budget: dict[str, float], expected: str) -> None:
    nr, _ = set_up(vgg_bn(), trigger=0.01)
    nr.budget = nrfx.Budget.relative(nr.module, **budget)
    kill(nr)
    seen = nr.step()
    assert isinstance(seen, Measurement)
    params, flops = seen.utilization.params.ratio, seen.utilization.flops.ratio
    assert params != flops
    assert seen.r == {"params": params, "flops": flops, "larger": max(params, flops)}[expected]


def test_a_search_that_ends_without_an_event_says_so_with_its_numbers() -> None:
    nr, optimizer = set_up(interval=2, until=5, delta_lambda=0.001, lr=0.1)
    notes = [seen.note for _ in range(9) if (seen := learn(nr, optimizer)) is not None]
    assert notes[:-1] == [""]
    assert notes[-1] == nr.note
    for words in (
        "ends at step 5",
        "after 4 steps r is 1.000",
        "trigger 0.5",
        "lambda 0.001",
        "takes 915 steps to die",
        "(spare='none')",
    ):
        assert words in nr.note


def test_a_network_without_a_gamma_that_can_die_is_told_of_from_the_start() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 5))
    with pytest.warns(TrainingWarning, match=r"no norm with a gamma.*insert_scales.*trained as it is"):
        nr, optimizer = set_up(model)
    assert "no norm with a gamma" in nr.note and "trained as it is" in nr.note
    assert isinstance(learn(nr, optimizer), Measurement)


# The event


def test_an_event_changes_the_module_in_place_resets_lambda_and_ends_the_search() -> None:
    nr, optimizer = set_up(delta_lambda=0.01)
    for _ in range(3):
        learn(nr, optimizer)
    old = nr.module
    kill(nr)
    event = step(nr)
    assert isinstance(event, Event)
    assert (event.step, event.lam, event.r < 0.5) == (4, pytest.approx(0.02), True)
    assert nr.module is event.result.module is old
    assert nr.lam == 0
    weights = nr.state_dict()["weights"]
    assert {name: len(each) for name, each in weights.items()} == {
        f"{path}.weight": norm.num_features
        for path, norm in nr.module.named_modules()
        if isinstance(norm, nn.BatchNorm2d)
    }
    assert nr.state_dict() == {
        "weights": weights,
        "steps": 4,
        "events": 1,
        "lam": 0.0,
        "previous_r": None,
        "falls": [],
        "note": "",
        "betas": {},
        "mean": None,
    }
    assert not nr.searching
    assert [p for group in optimizer.param_groups for p in group["params"]] == list(nr.module.parameters())


def test_after_the_reset_lambda_stays_zero_until_there_is_something_to_compare_with() -> None:
    """The paper's authors raise it once more, and 5e-5 then stays for the rest of the training."""
    nr, optimizer = set_up(max_events=None, delta_lambda=0.01)
    kill(nr)
    assert isinstance(nr.step(), Event)
    assert nr.lam == 0
    assert learn(nr, optimizer).lam == 0
    assert learn(nr, optimizer).lam == 0.01


@pytest.mark.parametrize("scheme", ["attention", "dense", "removed"])
@pytest.mark.parametrize("name", ["vgg_bn", "resnet", "mobilenet", "densenet_preact", "aux_net"])
def test_small_networks_end_in_an_event_and_train_on_with_all_their_parameters(name: str, scheme: str) -> None:
    nr, optimizer = set_up(SMALL[name](), scheme=scheme, residual="coupled", trigger=0.9)
    scheduler = StepLR(optimizer, 2)
    learn(nr, optimizer)
    kill(nr, 0.6)
    event = nr.step()
    assert isinstance(event, Event)
    assert event.result.after.params.total <= nr.budget.params
    assert learn(nr, optimizer) is None
    scheduler.step()
    frozen = {name for name, p in nr.module.named_parameters() if p.grad is None and not name.startswith("aux")}
    assert not frozen
    assert all(p.grad.isfinite().all() for p in nr.module.parameters() if p.grad is not None)
    assert all(p in optimizer.state for p in nr.module.parameters() if p.grad is not None)


def test_the_momentum_after_an_event_is_that_before_by_origins_and_factors() -> None:
    nr, optimizer = set_up(scheme="dense")
    for seed in range(3):
        learn(nr, optimizer, seed)
    kill(nr)
    before = {name: optimizer.state[p]["momentum_buffer"].clone() for name, p in nr.module.named_parameters()}
    result = step(nr).result
    assert any(f is not None for factors in result.factors.values() for f in factors)
    for name, parameter in nr.module.named_parameters():
        momentum = optimizer.state[parameter]["momentum_buffer"]
        for index in torch.cartesian_prod(*map(torch.arange, momentum.shape)).reshape(-1, momentum.dim())[::7].tolist():
            origins = [i if o is None else int(o[i]) for i, o in zip(index, result.origins[name], strict=True)]
            factor = 1.0
            for i, f in zip(index, result.factors[name], strict=True):
                factor *= 1.0 if f is None else float(f[i])
            expected = 0.0 if -1 in origins or factor == 0 else float(before[name][tuple(origins)]) / factor
            assert float(momentum[tuple(index)]) == pytest.approx(expected, rel=1e-5, abs=1e-12), (name, index)


@pytest.mark.parametrize("optimizer_of", [SGD, AdamW])
def test_the_penalty_alone_brings_an_event_about_and_training_goes_on(optimizer_of: type[Optimizer]) -> None:
    model = vgg_bn()
    for norm in norms(model):
        nn.init.constant_(norm.weight[norm.num_features // 2 :], 0.05)
    gm = nrfx.trace(model, torch.zeros(IMAGE))
    optimizer = optimizer_of(gm.parameters(), lr=0.004)
    budget = nrfx.Budget.relative(gm, flops=1.0)
    nr = Rejuvenator(gm, optimizer, budget, interval=4, delta_lambda=0.1, trigger=0.7)
    seen = [learn(nr, optimizer, seed) for seed in range(60)]
    assert sum(isinstance(one, Event) for one in seen) == 1
    assert nr.module(torch.zeros(IMAGE)).isfinite().all()


def test_events_come_as_often_as_they_may() -> None:
    nr, optimizer = set_up(max_events=2, trigger=0.9)
    kinds = []
    for _ in range(4):
        kill(nr, 0.3)
        kinds.append(type(nr.step()).__name__)
        learn(nr, optimizer)
        nr.steps -= 1
    assert kinds == ["Event", "Event", "NoneType", "NoneType"]


def test_a_search_that_ends_after_an_event_has_nothing_to_excuse() -> None:
    nr, optimizer = set_up(max_events=2, until=3)
    kill(nr)
    assert isinstance(nr.step(), Event)
    assert [learn(nr, optimizer).note for _ in range(2)] == ["", ""]
    assert not nr.searching


# Resuming


def test_a_state_that_is_not_a_rejuvenators_is_refused_and_nothing_changes() -> None:
    nr, _ = set_up()
    before = nr.state_dict()
    for change, words in (
        ({}, "lacks 'steps'. Known are steps, events, lam, previous_r, falls, note, betas, weights"),
        ({**before, "lamda": 0.1}, "'lamda' is unknown; close to it: lam"),
        ({**before, "steps": "3"}, "steps is '3'; expected a whole number"),
        ({**before, "betas": {"1.bias": [0.5]}}, r"betas\.1\.bias\.0 is 0\.5; expected a whole number"),
        ({**before, "betas": {"gone": [0]}}, r"holds betas that its module has not: {'gone': \[0\]}"),
        ({**before, "betas": {"1.bias": [99]}}, r"holds betas that its module has not: {'1.bias': \[99\]}"),
        ({**before, "betas": {"1.bias": [2**70]}}, "holds betas that its module has not"),
        ({**before, "weights": {"1.weight": [1.0]}}, r"holds 1 weights of 1\.weight, and its module has 8\. Load what"),
        ({**before, "weights": {"1.weight": [float("nan")] * 8}}, r"holds weights of 1\.weight that are no numbers"),
        ({**before, "mean": float("nan")}, "holds a mean of gammas of nan; expected 0 or a positive number, or None"),
        ({**before, "mean": -1.0}, "holds a mean of gammas of -1.0; expected"),
        ({**before, "weights": {"gone": [1.0]}}, "holds 1 weights of gone, and its module has no such parameter"),
    ):
        with pytest.raises(TrainingError, match=rf"The state of a Rejuvenator.* ?{words}"):
            nr.load_state_dict(change)
        assert nr.state_dict() == before


def test_a_resumed_search_goes_on_as_the_one_that_was_saved() -> None:
    nr, optimizer = set_up(delta_lambda=0.01)
    for _ in range(3):
        learn(nr, optimizer)
    saved = json.loads(json.dumps(nr.state_dict()))
    resumed = Rejuvenator(nr.module, optimizer, nr.budget, interval=1, delta_lambda=0.01)
    resumed.load_state_dict(saved)
    assert resumed.state_dict() == nr.state_dict()
    assert step(resumed) == step(nr)


def test_after_an_event_the_resumed_one_takes_the_new_module() -> None:
    nr, _ = set_up()
    kill(nr)
    nr.step()
    other, _ = set_up()
    other.load_state_dict(nr.state_dict(), nr.module)
    assert other.module is nr.module
    assert not other.searching


def test_a_schedule_that_cannot_be_set_back_is_refused_at_once() -> None:
    gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE))
    optimizer = SGD(gm.parameters(), lr=0.1)
    with pytest.raises(TrainingError, match="ReduceLROnPlateau cannot be set back"):
        Rejuvenator(gm, optimizer, nrfx.Budget.relative(gm, params=1.0), scheduler=ReduceLROnPlateau(optimizer))


def test_an_event_sets_the_schedule_back_to_its_first_epoch_when_asked() -> None:
    gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE))
    optimizer = SGD(gm.parameters(), lr=0.05)
    scheduler = StepLR(optimizer, step_size=1, gamma=0.5)
    nr = Rejuvenator(gm, optimizer, nrfx.Budget.relative(gm, params=1.0), interval=2, scheduler=scheduler)
    learn(nr, optimizer)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.025
    kill(nr)
    assert isinstance(learn(nr, optimizer), Event)
    assert optimizer.param_groups[0]["lr"] == 0.05
    learn(nr, optimizer)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.025
