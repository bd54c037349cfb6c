import pytest
import torch
from torch import nn

import nrfx
from nrfx.channels import channels
from nrfx.errors import AnalysisError
from nrfx.liveness import liveness, mortal_gammas
from tests.zoo import IMAGE, SMALL


def conv(i: int, o: int, k: int = 1, **options) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, padding=k // 2, bias=False, **options)


def chain(*activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), *activation, conv(8, 4)).eval()


def analysed(model: nn.Module, **options):
    gm = nrfx.trace(model, torch.zeros(2, 3, 8, 8))
    found = channels(gm)
    return found, liveness(gm, found, **options)


def live(model: nn.Module, birth: str = "0", **options) -> list[bool]:
    found, alive = analysed(model, **options)
    return alive.live[found.channel_of[found.births[birth]]].tolist()


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
    found, alive = analysed(model)
    assert alive.live[found.births["0"]].nonzero().flatten().tolist() == [5]
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
    found, alive = analysed(model)
    assert alive.live[found.births["0"]].tolist() == [False, False, True, True, False, True, True, True]
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
    found, alive = analysed(model)
    assert alive.live[found.births["body"]][:2].tolist() == [False, True]
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
        found, alive = analysed(model, residual=residual)
        streams = torch.tensor([space.stream for space in found.spaces])[found.space_of]
        first = torch.stack([found.channel_of[labels[0]] for labels in found.births.values()][:-1])
        assert bool(alive.live[first][streams[first]].any()) is expected


def test_only_gammas_that_can_die_are_mortal() -> None:
    gm = nrfx.trace(SMALL["resnet"](), torch.zeros(IMAGE))
    streams = set(nrfx.utilization(gm).streams)
    live_names, coupled_names = set(mortal_gammas(gm)), set(mortal_gammas(gm, "coupled"))
    assert live_names < coupled_names and streams
