"""Output layers with one head a generation: where there are none, what they compute, and that they stay apart."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nrfx
from nrfx.nn import CrossLinear
from tests.zoo import IMAGE, SMALL, calibrated, cbr, head, norms, vgg_bn


def images(seed: int = 1) -> Tensor:
    return torch.randn(IMAGE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rejuvenated(model: nn.Module | str, scheme: str = "removed", events: int = 1, **options) -> nrfx.Rejuvenation:
    torch.manual_seed(0)
    gm = nrfx.trace(calibrated(SMALL[model]() if isinstance(model, str) else model), images())
    budget = nrfx.Budget.relative(gm, params=1.0)
    for event in range(events):
        kill(gm)
        seeded = torch.Generator().manual_seed(event)
        result = nrfx.rejuvenate(gm, budget, scheme=scheme, generator=seeded, **options)
        assert result.changed and nrfx.verify(gm, result, images()) < 1e-12
        gm = result.module
    return result


@torch.no_grad()
def kill(gm: nn.Module) -> None:
    for norm in norms(gm):
        norm.weight[1::3], norm.bias[1::3] = 0.0, 0.1


def layers_with_heads(gm: nn.Module) -> dict[str, tuple[int, ...]]:
    return {path: m.in_generations for path, m in gm.named_modules() if getattr(m, "is_head", False)}


# Where there are none


@pytest.mark.parametrize("scheme", ["dense", "attention"])
def test_under_other_schemes_the_output_layer_stays_as_it_is(scheme: str) -> None:
    gm = rejuvenated("vgg_bn", scheme).module
    assert type(gm.get_submodule("13")) is nn.Linear
    (output,) = nrfx.heads(gm)(images())
    assert torch.equal(output, gm(images()))


def test_what_was_never_rejuvenated_has_one_head() -> None:
    model = vgg_bn().double()
    for module in (model, nrfx.trace(model, images())):
        (output,) = nrfx.heads(module.eval())(images())
        assert torch.equal(output, module(images()))


def test_a_norm_between_the_layer_and_the_output_is_an_obstacle_and_is_named() -> None:
    result = rejuvenated(nn.Sequential(cbr(3, 8), *head(8), nn.BatchNorm1d(5)))
    assert layers_with_heads(result.module) == {}
    assert "One head for all generations: 4 stands before an output and has parameters" in " ".join(result.notes)


def test_layers_in_which_the_generations_meet_before_the_output_are_named() -> None:
    wide = nn.Sequential(cbr(3, 8), cbr(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    result = rejuvenated(nn.Sequential(wide, nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5)))
    assert "Survivors and rejuvenated meet before the output, in 1." in result.notes
    assert not layers_with_heads(result.module)
    assert not any("meet before" in note for note in rejuvenated("resnet").notes)


def test_compacting_gives_no_head_and_keeps_those_that_there_are() -> None:
    gm = rejuvenated("vgg_bn").module
    kill(gm)
    result = nrfx.compact(gm)
    assert nrfx.verify(gm, result, images()) < 1e-12
    assert len(nrfx.heads(result.module)(images())) == 2


# What they compute


@pytest.mark.parametrize("events", [1, 3])
@pytest.mark.parametrize("name", ["vgg_bn", "resnet", "densenet_postact", "mobilenet", "aux_net", "functional_dropout"])
def test_the_output_is_the_sum_of_the_heads_and_new_heads_start_at_zero(name: str, events: int) -> None:
    gm = rejuvenated(name, events=events, residual="coupled").module
    outputs = nrfx.heads(gm)(images())
    assert len(outputs) == events + 1
    torch.testing.assert_close(sum(outputs), gm(images()), rtol=0, atol=1e-12)
    assert bool(outputs[0].any()) and not any(bool(output.any()) for output in outputs[1:])


def test_the_head_of_the_survivors_has_the_bias_and_no_head_another() -> None:
    gm = rejuvenated("vgg_bn").module
    with torch.no_grad():
        gm.get_parameter("13.weights.0").zero_()
        first, second = nrfx.heads(gm)(images())
    assert torch.equal(first, gm.get_parameter("13.bias").detach().expand(2, 5)) and not second.any()
    assert {name for name, _ in gm.named_parameters() if name.startswith("13")} == {"13.weights.0", "13.bias"}


def test_auxiliary_outputs_have_as_many_heads_and_keep_their_place() -> None:
    gm = rejuvenated("aux_net").module
    assert len(layers_with_heads(gm)) == 2
    gm.train()
    for norm in norms(gm):
        norm.eval()
    outputs, whole = nrfx.heads(gm)(images()), gm(images())
    assert len(outputs) == 2 and all(type(output) is tuple for output in outputs)
    for place in (0, 1):
        torch.testing.assert_close(sum(output[place] for output in outputs), whole[place], rtol=0, atol=1e-12)


def test_an_output_layer_without_new_inputs_gains_an_empty_head_beside_one_that_has_some() -> None:
    class TwoOutputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.trunk = cbr(3, 8), cbr(8, 16)
            self.main, self.other = nn.Linear(16, 5), nn.Linear(3, 5)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"main": self.main(self.trunk(self.stem(x)).mean((2, 3))), "other": self.other(x.mean((2, 3)))}

    gm = rejuvenated(TwoOutputs()).module
    assert layers_with_heads(gm)["other"] == (3, 0)
    first, second = nrfx.heads(gm)(images())
    whole = gm(images())
    assert torch.equal(first["other"], whole["other"]) and not second["other"].any()


def test_what_else_reads_an_output_reads_the_sum() -> None:
    class Chained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.main, self.other = nn.Sequential(cbr(3, 8), cbr(8, 16)), nn.Linear(16, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            scores = self.main(self.trunk(x).mean((2, 3))).relu()
            return scores, self.other(scores)

    gm = rejuvenated(Chained()).module
    with torch.no_grad():
        gm.get_parameter("main.weights.0").normal_(generator=torch.Generator().manual_seed(0))
    first, second = nrfx.heads(gm)(images())
    assert torch.equal(first[1], gm(images())[1]) and not second[1].any()
    assert bool(second[0].any()) and not torch.equal(first[0], gm(images())[0])


class Tailed(nn.Module):
    def __init__(self, tail: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.tail = nn.Sequential(cbr(3, 8), cbr(8, 12), nn.Conv2d(12, 5, 1)), tail

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.body(x))


@pytest.mark.parametrize(
    "tail",
    [
        lambda x: F.adaptive_avg_pool2d(F.relu(x), 1).flatten(1),  # SqueezeNet
        lambda x: F.log_softmax(x.mean((2, 3)), 1),
        lambda x: F.interpolate(x, scale_factor=2.0),  # a segmentation network
    ],
    ids=["pool", "log_softmax", "interpolate"],
)
def test_what_follows_the_layer_follows_each_head(tail: Callable[[Tensor], Tensor]) -> None:
    gm = rejuvenated(Tailed(tail)).module
    maps = []
    hook = gm.get_submodule("body.2").register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    gm(images())
    hook.remove()
    for output, share in zip(nrfx.heads(gm)(images()), gm.get_submodule("body.2").heads(maps[0], (0, 1)), strict=True):
        torch.testing.assert_close(output, tail(share))


@pytest.mark.parametrize("name", ["vgg_bn", "resnet", "densenet_postact"])
def test_no_path_leads_from_new_channels_to_the_first_head_nor_back(name: str) -> None:
    result = rejuvenated(name)
    gm = result.module.train()
    with torch.no_grad():  # a head at zero would pass no gradient on
        for path in layers_with_heads(gm):
            gm.get_parameter(f"{path}.weights.0").fill_(0.1)
    for index, output in enumerate(nrfx.heads(gm)(images())):
        gm.zero_grad()
        output.square().sum().backward(retain_graph=True)
        reached = 0
        for parameter_name, parameter in gm.named_parameters():
            new = fresh(parameter.shape, result.origins[parameter_name])
            foreign = new if index == 0 else ~new
            if not parameter_name.startswith(("13.bias", "fc.bias", "9.bias")):
                grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                assert not grad[foreign].any(), (index, parameter_name)
                reached += int(grad[~foreign].any())
        assert reached > 4


def fresh(shape: torch.Size, origins: tuple[Tensor | None, ...]) -> Tensor:
    """bool: the numbers of a parameter that have a new position along any dim."""
    mask = torch.zeros(shape, dtype=torch.bool)
    for dim, places in enumerate(origins):
        if places is not None:
            mask |= (places < 0).view([-1 if d == dim else 1 for d in range(len(shape))])
    return mask


def test_with_a_quarter_alive_half_the_budget_gives_the_old_widths_back() -> None:
    """Table 4: two blocks of a quarter each, and no others (the image and the classes are not halved)."""
    model = vgg_bn((64, 96, 128))
    for norm in norms(model):
        nn.init.zeros_(norm.weight[::2])
    gm = nrfx.trace(model, torch.zeros(IMAGE))
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=0.5), scheme="removed")
    assert 1.9 < result.alpha < 2.1
    assert result.after.params.total <= result.before.params.total // 2


# That it stays so


def test_copies_files_and_compiled_forms_have_the_same_heads(tmp_path: Path) -> None:
    gm = rejuvenated("resnet").module
    with torch.no_grad():
        gm.get_parameter("fc.weights.0").normal_(generator=torch.Generator().manual_seed(0))
    expected = nrfx.heads(gm)(images())
    nrfx.save(tmp_path / "net", gm)
    loaded = nrfx.load(tmp_path / "net", SMALL["resnet"]()).eval()
    compiled = torch.compile(nrfx.heads(gm), fullgraph=True, backend="eager")
    for other in (nrfx.heads(loaded), nrfx.heads(copy.deepcopy(gm)), copy.deepcopy(nrfx.heads(gm)), compiled):
        for actual, output in zip(other(images()), expected, strict=True):
            torch.testing.assert_close(actual, output, rtol=0, atol=1e-12)


def test_autocast_gives_every_head_in_the_lower_precision() -> None:
    gm = rejuvenated("resnet").module.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert {output.dtype for output in nrfx.heads(gm)(images().float())} == {torch.bfloat16}


def test_heads_are_made_once_until_the_network_changes() -> None:
    gm = rejuvenated("vgg_bn").module
    made = nrfx.heads(gm)
    assert nrfx.heads(gm) is made
    gm.set_submodule("13", CrossLinear((60, 4), (5, 0), scheme="removed", present=((0, 1), ())))
    assert nrfx.heads(gm) is not made


def test_the_heads_train_the_parameters_of_the_network_itself() -> None:
    gm = rejuvenated("vgg_bn").module
    assert {id(p) for p in nrfx.heads(gm).parameters()} == {id(p) for p in gm.parameters()}
