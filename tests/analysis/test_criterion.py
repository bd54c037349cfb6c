"""Limits, ties and what is kept: which channels a criterion gives up, and the reasons for the others."""

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx import liveness
from nrfx.errors import AnalysisError


class Residual(nn.Module):
    """Two layers whose outputs are added: their channels are tied."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(torch.relu(x + self.second(torch.relu(x))))


def scored(**options: object) -> liveness.Scores:
    """The first half of `first` is low, and the second half of `second`; two channels are low in both."""
    given = {"first": [0.0, 0.0, 0.0, 0.0, 1.0, 1.0], "second": [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]}
    return liveness.Scores(given, tau=0.5, **options)  # type: ignore[arg-type]


def left(criterion: liveness.Criterion, residual: str = "coupled") -> int:
    gm = nrfx.trace(Residual(), torch.zeros(2, 3))
    rows = {row.name: row for row in nrfx.utilization(gm, liveness=criterion, residual=residual).rows}  # type: ignore[arg-type]
    assert rows["first"].out_live == rows["second"].out_live
    return rows["first"].out_live


def test_tied_channels_go_where_all_layers_agree_or_by_the_rule_that_is_asked_for() -> None:
    assert [left(scored(group=group)) for group in ("max", "mean", "sum")] == [4, 1, 4]


def test_a_stream_stays_unless_it_is_coupled_and_the_report_says_why() -> None:
    assert left(scored(group="mean"), "live") == 6
    gm = nrfx.trace(Residual(), torch.zeros(2, 3))
    usage = nrfx.utilization(gm, liveness=scored())
    assert usage.held == (('on a residual stream, which residual="live" keeps', 2),)


def mlp() -> nn.Module:
    return nrfx.trace(
        nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(2, 3)
    )


def widths(criterion: liveness.Criterion) -> list[int]:
    return [row.out_live for row in nrfx.utilization(mlp(), liveness=criterion).rows]


LOW = {"0": torch.arange(10.0), "2": torch.arange(8.0)}


def test_a_layer_keeps_a_channel_the_strongest_one() -> None:
    assert widths(liveness.Scores(LOW, tau=100.0)) == [1, 1, 2]
    result = nrfx.compact(mlp(), liveness=liveness.Scores(LOW, tau=100.0))
    assert result.origins["0.weight"][0].tolist() == [9]  # type: ignore[union-attr]


def test_layers_are_spared_by_name_by_pattern_and_by_part() -> None:
    assert widths(liveness.Scores(LOW, tau=4.5, keep=["0"])) == [10, 3, 2]
    assert widths(liveness.Scores(LOW, tau=4.5, keep=["[0-2]"])) == [10, 8, 2]
    assert widths(liveness.Scores(LOW, tau=4.5, min_width=4)) == [5, 4, 2]
    assert widths(liveness.Scores(LOW, tau=4.5, min_width={"2": 7})) == [5, 7, 2]
    assert widths(liveness.Scores(LOW, tau=4.5, most=0.3)) == [7, 6, 2]
    assert widths(liveness.Scores(LOW, tau=4.5, most={"0": 0.0})) == [10, 3, 2]
    with pytest.raises(AnalysisError, match="keep names 'one', and no layer"):
        widths(liveness.Scores(LOW, tau=4.5, keep=["one"]))


def test_what_a_limit_keeps_is_told_with_its_reason() -> None:
    spared = nrfx.utilization(mlp(), liveness=liveness.Scores(LOW, tau=4.5, keep=["0"], most={"2": 0.25}))
    assert dict(spared.held) == {
        "keep= leaves its layer alone": 5,
        "its layer has as few channels as min_width= and most= allow": 3,
    }
    assert (
        "Held: 5 dead channels, keep= leaves its layer alone."
        in nrfx.compact(mlp(), liveness=liveness.Scores(LOW, tau=4.5, keep=["0"])).notes
    )


def test_the_groups_of_a_convolution_stay_two() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    gm = nrfx.trace(net, torch.zeros(1, 3, 5, 5))
    result = nrfx.compact(gm, liveness={"0": torch.zeros(4, dtype=torch.bool)})
    assert result.module.get_submodule("1").groups == 2


def test_a_model_in_parts_has_gammas_alone() -> None:
    class Router(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)), nn.Linear(3, 3)

        def forward(self, x: Tensor, how: dict[str, object]) -> Tensor:
            y: Tensor = self.a(x)
            return self.b(y) if float(y.sum()) > 100 or how else y

    gm = nrfx.trace(Router(), (torch.zeros(2, 3), {"a": {1, 2}}), partial=True)
    with pytest.raises(AnalysisError, match='The model was traced in parts: only liveness="gamma"'):
        nrfx.compact(gm, liveness="weight")
