import pytest
import torch
from torch import nn

import nrfx
from nrfx.analysis.liveness import liveness_of, prunable_gammas, shrinkable_betas
from nrfx.analysis.spaces import channels_of
from nrfx.errors import AnalysisError
from tests.zoo import IMAGE, SMALL, norms


def conv(i: int, o: int, k: int = 1, **options) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, padding=k // 2, bias=False, **options)


def chain(*activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), *activation, conv(8, 4)).eval()


def analysed(model: nn.Module, **options):
    gm = nrfx.trace(model, torch.zeros(2, 3, 8, 8))
    channels = channels_of(gm)
    return channels, liveness_of(gm, channels, **options)


def live(model: nn.Module, birth: str = "0", **options) -> list[bool]:
    channels, alive = analysed(model, **options)
    return alive.live[channels.channel_of[channels.births[birth]]].tolist()


def kill(norm: nn.BatchNorm2d, *indices: int, beta: float = 0.0) -> None:
    with torch.no_grad():
        norm.weight[list(indices)], norm.bias[list(indices)] = 0.0, beta


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gamma_that_is_not_finite_is_an_error_that_names_it(bad: float) -> None:
    model = chain(nn.ReLU())
    with torch.no_grad():
        model[1].weight[3] = bad
    with pytest.raises(AnalysisError, match=r"1\.weight\[3\] is (nan|inf)"):
        live(model)


def test_a_layer_is_never_emptied() -> None:
    model = chain(nn.ReLU())
    with torch.no_grad():
        model[1].weight.fill_(1e-6)
        model[1].weight[5] = 2e-6
    channels, alive = analysed(model)
    assert alive.live[channels.births["0"]].nonzero().flatten().tolist() == [5]
    assert "only the strongest" in alive.notes[0]


def test_the_threshold_is_relative_to_the_largest_of_the_layer_and_strict() -> None:
    model = chain(nn.ReLU())
    with torch.no_grad():
        model[1].weight.fill_(-2.0)
        model[1].weight[:3] = torch.tensor([0.49, 0.5, -0.51])
    assert live(model, threshold=0.25)[:4] == [False, True, True, True]


def test_a_dead_channel_behind_a_padded_depthwise_convolution_is_held_unless_it_emits_zero() -> None:
    model = chain(nn.ReLU(), conv(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU())
    kill(model[1], 0, 1, beta=0.0)
    kill(model[1], 2, 3, beta=0.5)
    kill(model[1], 4, beta=-0.5)  # relu makes it zero
    channels, alive = analysed(model)
    assert alive.live[channels.births["0"]].tolist() == [False, False, True, True, False, True, True, True]
    assert torch.cat([held.indices for held in alive.held]).tolist() == [2, 3]
    assert "padded" in alive.held[0].reason


def test_in_series_either_gamma_kills() -> None:
    model = chain(nn.ReLU(), conv(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU())
    kill(model[1], 0, beta=0.5)
    kill(model[4], 0, 1, beta=0.5)
    assert live(model)[:3] == [False, False, True]


def test_a_constant_behind_a_gate_is_held_unless_it_is_zero() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.norm, self.gate, self.head = conv(3, 8), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), conv(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.norm(self.body(x)))
            return self.head(y * torch.sigmoid(self.gate(y.mean([2, 3], keepdim=True))))

    model = Gated().eval()
    kill(model.norm, 0, beta=0.0)
    kill(model.norm, 1, beta=0.3)
    channels, alive = analysed(model)
    assert alive.live[channels.births["body"]][:2].tolist() == [False, True]
    assert "combines its constant" in alive.held[0].reason


def test_a_channel_that_two_norms_read_is_dead_only_when_dead_for_both() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.a, self.b = conv(3, 8), nn.BatchNorm2d(8), nn.BatchNorm2d(8)
            self.left, self.right = conv(8, 4), conv(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.body(x)
            return torch.cat([self.left(torch.relu(self.a(y))), self.right(torch.relu(self.b(y)))], 1)

    model = Forked().eval()
    kill(model.a, 0, 1)
    kill(model.b, 1, 2)
    assert live(model, "body")[:4] == [True, False, True, True]


def test_streams_live_unless_coupled_and_then_die_when_all_their_gammas_do() -> None:
    model = SMALL["resnet"]().eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            kill(norm, 0)
    for residual, expected in (("live", True), ("fixed", True), ("coupled", False)):
        channels, alive = analysed(model, residual=residual)
        streams = torch.tensor([space.stream for space in channels.spaces])[channels.space_of]
        first = torch.stack([channels.channel_of[labels[0]] for labels in channels.births.values()][:-1])
        assert bool(alive.live[first][streams[first]].any()) is expected


def test_only_gammas_that_can_die_are_mortal() -> None:
    gm = nrfx.trace(SMALL["resnet"](), torch.zeros(IMAGE))
    streams = set(nrfx.utilization(gm).streams)
    live_names, coupled_names = set(prunable_gammas(gm)), set(prunable_gammas(gm, "coupled"))
    assert live_names < coupled_names and streams


def dead_first(model: nn.Module, beta: float, where: str = "") -> nrfx.TracedModule:
    """The traced model; norms whose names end in `where` have gamma 0 and this beta in their first half."""
    with torch.no_grad():
        for name, norm in model.named_modules():
            if norm in norms(model) and name.endswith(where):
                half = norm.num_features // 2
                norm.weight[:half], norm.bias[:half] = 0, beta
    return nrfx.trace(model, torch.zeros(IMAGE))


@pytest.mark.parametrize("name", ["vgg_bn", "resnet", "densenet_preact"])
def test_where_every_constant_has_a_place_no_beta_is_to_shrink(name: str) -> None:
    assert shrinkable_betas(dead_first(SMALL[name](), 0.1)) == {}


def test_betas_to_shrink_are_those_of_gamma_dead_channels_behind_a_padded_depthwise_convolution() -> None:
    masks = shrinkable_betas(dead_first(SMALL["mobilenet"](), 0.1, "0.1"))
    assert {name: mask.nonzero().flatten().tolist() for name, mask in masks.items()} == {
        "1.0.1.bias": list(range(8)),  # the hidden layers, in front of their depthwise convolutions
        "2.body.0.1.bias": list(range(12)),
    }


def test_a_beta_whose_constant_is_zero_is_left_alone_unless_it_is_zero_itself() -> None:
    assert shrinkable_betas(dead_first(SMALL["mobilenet"](), -0.1, "0.1")) == {}  # relu6 of it is 0
    assert "1.0.1.bias" in shrinkable_betas(dead_first(SMALL["mobilenet"](), 0.0, "0.1"))


def test_frozen_betas_and_streams_are_left_alone() -> None:
    model = SMALL["mobilenet_se"]()
    model[1][0][1].bias.requires_grad_(False)
    masks = shrinkable_betas(dead_first(model, 0.1))
    assert "1.0.1.bias" not in masks and masks
    assert not any(name.endswith("5.1.bias") or name.startswith("1.6") for name in masks)


@pytest.mark.parametrize(("name", "where"), [("mobilenet", "0.1"), ("mobilenet_se", "")])
def test_with_these_betas_at_zero_fewer_channels_are_held_and_none_by_a_dead_gammas_own_constant(
    name: str, where: str
) -> None:
    gm = dead_first(SMALL[name](), 0.1, where)
    before = sum(count for reason, count in nrfx.utilization(gm).held if "stream" not in reason)
    with torch.no_grad():
        for beta, mask in shrinkable_betas(gm).items():
            gm.get_parameter(beta)[mask] = 0
    after = sum(count for reason, count in nrfx.utilization(gm).held if "stream" not in reason)
    assert after == 0 < before


def test_shrinkable_betas_change_nothing_and_check_their_options() -> None:
    gm = dead_first(SMALL["mobilenet"](), 0.1, "0.1")
    before = {name: value.clone() for name, value in gm.state_dict().items()}
    shrinkable_betas(gm)
    assert all(torch.equal(value, before[name]) for name, value in gm.state_dict().items())
    with pytest.raises(AnalysisError, match="threshold is 2"):
        shrinkable_betas(gm, threshold=2)


def test_a_layer_of_one_channel_with_a_gamma_of_0_has_its_note() -> None:
    net = nn.Sequential(nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1), nn.ReLU(), nn.Conv2d(1, 2, 1))
    with torch.no_grad():
        net[1].weight.zero_()
    notes = nrfx.utilization(nrfx.trace(net, torch.zeros(1, 3, 4, 4))).notes
    assert any(note.startswith("1.weight: all gammas are below") for note in notes)
