"""The widths in the rows of a utilization, also of modules whose channels may not come or go."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nrfx
from nrfx.analysis.rows import Row
from nrfx.rules import OPS


def rows_of(model: nn.Module, *shape: int) -> dict[str, Row]:
    return {row.name: row for row in nrfx.utilization(nrfx.trace(model.eval(), torch.zeros(shape))).rows}


def widths(row: Row) -> tuple[int, int]:
    assert (row.out_live, row.in_live) == (row.out, row.in_), "nothing is dead here"
    return row.out, row.in_


class Block(nn.Module):
    """Attention as one module, parameters that the forward reads itself, and norms over all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 12))
        self.norm = nn.LayerNorm(12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.scale = nn.Parameter(torch.ones(12))
        self.mlp = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + self.token)
        x = x + self.scale * self.attention(x, x, x, need_weights=False)[0]
        return x + self.mlp(x)


class Functional(nn.Module):
    """A norm over channels in the forward's own code, as image models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.weight, self.bias = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).permute(0, 2, 3, 1)
        return F.layer_norm(x, (8,), self.weight, self.bias)


def test_norms_attention_and_parameters_of_a_forward_have_the_width_of_what_passes() -> None:
    rows = rows_of(nn.Sequential(nn.Linear(5, 12), Block(), nn.Linear(12, 2)), 2, 4, 5)
    found = {name: widths(row) for name, row in rows.items()}
    assert found == {
        "0": (12, 5),
        "1": (12, 12),
        "1.norm": (12, 12),
        "1.attention": (12, 12),
        "1.attention.out_proj": (12, 12),
        "1.mlp.0": (24, 12),
        "1.mlp.2": (12, 24),
        "2": (2, 12),
    }
    assert [*rows][:5] == ["0", "1", "1.norm", "1.attention", "1.attention.out_proj"], "in the order of the graph"


def test_a_norm_that_the_forward_calls_as_a_function_has_its_owners_name_and_width() -> None:
    assert widths(rows_of(Functional(), 1, 3, 4, 4)[""]) == (8, 8)


def test_a_norm_of_inputs_has_the_width_that_its_weight_states() -> None:
    rows = rows_of(nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 2)), 3, 6)
    assert widths(rows["0"]) == (6, 6), "inputs are no channels"


def test_dead_channels_that_pass_what_has_no_weights_for_them_are_told_there() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.PReLU(), nn.Conv2d(8, 2, 1))
    with torch.no_grad():
        net[1].weight[:3].zero_()
    row = rows_of(net, 1, 3, 4, 4)["2"]
    assert (row.out_live, row.out, row.in_live, row.in_) == (5, 8, 5, 8), "one slope for all channels"


@pytest.mark.parametrize("hooked", ["attention", "norm"])
def test_what_is_not_understood_has_no_width(hooked: str) -> None:
    block = Block()
    getattr(block, hooked).register_forward_hook(lambda module, inputs, output: None)
    rows = rows_of(block, 2, 4, 12)
    assert widths(rows[hooked]) == (0, 0) and rows["mlp.0"].out == 24


class Gated(nn.Module):
    """One call for the graph, by a rule that knows that channels pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.inner.weight.mean().sigmoid()


def test_a_layer_inside_of_what_is_one_call_has_the_widths_that_it_states(monkeypatch: pytest.MonkeyPatch) -> None:
    passing = OPS[nn.Dropout]
    rule = lambda call: replace(passing.rule(call), fixed=("inner.weight", "inner.bias"))  # noqa: E731
    monkeypatch.setitem(OPS, Gated, replace(passing, rule=rule))
    rows = rows_of(nn.Sequential(nn.Linear(5, 12), Gated(), nn.Linear(12, 2)), 4, 5)
    assert widths(rows["1.inner"]) == (3, 7)
