"""Which gammas can die, and what is said where none can."""

import torch
from torch import nn

import nrfx
from tests import zoo
from tests.rewrite.rewriting import unit


def told(model: nn.Module, residual: str = "live") -> nrfx.Utilization:
    return nrfx.utilization(nrfx.trace(model.eval(), torch.zeros(2, 3, 8, 8)), residual=residual)


def network() -> nn.Sequential:
    return nn.Sequential(unit(3, 8), unit(8, 8), nn.Conv2d(8, 4, 3))


def test_a_healthy_network_has_gammas_that_can_die_and_no_note() -> None:
    gammas = told(network()).gammas
    assert (gammas.total, gammas.can_die, gammas.kept, gammas.note) == (16, 16, (), "")


def test_what_was_found_instead_of_gammas_is_named() -> None:
    model = network()
    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(nn.Identity())
    u = told(model)
    assert (u.gammas.total, u.gammas.can_die) == (16, 0)
    assert "None of the network's 16 gammas" in u.gammas.note
    assert "0.1 (BatchNorm2d), 1.1 (BatchNorm2d): it has forward hooks (Identity)" in u.gammas.note


def test_gammas_behind_what_is_not_understood_and_gammas_that_are_pinned_have_their_own_reasons() -> None:
    model = nn.Sequential(unit(3, 8), unit(8, 8), unit(8, 8), unit(8, 8))
    model[1][0].register_forward_hook(nn.Identity())
    kept = {norm: entry.reason for entry in told(model).gammas.kept for norm in entry.norms}
    assert kept.keys() == {"0.1 (BatchNorm2d)", "1.1 (BatchNorm2d)", "3.1 (BatchNorm2d)"}
    assert "pinned by _1_0: it has forward hooks" in kept["0.1 (BatchNorm2d)"]
    assert "not understood (it has forward hooks" in kept["1.1 (BatchNorm2d)"]
    assert "the network's output" in kept["3.1 (BatchNorm2d)"]


def test_gammas_of_layer_norms_are_no_channel_s_own() -> None:
    gammas = told(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(2), nn.LayerNorm(64), nn.Linear(64, 4))).gammas
    assert (gammas.total, gammas.can_die) == (64, 0) and "2 (LayerNorm)" in gammas.note


def test_norms_of_one_reason_are_told_together_and_each_is_named_once() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8))
    note = told(model).gammas.note
    assert note.endswith(" 1 (LayerNorm), 3 (LayerNorm): it normalises over its channels.")


def test_a_norm_that_no_graph_calls_is_among_them() -> None:
    kept = {entry.norms: entry.reason for entry in told(Spare(network())).gammas.kept}
    assert kept == {("spare (BatchNorm2d)",): "no graph calls it"}


class Spare(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.spare = network, nn.BatchNorm2d(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)


def test_a_stream_keeps_its_gammas_unless_it_is_coupled() -> None:
    gm = nrfx.trace(zoo.resnet(), torch.zeros(zoo.IMAGE))
    live, coupled = (nrfx.utilization(gm, residual=residual).gammas for residual in ("live", "coupled"))
    assert live.total == coupled.total and live.can_die < coupled.can_die
    assert any("residual stream" in entry.reason for entry in live.kept)
