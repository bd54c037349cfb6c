"""Advice from a short search and a trial: what is refused, that seeds decide everything, what two networks are told."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.errors import AnalysisError, TrainingError, UsageError
from nrfx.experiment.advise import _alive, _from_scratch, advise
from nrfx.experiment.config import RunConfig
from nrfx.experiment.data import Dataset, Images
from nrfx.plan.advice import Advice
from nrfx.plan.options import Options
from tests.zoo import head, norms, vgg_bn

QUICK = RunConfig(batch_size=8, lr=0.1, penalty="proximal", shift=0, scheme="dense", rescale=False)


def squares(count: int = 40, classes: int = 5) -> Dataset:
    """Images whose brightness tells their class."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(classes, (count,), generator=generator)
    images = Images(torch.randn(count, 3, 16, 16, generator=generator) + y[:, None, None, None], y)
    return Dataset("squares", classes, images, images, images)


def small(seed: int) -> nrfx.TracedModule:
    torch.manual_seed(seed)
    return nrfx.trace(vgg_bn((4, 6, 24)), torch.zeros(2, 3, 16, 16))


def quick(config: RunConfig = QUICK, **options: object) -> Advice:
    return advise(small, squares(), config, **{"steps": 60, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 59}, "steps is 59; expected 60 or more: lambda rises 30 times"),
        ({"seeds": 0}, "seeds is 0; expected 1 or more"),
    ],
)
def test_too_few_steps_or_seeds_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        quick(**options)


@pytest.mark.parametrize("trigger", [2.0, -1.0])
def test_a_trigger_that_is_no_utilization_is_refused(trigger: float) -> None:
    with pytest.raises(TrainingError, match=f"trigger is {trigger}; expected a utilization above 0 and up to 1"):
        quick(replace(QUICK, trigger=trigger))


def test_the_network_as_it_is_has_its_widths_in_the_trial_whatever_is_dead_in_its_weights() -> None:
    gm = small(0)
    with torch.no_grad():
        norms(gm)[2].weight[:12] = 0
    twin = _alive(gm)
    scratch = _from_scratch(twin, nrfx.Budget.relative(gm, params=1.0), Options(scheme="dense"), seed=0)
    assert [norm.num_features for norm in norms(scratch)] == [norm.num_features for norm in norms(gm)]
    assert not norms(gm)[2].weight[:12].any()


def test_a_network_without_gammas_is_refused_before_anything_is_trained() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *head(8))
    told: list[str] = []
    with pytest.raises(TrainingError, match=r"no norm with a gamma.*insert_scales"):
        advise(
            lambda seed: nrfx.trace(model, torch.zeros(2, 3, 16, 16)),
            squares(),
            QUICK,
            watch=lambda what, step: told.append(what),
        )
    assert told == []


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="larger than the training part"):
        quick(replace(QUICK, batch_size=64))


def test_a_search_that_diverges_is_told() -> None:
    with pytest.raises(AnalysisError, match="Training has diverged: go back"):
        quick(replace(QUICK, lr=1e9, momentum=0.0), delta_lambda=1e-12)


class Impossible(nn.Module):
    """Gives class 0 a probability of 0: the loss is infinite, and all gradients are finite."""

    def __init__(self) -> None:
        super().__init__()
        self.net = vgg_bn()
        self.register_buffer("offset", torch.tensor([-math.inf, 0, 0, 0, 0]))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x) + self.offset
        return out


def test_a_loss_of_the_trial_that_is_not_finite_is_told() -> None:
    def build(seed: int) -> nrfx.TracedModule:
        torch.manual_seed(seed)
        return nrfx.trace(Impossible(), torch.zeros(2, 3, 16, 16))

    with pytest.raises(TrainingError, match=r"The loss was not finite in seed 0, as it is: lower the learning rate"):
        advise(build, squares(), QUICK, steps=60, seeds=1)


def test_seeds_decide_everything_and_no_generator_of_the_user_s_is_touched() -> None:
    one, both = quick(seeds=1), quick(seeds=2)
    assert (one.seeds, both.seeds) == (1, 2)
    assert [both.prospects[0].widths[name][0] for name in both.layers] == [
        one.prospects[0].widths[name][0] for name in one.layers
    ]
    assert one.trial is not None and both.trial is not None
    assert both.trial.plain_loss[0] == one.trial.plain_loss[0] != both.trial.plain_loss[1]
    assert both.trial.planned_loss[0] == one.trial.planned_loss[0]
    second = quick(replace(QUICK, seed=1), seeds=1)
    assert second.trial is not None and second.trial.planned_loss[0] == both.trial.planned_loss[1]


def test_the_search_ends_when_every_budget_is_planned_and_each_is_planned_at_its_own_step() -> None:
    told = quick(seeds=1, trial=False, steps=240)
    assert told.trial is None
    ends = [prospect.steps[0] for prospect in told.prospects]
    assert len(ends) == 3 and max(ends) == told.steps[0] < 240
    for prospect in told.prospects:
        assert prospect.threshold == (0.01,) and prospect.r[0] < told.trigger


def test_of_a_network_that_never_sheds_nothing_is_known() -> None:
    """The penalty is far too weak, and every gamma stays where it began."""
    told = quick(seeds=1, delta_lambda=1e-9, trial=False)
    assert told.r_params == (1.0,) and told.steps == (60,)
    assert told.verdict.gain == "not known" and "too little has died" in told.verdict.reason


def test_where_width_moves_some_layers_starve_and_others_waste() -> None:
    told = quick(steps=120, trial=False)
    assert told.wasting and told.starving and told.verdict.gain == "not known"


def test_both_networks_of_a_trial_are_new_and_cost_no_more_than_the_budget() -> None:
    seen: list[str] = []
    gm = small(0)
    budget = nrfx.Budget.relative(gm, flops=1.0)
    told = quick(budget=budget, seeds=1, watch=lambda what, step: seen.append(what))
    assert told.asked == "flops" and told.prospect is not None and budget.flops is not None
    assert told.prospect.flops[0] <= budget.flops
    assert list(dict.fromkeys(seen)) == ["seed 0, search", "seed 0, as it is", "seed 0, as planned"]


def test_the_network_that_is_built_is_trained_by_the_search_alone() -> None:
    """What `build` gives is searched; the trial has networks of its own."""
    made: list[nrfx.TracedModule] = []

    def build(seed: int) -> nrfx.TracedModule:
        made.append(small(seed))
        return made[-1]

    advise(build, squares(), QUICK, steps=60, seeds=1)
    advise(build, squares(), QUICK, steps=60, seeds=1, trial=False)
    assert len(made) == 2
    pairs = zip(norms(made[0]), norms(made[1]), strict=True)
    assert all(torch.equal(one.weight, other.weight) for one, other in pairs)
