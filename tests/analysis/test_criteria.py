"""Scores by hand on small networks, and what the criteria refuse."""

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx import liveness
from nrfx.analysis.criteria import criterion_of
from nrfx.analysis.criterion import Criterion
from nrfx.analysis.utilization import Utilization
from nrfx.errors import AnalysisError

X = torch.tensor([[1.0, 2.0], [3.0, 0.0]])


def net() -> nn.Sequential:
    """Hidden units relu(x0), relu(x1), relu(-x0) (never fires on X), relu(0.1 * x0); outgoing sums 1, 4, 9, 1."""
    model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.1, 0.0]]))
        model[2].weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 0.5], [0.0, -2.0, 6.0, -0.5]]))
    return model


def left(criterion: object, model: nn.Module | None = None, x: Tensor = X) -> int:
    """How many hidden units a criterion leaves."""
    return usage(criterion, model, x).rows[0].out_live


def usage(criterion: object, model: nn.Module | None = None, x: Tensor = X) -> Utilization:
    return nrfx.utilization(nrfx.trace(net() if model is None else model, x), liveness=criterion)


def test_gamma_is_what_it_was_and_needs_no_criterion() -> None:
    assert criterion_of("gamma") is None
    assert left("gamma") == 4


def test_a_relu_that_never_fires_is_dormant_at_any_tau() -> None:
    # mean |x|: 2, 1, 0, 0.2; the layer's mean is 0.8
    taus = (0.0, 0.24, 0.26, 1.24, 1.26)
    assert [left(liveness.Activation([X], tau=tau)) for tau in taus] == [3, 3, 2, 2, 1]


def test_utility_is_the_running_mean_of_activation_times_outgoing_weights() -> None:
    # of the batches by themselves |x| is (1, 2, 0, 0.1) and (3, 0, 0, 0.3); of decay 0.5 the mean is (a + 2 b) / 3
    size = torch.tensor([(1 + 2 * 3) / 3, 2 / 3, 0.0, (0.1 + 2 * 0.3) / 3])
    score = size * torch.tensor([1.0, 4.0, 9.0, 1.0])
    relative = sorted((score / score.mean()).tolist())
    batches = [X[:1], X[1:]]
    for at, value in enumerate(relative):
        assert left(liveness.Utility(batches, tau=value + 1e-6, decay=0.5)) == max(3 - at, 1)


def test_weight_finds_filters_of_zeros_and_small_ones() -> None:
    model = net()
    assert left("weight", model) == 4
    with torch.no_grad():
        model[0].weight[1] = 0.0
    assert left("weight", model) == 3
    assert left(liveness.Weight(0.5), model) == 2  # norms 1, 0, 1, 0.1; their mean is 0.525


def test_gammas_are_relative_to_the_largest() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, 0.3, -0.02, 0.0]))
    assert [left(liveness.Gamma(tau), model) for tau in (0.0, 0.05, 0.5)] == [3, 2, 1]


def test_a_mask_says_what_stays_and_a_score_how_much() -> None:
    assert left({"0": torch.tensor([True, False, False, True])}) == 2
    assert left(liveness.Scores({"0": [0.1, 5.0, 0.2, 7.0]}, tau=0.2)) == 2
    assert left(lambda name, module: torch.tensor([True, False, True, True]) if name == "0" else None) == 3


def test_layers_that_are_not_named_say_nothing() -> None:
    assert left({}) == 4
    assert left({"2": torch.tensor([True, False])}) == 4  # the network's output is pinned


@pytest.mark.parametrize(
    "given, told",
    [
        ("activation", r"nrfx.liveness.Activation\(\[x, ...\]\)"),
        ("dormant", "liveness is 'dormant'; expected \"gamma\""),
        (3, "liveness is 3"),
        ({"O": [True] * 4}, "liveness names 'O', and no layer with channels is called so; there are 0"),
        ({"0": [True] * 3}, r"liveness gives 0 a tensor of shape \[3\]; expected .* each of the 4 channels"),
        ({"0": [0.1] * 4}, r"scores and no threshold: use nrfx.liveness.Scores\(..., tau=...\)"),
        ({"0": [0.1, 0.2, float("nan"), 1.0]}, "a score that is not finite"),
    ],
)
def test_what_is_no_criterion_is_refused_by_name(given: object, told: str) -> None:
    with pytest.raises(AnalysisError, match=told):
        left(given)


@pytest.mark.parametrize(
    "build, told",
    [
        (lambda: liveness.Activation([X], tau=-1), "tau is -1; expected a number of 0 or more"),
        (lambda: liveness.Utility([X], decay=1.0), "decay is 1.0"),
        (lambda: liveness.Activation(X), "batches is one Tensor; expected a list of batches"),  # type: ignore[arg-type]
        (lambda: liveness.Activation(iter([X])), "batches is one"),  # type: ignore[arg-type]
        (lambda: liveness.Weight(most=2.0), "most is 2.0; expected a part of a layer"),
        (lambda: liveness.Weight(min_width=0), "min_width is 0"),
        (lambda: liveness.Weight(keep="fc"), "keep is 'fc'; expected a list"),
        (lambda: liveness.Weight(group="least"), "group is 'least'; expected one of max, mean, sum"),  # type: ignore[arg-type]
        (lambda: liveness.Weight(budget=3), "budget is 3"),  # type: ignore[arg-type]
    ],
)
def test_arguments_out_of_range_are_refused(build: object, told: str) -> None:
    assert callable(build)
    with pytest.raises(AnalysisError, match=told):
        build()


def test_batches_that_do_not_go_through_are_refused_by_number() -> None:
    criteria: tuple[tuple[Criterion, str], ...] = (
        (liveness.Activation([]), "There is no batch"),
        (liveness.Activation([X, torch.zeros(2, 3)]), r"Batch 1, of shape \[2, 3\], does not go through"),
        (liveness.Activation([X * float("inf")]), "is not finite"),
        (liveness.Activation(["a"]), "Batch 0 is to begin with 1 input tensor"),
    )
    for criterion, told in criteria:
        with pytest.raises(AnalysisError, match=told):
            left(criterion)
