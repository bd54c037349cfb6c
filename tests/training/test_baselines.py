"""Network Slimming and MorphNet: what they refuse, the pull, the global threshold, the expansion, digits."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

import nrfx
from nrfx.analysis.spaces import channels_of
from nrfx.errors import AnalysisError, BudgetError, TrainingError
from nrfx.experiment.data import Dataset, batches, digits
from nrfx.experiment.networks import digits_net
from nrfx.experiment.scores import score
from nrfx.training.baselines import morph, penalize, slim
from nrfx.training.gamma_weights import gamma_weights
from nrfx.training.optimizer import migrate
from tests.zoo import IMAGE, SMALL, norms, vgg_bn, with_dead


def random_gammas(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with gammas of both signs in (0, 1), and betas."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in norms(model):
            norm.weight.uniform_(-1, 1, generator=generator)
            norm.bias.normal_(0, 0.1, generator=generator)
    return model


def traced(name: str = "vgg_bn") -> nrfx.TracedModule:
    return nrfx.trace(random_gammas(SMALL[name]()), torch.zeros(IMAGE))


def images(seed: int = 3) -> Tensor:
    return torch.randn(4, *IMAGE[1:], generator=torch.Generator().manual_seed(seed))


def without_norms() -> nrfx.TracedModule:
    return nrfx.trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, 5)), torch.zeros(IMAGE))


# What they refuse


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, math.nan, True, "half"])
def test_a_fraction_that_leaves_nothing_or_is_none_is_refused(fraction: Any) -> None:
    with pytest.raises(TrainingError, match=r"fraction is .*from 0 up to but not 1"):
        slim(traced(), fraction)


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda gm: gamma_weights(gm, "seconds"), TrainingError, "measure is 'seconds'; expected 'params', 'flops'"),
    (lambda gm: gamma_weights(without_norms()), TrainingError, "no norm with a gamma"),
    (lambda gm: penalize(gm, gamma_weights(gm), -1.0), TrainingError, r"strength is -1\.0"),
    (lambda gm: penalize(gm, gamma_weights(gm), math.nan), TrainingError, "strength is nan"),
    (lambda gm: penalize(nrfx.compact(gm, threshold=0.5).module, gamma_weights(gm), 1.0),
     TrainingError, r"weights of 1\.weight are for \[8\] channels, and the module has \[\d\]"),
    (lambda gm: penalize(gm, {"9.gamma": torch.ones(2)}, 1.0), TrainingError, "has no such parameter"),
    (lambda gm: morph(gm, nrfx.Budget(params=10)), BudgetError, "live channels alone"),
    (lambda gm: morph(gm, nrfx.Budget.relative(gm, params=1.0), threshold=2), AnalysisError, "threshold is 2"),
])  # fmt: skip
def test_a_mistake_is_named(call: Callable[[Any], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(traced())


def test_a_gamma_that_is_nan_is_an_error_with_its_name() -> None:
    gm = traced()
    with torch.no_grad():
        gm.get_parameter("5.weight")[3] = torch.nan
    for call in (lambda: slim(gm, 0.5), lambda: gamma_weights(gm, "flops")):
        with pytest.raises(AnalysisError, match=r"5\.weight\[3\] is nan"):
            call()


def test_a_network_without_gammas_comes_back_as_it_is_with_a_note() -> None:
    result = slim(without_norms(), 0.5)
    assert not result.changed and "no norm with a gamma" in result.notes[0]


# The pull


def test_the_penalty_is_strength_times_weight_times_sign_and_nothing_else_gets_any() -> None:
    gm = traced()
    for parameter in gm.parameters():
        parameter.grad = torch.zeros_like(parameter)
    weights = gamma_weights(gm, "params")
    penalize(gm, weights, 0.5)
    pulled = {name: p.grad for name, p in gm.named_parameters() if p.grad is not None and p.grad.any()}
    assert pulled.keys() == weights.keys() == {"1.weight", "5.weight", "9.weight"}
    for name, gradient in pulled.items():
        assert torch.allclose(gradient, 0.5 * weights[name] * gm.get_parameter(name).detach().sign())


def test_streams_are_not_pulled_unless_they_are_coupled() -> None:
    gm = traced("resnet")
    assert gamma_weights(gm).keys() == {"layer1.0.bn1.weight", "layer2.0.bn1.weight", "layer2.1.bn1.weight"}
    assert gamma_weights(gm, residual="coupled").keys() > gamma_weights(gm).keys()


@pytest.mark.parametrize("measure", ["params", "flops"])
def test_a_channels_weight_is_what_the_paper_sums_over_the_layers_that_it_meets(measure: str) -> None:
    """C_before * (live inputs) + C_after * (live outputs), by hand, in a chain of 3x3 convolutions."""
    gm = nrfx.trace(with_dead(vgg_bn((8, 12, 16)), 0.5), torch.zeros(IMAGE))
    live = [4, 6, 8]
    weights = gamma_weights(gm, measure)  # type: ignore[arg-type]
    whole = getattr(nrfx.utilization(gm), measure).total
    pixels = [256, 64, 16] if measure == "flops" else [1, 1, 1]
    own = 0 if measure == "flops" else 2  # gamma and beta
    before = [9 * pixels[i] * ([3, *live][i]) for i in range(3)]
    after = [9 * pixels[1] * live[1], 9 * pixels[2] * live[2], 4 * 5]  # 2 x 2 positions of the last are read by 5 rows
    for name, value in zip(
        ("1.weight", "5.weight", "9.weight"), map(sum, zip(before, after, strict=True)), strict=True
    ):
        assert torch.allclose(weights[name], torch.full_like(weights[name], (value + own) / whole)), name


@pytest.mark.parametrize("measure", ["params", "flops"])
@pytest.mark.parametrize("name", ["resnet", "mobilenet_se", "densenet_postact", "inception", "grouped", "removed"])
def test_a_cheaper_network_by_one_channel_is_what_the_weight_says(name: str, measure: str) -> None:
    """A dead channel saves its share: exactly, or but for a kernel where a layer reads and gives the same channels."""
    gm = nrfx.trace(SMALL.get(name, vgg_bn)(), torch.zeros(IMAGE))
    if name == "removed":  # each generation is read by its own
        half = nrfx.trace(with_dead(gm, 0.5), torch.zeros(IMAGE))
        gm = nrfx.rejuvenate(half, nrfx.Budget.relative(half, params=1.0), scheme="removed", rescale=False).module
        for norm in norms(gm):
            nn.init.zeros_(norm.bias)
    before = getattr(nrfx.utilization(gm), measure)
    channels, gone, square = channels_of(gm), 0, 9 * (256 if measure == "flops" else 1)
    for parameter, weight in gamma_weights(gm, measure).items():  # type: ignore[arg-type]
        for index in {int(weight.argmax()), int(weight.argmin())}:
            at = channels.channels_along(channels.norms[parameter])
            unit, twin = at == at[index], copy.deepcopy(gm)
            with torch.no_grad():  # without a constant, so that the channel can go
                twin.get_parameter(parameter)[unit] = 0
                twin.get_parameter(parameter.replace("weight", "bias"))[unit] = 0
            saved = before.live - getattr(nrfx.utilization(twin), measure).live
            gone += saved > 0
            assert saved in (0, pytest.approx(before.total * float(weight[unit].sum()), abs=square + 0.5)), parameter
    assert gone


# Network Slimming


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.37, 0.5, 0.8, 0.99])
def test_the_weakest_gammas_of_the_whole_network_go_and_one_of_each_layer_stays(fraction: float) -> None:
    gm = traced()
    result = slim(gm, fraction)
    sizes = torch.cat([norm.weight.detach().abs() for norm in norms(gm)])
    threshold = sizes.sort().values[int(fraction * len(sizes))]
    for name in ("1.weight", "5.weight", "9.weight"):
        size = gm.get_parameter(name).detach().abs()
        expected = size < threshold
        expected[size.argmax()] = False
        assert torch.equal(result.removed.get(name, torch.zeros_like(expected)), expected), name


def test_a_fraction_that_has_no_exact_float_counts_as_it_is_written() -> None:
    net = nn.Sequential(nn.Conv2d(3, 100, 1), nn.BatchNorm2d(100), nn.ReLU(), nn.Conv2d(100, 2, 1))
    with torch.no_grad():
        net[1].weight.copy_(torch.linspace(0.1, 1, 100))
    widths = {
        share: slim(nrfx.trace(net, torch.zeros(1, 3, 2, 2)), share).module.get_submodule("0").out_channels
        for share in (0.29, 0.57)
    }
    assert widths == {0.29: 71, 0.57: 43}


def test_a_layer_whose_gammas_are_all_the_smallest_keeps_its_strongest_channel() -> None:
    gm = traced()
    with torch.no_grad():
        gm.get_parameter("5.weight").mul_(1e-2)
        gm.get_parameter("5.bias").zero_()  # no constant to be carried
    result = slim(gm, 0.6)
    conv = result.module.get_submodule("4")
    strongest = int(gm.get_parameter("5.weight").abs().argmax())
    assert conv.out_channels == 1 and result.origins["4.weight"][0].tolist() == [strongest]
    assert result.module(images()).isfinite().all()


def test_two_norms_in_a_row_never_empty_a_layer_between_them() -> None:
    """Each norm's strongest channel is the other's weakest: the channel that is best in both is kept."""
    model = nn.Sequential(
        nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)
    )
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.9, 0.01, 0.1]))
        model[2].weight.copy_(torch.tensor([0.01, 0.9, 0.1]))
    result = slim(nrfx.trace(model, torch.zeros(IMAGE)), 0.9)
    assert result.module.get_parameter("1.weight").tolist() == pytest.approx([0.1])
    assert result.module.get_parameter("2.weight").tolist() == pytest.approx([0.1])


def test_gammas_that_are_all_equal_are_not_below_themselves() -> None:
    result = slim(nrfx.trace(vgg_bn(), torch.zeros(IMAGE)), 0.7)
    assert not result.changed and "Nothing is dead" in result.notes[0]


@pytest.mark.parametrize("name", SMALL)
def test_what_goes_leaves_the_function_with_its_gammas_at_zero(name: str) -> None:
    gm = traced(name)
    before = copy.deepcopy(gm.state_dict())
    result = slim(gm, 0.4)
    assert all(torch.equal(value, gm.state_dict()[key]) for key, value in before.items())
    if result.changed:
        nrfx.verify(gm, result, images())
        assert result.after.params.total < result.before.params.total


def test_gammas_whose_channels_cannot_go_keep_their_values_and_are_counted() -> None:
    gm = traced("mobilenet_se")
    result = slim(gm, 0.4)
    (note,) = [note for note in result.notes if "below the threshold stay" in note]
    assert int(note.split()[0]) > 0
    for name, mask in result.removed.items():
        stays = (~mask).nonzero().flatten()
        assert (gm.get_parameter(name)[stays] != 0).all()


# MorphNet


@pytest.mark.parametrize("measure", ["params", "flops"])
@pytest.mark.parametrize("name", ["vgg_bn", "resnet", "mobilenet", "densenet_preact", "inception"])
def test_the_expansion_fills_the_budget_by_one_factor_with_weights_anew(name: str, measure: str) -> None:
    gm = nrfx.trace(with_dead(SMALL[name](), 0.5), torch.zeros(IMAGE))
    budget = nrfx.Budget.relative(gm, **{measure: 1.0})
    result = morph(gm, budget, generator=torch.Generator().manual_seed(0))
    bound, cost = getattr(budget, measure), getattr(result.after, measure).total
    assert 0.97 * bound < cost <= bound and result.alpha > 1
    assert not result.keeps_function
    assert all(not isinstance(layer, nrfx.nn.Cross) for layer in result.module.modules())
    assert all(torch.equal(norm.weight, torch.ones_like(norm.weight)) for norm in norms(result.module))
    assert all(torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean)) for norm in norms(result.module))


def test_with_the_same_generator_the_weights_are_the_same() -> None:
    gm = nrfx.trace(with_dead(vgg_bn()), torch.zeros(IMAGE))
    first, second = (
        morph(gm, nrfx.Budget.relative(gm, params=1.0), generator=torch.Generator().manual_seed(4)).module.state_dict()
        for _ in range(2)
    )
    assert all(torch.equal(value, second[name]) for name, value in first.items())


# Both on the digits


def learn(
    gm: nn.Module, optimizer: SGD, data: Dataset, epochs: int, weights: Mapping[str, Tensor], strength: float
) -> None:
    """The loop of a user: cross entropy, and the pull on the gammas."""
    generator = torch.Generator().manual_seed(0)
    gm.train()
    for _ in range(epochs):
        for batch in batches(data.train, 32, generator):
            loss = F.cross_entropy(gm(batch.x), batch.y)
            optimizer.zero_grad()
            loss.backward()
            penalize(gm, weights, strength)
            optimizer.step()


@pytest.fixture(scope="module")
def data() -> Dataset:
    return digits(0)


@pytest.fixture
def net(data: Dataset) -> nrfx.TracedModule:
    torch.manual_seed(0)
    return nrfx.trace(digits_net(), data.train.x[:2])


def test_network_slimming_halves_the_channels_of_a_digits_network_and_tunes_the_rest(
    net: nrfx.TracedModule, data: Dataset
) -> None:
    optimizer = SGD(net.parameters(), lr=0.05, momentum=0.9)
    learn(net, optimizer, data, 4, gamma_weights(net), 2e-3)
    result = slim(net, 0.5)
    migrate(optimizer, net, result)
    pruned = score(result.module, data.validation).error
    learn(result.module, optimizer, data, 2, {}, 0.0)
    tuned = score(result.module, data.validation).error
    assert result.after.params.total < 0.6 * result.before.params.total
    assert tuned < 10 and tuned < pruned / 4


def test_morphnet_moves_a_digits_network_to_what_its_flops_are_best_spent_on(
    net: nrfx.TracedModule, data: Dataset
) -> None:
    optimizer = SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(3):
        learn(net, optimizer, data, 2, gamma_weights(net, "flops"), 1.0)
    budget = nrfx.Budget.relative(net, flops=1.0)
    result = morph(net, budget, generator=torch.Generator().manual_seed(0))
    assert result.before.flops.ratio < 0.8 and result.alpha > 1.05
    assert 0.97 * budget.flops < result.after.flops.total <= budget.flops
    learn(result.module, SGD(result.module.parameters(), lr=0.05, momentum=0.9), data, 3, {}, 0.0)
    assert score(result.module, data.validation).error < 30  # from scratch, in three epochs; 90 is chance
