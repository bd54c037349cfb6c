"""The paper's networks: what they cost, to the last digit, and that they rejuvenate with their function kept."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

import nrfx
from benchmarks.networks import Network, dying
from nrfx.choices import Scheme
from nrfx.cli.commands import main
from nrfx.errors import UsageError
from nrfx.models import NETWORKS, create, resolve

COSTS = {
    ("densenet121_postact", 1000): (7_915_688, 2_834_161_664, 6_870_208, 20_480),
    ("vgg16_imagenet", 1000): (37_706_664, 15_369_601_024, 33_584_832, 24_832),
    ("resnet18", 1000): (11_689_512, 1_814_073_344, 11_166_912, 9_600),
    ("resnet34", 1000): (21_797_672, 3_663_761_408, 21_267_648, 17_024),
    ("resnet50", 1000): (25_557_032, 4_089_184_256, 23_454_912, 53_120),
    ("resnet101", 1000): (44_549_160, 7_801_405_440, 42_394_816, 105_344),
    ("vgg19_imagenet", 1000): (20_550_568, 1_624_494_080, 20_026_560, 11_008),
    ("vgg19_cifar", 10): (20_035_018, 2_606_437_376, 20_018_880, 11_008),
    ("vgg19_cifar", 100): (20_081_188, 2_606_483_456, 20_018_880, 11_008),
    ("resnet164_cifar", 10): (1_704_154, 247_646_720, 1_676_464, 25_120),
    ("resnet164_cifar", 100): (1_727_284, 247_669_760, 1_676_464, 25_120),
    ("densenet100_cifar", 10): (8_269_050, 3_194_031_240, 8_236_560, 21_080),
    ("densenet100_cifar", 100): (8_371_740, 3_194_133_840, 8_236_560, 21_080),
    ("mobilenet_v1_050", 1000): (1_331_592, 49_160_192, 807_648, 10_944),
    ("mobilenet_v1_025", 1000): (470_072, 13_570_048, 207_600, 5_472),
}
"""(name, classes) -> params, multiply-adds, and the params of convolutions and of norms; the rest is the classifier.

Counted on other implementations of the same descriptions, in plain torch and in the authors' code.
"""

REDUCED: dict[str, tuple[int, Scheme]] = {
    "vgg19_imagenet": (64, "attention"),
    "vgg16_imagenet": (32, "dense"),
    "densenet121_postact": (64, "removed"),
    "resnet18": (64, "removed"),
    "resnet34": (32, "dense"),
    "resnet50": (64, "attention"),
    "mobilenet_v1_050": (64, "attention"),
    "mobilenet_v1_025": (64, "removed"),
    "vgg19_cifar": (16, "removed"),
    "resnet164_cifar": (16, "attention"),
    "densenet100_cifar": (16, "attention"),
}
"""Sides of images that are smaller than the paper's, and a scheme. Not here: two ResNets that only have more blocks."""


@pytest.mark.parametrize(("name", "found"), [("vgg19_cifer", "close to it: vgg19_cifar"), ("", "they are vgg19_")])
def test_a_network_that_does_not_exist_is_refused_with_what_is_close(name: str, found: str) -> None:
    for ask in (lambda: create(name), lambda: resolve(f"nrfx:{name}")):
        with pytest.raises(UsageError, match=f"no network {name!r} of the paper; {found}"):
            ask()


@pytest.mark.parametrize("number", [0, -1, 2.0, True, "10"])
def test_a_number_of_classes_that_is_none_is_refused(number: object) -> None:
    with pytest.raises(UsageError, match=r"num_classes is .* for resnet18; expected a positive integer"):
        create("resnet18", num_classes=number)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_command_line_knows_the_images_and_the_classes(name: str) -> None:
    with torch.device("meta"):
        resolved = resolve(f"nrfx:{name}", num_classes=7)
    assert [*resolved.module.parameters()][-1].shape == (7,)
    assert resolved.example_inputs[0].shape == NETWORKS[name].shape == (1, 3, NETWORKS[name].side, NETWORKS[name].side)


def test_the_command_line_inspects_a_network_of_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "nrfx:mobilenet_v1_025", "--num-classes", "10"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("nrfx:mobilenet_v1_025 (untrained)") and "215,642 of 215,642" in out


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v1_025"])
def test_gammas_start_at_one_half_and_new_channels_too(name: str) -> None:
    model = create(name, num_classes=5)
    assert {float(norm.weight.detach().min()) for norm in model.modules() if isinstance(norm, _BatchNorm)} == {0.5}
    gm = nrfx.trace(model, torch.zeros(2, 3, 64, 64))
    assert set(gm.gamma0.values()) == {0.5}


def test_convolutions_start_with_the_deviation_that_keeps_the_variance_of_gradients() -> None:
    torch.manual_seed(0)
    for path, fan_out in (("features.10.depthwise.conv", 9), ("features.10.pointwise.conv", 256)):
        weight = create("mobilenet_v1_050").get_submodule(path).weight
        assert float(weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


@pytest.mark.parametrize(("name", "classes"), COSTS)
def test_costs_equal_those_counted_elsewhere_to_the_last_digit(name: str, classes: int) -> None:
    params, flops, convolutions, norms = COSTS[name, classes]
    with torch.device("meta"):
        model, image = create(name, num_classes=classes).eval(), torch.zeros(NETWORKS[name].shape)
        with FlopCounterMode(display=False) as counter:
            model(image)
    assert counter.get_total_flops() == 2 * flops
    of = {kind: [m for m in model.modules() if isinstance(m, kind)] for kind in (nn.Conv2d, _BatchNorm, nn.Linear)}
    assert numbers(of[nn.Conv2d]) == convolutions
    assert numbers(of[_BatchNorm]) == norms
    assert numbers(of[nn.Linear]) == params - convolutions - norms

    u = nrfx.utilization(nrfx.trace(allocated(model), torch.zeros(NETWORKS[name].shape)))
    assert (u.params.total, u.flops.total) == (params, flops)
    classifier = u.rows[-1]
    assert sum(row.flops for row in u.rows if row.op == "Conv2d") == flops - classifier.flops
    assert classifier.flops == classifier.in_ * classes
    assert not u.uncounted


def numbers(modules: list[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def allocated(model: nn.Module) -> nn.Module:
    """A model of the meta device with memory on the CPU, of which only the norms are filled: the rest is not read."""
    model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.reset_parameters()
    return model


@pytest.mark.parametrize("name", REDUCED)
def test_every_network_rejuvenates_with_its_function_kept(name: str) -> None:
    side, scheme = REDUCED[name]
    network = Network(lambda: create(name, num_classes=5), side)
    model, images = dying(network, beta=0.1, calibration=4), network.images(2, seed=7)
    gm = nrfx.trace(model, images[:1])
    result = nrfx.rejuvenate(
        gm, nrfx.Budget.relative(gm, params=1.0), scheme=scheme, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        before, after = model(images), result.module(images)
    scale = float(before.abs().max())
    assert float((before[0] - before[1]).abs().max()) > 1e-2 * scale  # it listens to its input
    assert float((before - after).abs().max()) < 1e-7 * scale
    assert result.changed and result.before.params.ratio < 0.95
    assert 0.999 * result.before.params.total < result.after.params.total <= result.before.params.total


def test_all_names_are_tested() -> None:
    assert REDUCED.keys() | {"resnet101", "resnet152"} == NETWORKS.keys() == {name for name, _ in COSTS} | {"resnet152"}
