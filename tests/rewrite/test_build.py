"""What a rewrite writes: the four blocks of weights, carriers, and the factors that the optimizer follows."""

import math
from typing import Any

import pytest
import torch
from torch import nn

import nrfx
from nrfx.ids import occurrence
from nrfx.plan.origins import gather, origin
from tests.zoo import IMAGE, SMALL, calibrated, norms, vgg_bn, with_dead


def rewritten(beta: str = "zero", scheme: str = "dense", name: str = "vgg_bn", **options) -> nrfx.Rejuvenation:
    torch.manual_seed(0)
    model = with_dead(calibrated(SMALL[name]()), 0.4, beta)
    gm = nrfx.trace(model, torch.zeros(IMAGE, dtype=torch.float64))
    options.setdefault("generator", torch.Generator().manual_seed(0))
    return nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme=scheme, **options)


def split(result: nrfx.Rejuvenation, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Two bool masks: the new rows and the new columns of a weight."""
    weight = result.module.get_parameter(name)
    masks = [torch.zeros(size, dtype=torch.bool) for size in weight.shape[:2]]
    return tuple(
        mask if places is None else places < 0 for mask, places in zip(masks, result.origins[name], strict=False)
    )


@pytest.mark.parametrize("scheme", ["dense", "attention"])
def test_cross_weights_start_at_zero_and_new_ones_at_random(scheme: str) -> None:
    result = rewritten(scheme=scheme)
    for name in ("4.weight", "8.weight"):
        weight, (rows, columns) = result.module.get_parameter(name), split(result, name)
        assert rows.any() and columns.any()
        assert not weight[~rows][:, columns].any() and not weight[rows][:, ~columns].any()
        assert bool((weight[rows][:, columns] != 0).all()) and bool((weight[~rows][:, ~columns] != 0).any())


def test_a_layer_without_new_inputs_gives_its_new_channels_random_weights() -> None:
    result = rewritten()
    weight, (rows, columns) = result.module.get_parameter("0.weight"), split(result, "0.weight")
    assert rows.any() and not columns.any() and bool((weight[rows] != 0).all())


def test_new_weights_are_he_normal_by_fan_out() -> None:
    model = with_dead(calibrated(vgg_bn((64, 96, 128))), 0.5, "zero")
    gm = nrfx.trace(model, torch.zeros(IMAGE, dtype=torch.float64))
    result = nrfx.rejuvenate(
        gm, nrfx.Budget.relative(gm, params=1.0), scheme="dense", generator=torch.Generator().manual_seed(0)
    )
    weight, (rows, columns) = result.module.get_parameter("8.weight"), split(result, "8.weight")
    expected = math.sqrt(2 / (9 * weight.shape[0]))
    assert float(weight[rows][:, columns].detach().std()) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("options", "start"), [({}, 1.0), ({"gamma_new": None}, 0.7), ({"gamma_new": 0.4}, 0.4)])
def test_new_norm_positions_start_at_one_or_where_they_are_told_to_beta_0_mean_0_and_variance_1(
    options: dict[str, Any], start: float
) -> None:
    result = rewritten(gamma0=0.7, **options)
    norm = result.module.get_submodule("5")
    new = result.origins["5.weight"][0] < 0
    assert bool((norm.weight[new] == start).all()) and not norm.bias[new].any()
    assert not norm.running_mean[new].any() and bool((norm.running_var[new] == 1).all())


def test_gamma0_is_what_the_layer_was_initialised_with() -> None:
    model = vgg_bn()
    for norm in norms(model):
        nn.init.constant_(norm.weight, 0.5)
    gm = nrfx.trace(model, torch.zeros(IMAGE))
    with torch.no_grad():
        for norm in norms(model):
            norm.weight[:3] = 0.0
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), gamma_new=None)
    new = result.origins["5.weight"][0] < 0
    assert new.any() and bool((result.module.get_submodule("5").weight[new] == 0.5).all())


def test_gammas_of_new_channels_start_apart_from_those_of_survivors() -> None:
    result = rewritten(gamma0=2.0, gamma_new=0.3)
    norm, origins = result.module.get_submodule("5"), result.origins["5.weight"][0]
    factor = result.factors["5.weight"][0]
    assert factor is not None
    stays = (origins >= 0) & (factor > 0)
    assert bool((norm.weight[origins < 0] == 0.3).all()) and bool((norm.weight[stays].abs() >= 2.0 - 1e-12).all())


def test_new_channels_read_old_ones_through_random_weights_where_these_are_drawn() -> None:
    zero, drawn = rewritten(), rewritten(cross="drawn")
    weight, (rows, columns) = drawn.module.get_parameter("8.weight").detach(), split(drawn, "8.weight")
    expected = math.sqrt(2 / (9 * weight.shape[0]))
    assert float(weight[rows][:, ~columns].std()) == pytest.approx(expected, rel=0.2)
    assert not weight[~rows][:, columns].any()
    assert not zero.module.get_parameter("8.weight").detach()[rows][:, ~columns].any()


def test_the_same_generator_gives_the_same_network() -> None:
    states = [rewritten(generator=torch.Generator().manual_seed(7)).module.state_dict() for _ in range(2)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_one_carrier_a_space_with_gamma_0_and_beta_1_and_its_state_starts_anew() -> None:
    result = rewritten("random")
    assert len(result.carriers) == len(set(result.carriers)) > 0
    for index, (norm, reader) in {"1": ("1", "4.weight"), "5": ("5", "8.weight")}.items():
        gamma, beta = (result.module.get_parameter(f"{norm}.{name}") for name in ("weight", "bias"))
        (carrier,) = (gamma == 0).nonzero().flatten().tolist()
        assert beta[carrier].item() == 1.0, index
        for name, dim in ((f"{norm}.weight", 0), (f"{norm}.bias", 0), (reader, 1)):
            factor = result.factors[name][dim]
            assert (factor == 0).nonzero().flatten().tolist() == [carrier]


def test_factors_are_what_rescaling_multiplied_by() -> None:
    result = rewritten(gamma0=2.0)
    raised, divided = result.factors["5.weight"][0], result.factors["8.weight"][1]
    assert raised is not None and divided is not None and bool((raised >= 1).all())
    torch.testing.assert_close(raised * divided, torch.ones_like(raised))


def test_repeated_labels_keep_their_order() -> None:
    old, new = torch.tensor([5, 5, -1, 7, 7]), torch.tensor([7, 7, -1, 9])
    assert occurrence(old).tolist() == [0, 1, 0, 0, 1]
    assert origin(old, new).tolist() == [3, 4, 2, -1]


def test_a_gather_by_nothing_is_the_tensor() -> None:
    tensor = torch.arange(6).view(2, 3)
    assert gather(tensor, (None, torch.arange(3))) is tensor


def test_a_weight_that_is_split_into_blocks_says_which_weight_it_comes_from() -> None:
    result = rewritten(scheme="removed")
    assert result.parents["4.weights.0"] == result.parents["4.weights.1"] == "4.weight"
    assert bool((result.origins["4.weights.1"][0] < 0).all())


def test_buffers_that_share_memory_share_it_in_the_new_network_and_none_with_the_old() -> None:
    gm = nrfx.trace(with_dead(vgg_bn(), 0.4), torch.zeros(IMAGE, dtype=torch.float64))
    pair = torch.zeros(2)
    for name, buffer in (("pair", pair), ("first", pair[:1]), ("alone", torch.ones(3))):
        gm.register_buffer(name, buffer)
    new = dict(nrfx.compact(gm).module.named_buffers())
    new["pair"][0] = 7.0
    assert new["first"].item() == 7.0 and not pair.any()
    assert new["alone"].tolist() == [1, 1, 1] and new["alone"].data_ptr() != gm.alone.data_ptr()


class Region(nn.Module):
    """A network behind a region without gradients, which only the code of a graph runs."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = with_dead(vgg_bn(), 0.4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            doubled = x * 2
        return self.inside(doubled)


def test_the_check_of_outputs_leaves_no_code_in_the_network_before() -> None:
    gm = nrfx.trace(Region(), torch.zeros(IMAGE, dtype=torch.float64))
    module = nrfx.compact(gm).module
    assert "_code" in vars(module) and "_code" not in vars(gm) and "forward" not in vars(gm)
    assert gm.code == module.code
