"""Neural rescaling: which gammas go back to gamma0, that the function stays, and who keeps factor 1 and is named."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nrfx
from tests.zoo import IMAGE, SMALL, calibrated, cbr, conv_bn, head, norms, vgg_bn, with_dead

SCHEMES = ("attention", "dense", "removed")
GAMMA0 = 0.9  # calibrated gammas lie between 0.5 and 1.5
RELU = ("vgg_bn", "vgg_conv_bias", "resnet", "resnet_bottleneck", "densenet_postact", "inception", "aux_net")


def images(seed: int = 1) -> Tensor:
    return torch.randn(IMAGE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def traced(model: str | nn.Module, dead: float = 0.4, beta: str = "random") -> nrfx.TracedModule:
    torch.manual_seed(0)
    model = SMALL[model]() if isinstance(model, str) else model
    return nrfx.trace(with_dead(calibrated(model), dead, beta), images())


def rewritten(gm: nrfx.TracedModule, **options) -> nrfx.Rejuvenation:
    options = {"gamma0": GAMMA0, "generator": torch.Generator().manual_seed(0), **options}
    return nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), **options)


def survivors(gm: nn.Module, result: nrfx.Rejuvenation, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """(old gamma, new gamma, factor) of the gammas that stayed, carriers left out."""
    new = result.module.get_parameter(name).detach()
    old = gm.get_parameter(name).detach()
    places, factor = result.origins[name][0], result.factors[name][0]
    places = torch.arange(new.numel()) if places is None else places
    factor = torch.ones(new.numel(), dtype=torch.float64) if factor is None else factor
    stays = (places >= 0) & (factor != 0)
    return old[places[stays]], new[stays], factor[stays]


def gammas(gm: nn.Module) -> list[str]:
    return [f"{path}.weight" for path, module in gm.named_modules() if isinstance(module, nn.BatchNorm2d)]


def check_law(gm: nn.Module, result: nrfx.Rejuvenation, gamma0: float = GAMMA0) -> tuple[int, int]:
    """How many gammas were scaled, and how many were left though they are small; raises where the law does not hold."""
    scaled = left = 0
    for name in gammas(gm):
        old, new, factor = survivors(gm, result, name)
        moved = factor != 1
        assert torch.equal(new[~moved], old[~moved]), name
        assert bool((new[moved].abs() >= gamma0 * (1 - 1e-12)).all()), name
        assert bool((factor > 0).all()) and torch.equal(new.sign(), old.sign()), name
        torch.testing.assert_close(new, old * factor)
        dead = old.abs() < 0.01 * gm.get_parameter(name).detach().abs().max()
        small = ~moved & ~dead & (old.abs() < gamma0)
        assert named(result, name) == int(small.sum()), (name, result.notes)
        assert not (moved & dead).any(), name
        scaled, left = scaled + int(moved.sum()), left + int(small.sum())
    return scaled, left


def named(result: nrfx.Rejuvenation, name: str) -> int:
    """How many gammas of a norm the notes say were left alone."""
    matches = [
        re.match(rf"{re.escape(name)}: (\d+) gammas below \S+ not rescaled: .+\.", note) for note in result.notes
    ]
    return sum(int(match[1]) for match in matches if match)


def why(result: nrfx.Rejuvenation) -> set[str]:
    return {note.partition("not rescaled: ")[2].rstrip(".") for note in result.notes if "not rescaled" in note}


# Who keeps the factor 1


def test_without_the_option_no_gamma_moves() -> None:
    gm = traced("vgg_bn")
    result = rewritten(gm, rescale=False)
    for name in gammas(gm):
        old, new, factor = survivors(gm, result, name)
        assert torch.equal(old, new) and bool((factor == 1).all())


def test_channels_of_a_stream_are_left_and_named() -> None:
    gm = traced("resnet")
    result = rewritten(gm)
    scaled, left = check_law(gm, result)
    assert scaled and left and "it lies on a residual stream" in why(result)
    for name in ("bn1.weight", "layer1.0.bn2.weight", "layer2.0.downsample.1.weight"):
        assert bool((survivors(gm, result, name)[2] == 1).all())


def test_carriers_keep_gamma_0_and_are_named() -> None:
    gm = traced("vgg_bn")
    result = rewritten(gm)
    for birth, norm in (("0", "1"), ("4", "5")):
        assert birth in result.carriers
        gamma, factor = result.module.get_parameter(f"{norm}.weight"), result.factors[f"{norm}.weight"][0]
        assert int((gamma == 0).sum()) == int((factor == 0).sum()) == 1
    assert any(note.startswith("Carriers of constants: 2, in 0, 4") for note in result.notes)


def test_held_channels_are_left_and_named() -> None:
    gm = traced("mobilenet_se")
    result = rewritten(gm)
    held = {name: int((survivors(gm, result, name)[0] == 0).sum()) for name in gammas(gm)}
    assert sum(held.values()) > 0 and any(note.startswith("Held:") for note in result.notes)
    for name in gammas(gm):
        old, new, factor = survivors(gm, result, name)
        assert bool((factor[old == 0] == 1).all()) and not new[old == 0].any()


@pytest.mark.parametrize(
    ("activation", "reason"),
    [
        (nn.Hardswish, "Hardswish"),
        (nn.ReLU6, "ReLU6"),
        (nn.SiLU, "SiLU"),
        (nn.GELU, "GELU"),
        (nn.Sigmoid, "Sigmoid"),
    ],
)
def test_gammas_behind_an_activation_that_is_not_homogeneous_are_left_and_named(activation: type, reason: str) -> None:
    gm = traced(nn.Sequential(cbr(3, 8, act=activation), cbr(8, 8), *head(8)), beta="zero")
    result = rewritten(gm)
    scaled, left = check_law(gm, result)
    assert scaled and left
    assert bool((survivors(gm, result, "0.1.weight")[2] == 1).all())
    assert any(note.startswith("0.1.weight") and "0.2" in note for note in result.notes), result.notes
    assert nrfx.verify(gm, result, images()) < 1e-7


@pytest.mark.parametrize("activation", [nn.LeakyReLU, nn.PReLU, nn.Identity, nn.MaxPool2d], ids=lambda a: a.__name__)
def test_gammas_behind_what_is_homogeneous_are_scaled(activation: type) -> None:
    act = (lambda: nn.MaxPool2d(2)) if activation is nn.MaxPool2d else activation
    gm = traced(nn.Sequential(cbr(3, 8, act=act), cbr(8, 8), *head(8)), beta="zero")
    result = rewritten(gm)
    assert check_law(gm, result)[1] == 0
    assert nrfx.verify(gm, result, images()) < 1e-7


def test_a_gamma_before_another_norm_is_left_and_named() -> None:
    gm = traced(nn.Sequential(*conv_bn(3, 8), nn.BatchNorm2d(8), nn.ReLU(), *head(8)), dead=0.3, beta="zero")
    result = rewritten(gm)
    check_law(gm, result)
    assert "the norm 2 follows" in why(result)


# The law


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", RELU)
def test_on_relu_networks_what_is_rescaled_reaches_gamma0_and_the_function_stays(name: str, scheme: str) -> None:
    gm = traced(name)
    result = rewritten(gm, scheme=scheme)
    scaled, _ = check_law(gm, result)
    assert scaled > 0
    assert nrfx.verify(gm, result, images()) < 1e-7
    assert why(result) <= {"it lies on a residual stream"}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["vgg_bn", "resnet", "densenet_postact", "mobilenet"])
def test_the_law_holds_over_several_rejuvenations_with_training_in_between(name: str, scheme: str) -> None:
    gm = traced(name)
    total = 0
    for event in range(3):
        result = rewritten(gm, scheme=scheme, generator=torch.Generator().manual_seed(event))
        total += check_law(gm, result)[0]
        assert nrfx.verify(gm, result, images()) < 1e-7
        gm = trained(result.module, event)
    assert (total > 0) == (name != "mobilenet")  # all of its gammas that are no stream's stand before a ReLU6


def trained(gm: nrfx.TracedModule, seed: int) -> nrfx.TracedModule:
    """The network after training steps that move cross weights; its gammas are shrunk, and some of each norm are 0."""
    optimizer = torch.optim.SGD(gm.train().parameters(), lr=0.01)
    for step in range(3):
        optimizer.zero_grad()
        F.cross_entropy(gm(images(step)), torch.tensor([0, 1])).backward()
        optimizer.step()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in norms(gm):
            norm.weight.mul_(0.5 + 0.4 * torch.rand(norm.num_features, generator=generator, dtype=torch.float64))
            norm.weight[torch.randperm(norm.num_features, generator=generator)[: norm.num_features // 4]] = 0.0
    return gm.eval()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_gamma_is_raised_by_more_than_the_limit(scheme: str) -> None:
    gm = traced("resnet")
    free, result = rewritten(gm, scheme=scheme), rewritten(gm, scheme=scheme, rescale_limit=1.25)
    factors = [torch.cat([survivors(gm, each, name)[2] for name in gammas(gm)]) for each in (free, result)]
    assert float(factors[0].max()) > 1.25 and torch.equal(factors[1], factors[0].clamp(max=1.25))
    assert nrfx.verify(gm, result, images()) < 1e-9


def test_gamma0_is_what_each_norm_had_when_it_was_traced() -> None:
    model = vgg_bn().double()
    with torch.no_grad():
        for norm, value in zip(norms(model), (0.5, 1.0, 2.0), strict=True):
            norm.weight.fill_(value)
    gm = nrfx.trace(model, images())
    with torch.no_grad():
        for norm in norms(gm):
            norm.weight.mul_(0.3)
            norm.weight[:3] = 0.0
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))
    for name, gamma0 in zip(gammas(gm), (0.5, 1.0, 2.0), strict=True):
        assert bool((survivors(gm, result, name)[1] >= gamma0 * (1 - 1e-12)).all())
