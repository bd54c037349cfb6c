"""The widths in the rows of a utilization, also of modules whose channels may not come or go."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nrfx
from nrfx.analysis.rows import Row


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


class Computed(nn.Module):
    """Weights that the forward changes before it uses them, a buffer that it reads, and a number that it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 4)
        self.register_buffer("grid", torch.ones(15, 2))
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        grid = (self.grid * 2).sum()
        x = self.first(x) * self.scale + grid
        return F.linear(x, self.second.weight * 2, self.second.bias)


def test_a_weight_that_is_computed_and_a_buffer_tell_no_width() -> None:
    found = {name: widths(row) for name, row in rows_of(Computed(), 2, 5).items()}
    assert found["second"] == (0, 0), "the layer is not understood"
    assert found[""] == (8, 8) and found["first"] == (8, 5)


def test_norms_that_share_their_weights_are_one() -> None:
    net = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.LayerNorm(6))
    net[2].weight, net[2].bias = net[1].weight, net[1].bias
    rows = rows_of(net, 2, 5)
    assert widths(rows["1"]) == (6, 6) and "2" not in rows


class Penalised(nn.Module):
    """A norm whose weight the forward reads by itself as well, in front of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        size = self.norm.weight.abs().sum()
        return self.last(self.norm(self.first(x))) + size


def test_a_norm_whose_weight_is_read_beside_it_has_the_width_of_what_passes() -> None:
    row = rows_of(Penalised(), 2, 5)["norm"]
    assert widths(row) == (6, 6) and row.pins


def test_a_slope_that_is_called_again_has_the_width_of_the_first_channels_that_it_meets() -> None:
    slope = nn.PReLU()
    rows = rows_of(nn.Sequential(slope, nn.Conv2d(3, 8, 1), slope, nn.Conv2d(8, 2, 1)), 1, 3, 4, 4)
    assert widths(rows["0"]) == (8, 8)


class Tempered(nn.Module):
    """A number that the forward learns."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.heat = nn.Linear(5, 6), nn.Linear(6, 2), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) * self.heat)


def test_a_number_that_is_learnt_has_the_width_of_what_it_scales() -> None:
    assert widths(rows_of(Tempered(), 2, 5)[""]) == (6, 6)


class Marked(nn.Module):
    """An activation of inputs, and of ones beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.slope, self.last = nn.PReLU(), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.slope(torch.cat([x, torch.ones_like(x[:, :1])], 1)))


@pytest.mark.parametrize("model", [nn.Sequential(nn.PReLU(), nn.Conv2d(3, 2, 1)), Marked()])
def test_a_slope_for_the_channels_of_inputs_tells_no_width(model: nn.Module) -> None:
    rows = rows_of(model, 1, 3, 4, 4)
    assert widths(next(row for row in rows.values() if row.op == "PReLU")) == (0, 0)


class Attending(nn.Module):
    """Products of values, behind layers whose channels may go."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.slope = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.PReLU()
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.slope(self.norm(self.conv(x)))).flatten(2)
        return x @ (x.transpose(1, 2) @ x).softmax(-1)


@pytest.mark.parametrize("model", [Attending(), nn.Sequential(nn.Linear(5, 12), Block(), nn.Linear(12, 2))])
def test_a_result_tells_of_both_networks_what_their_utilizations_tell(model: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4) if isinstance(model, Attending) else torch.randn(2, 4, 5)
    if isinstance(model, Attending):
        with torch.no_grad():
            model.norm.weight[:3].zero_()
    gm = nrfx.trace(model.eval(), x)
    result = nrfx.compact(gm)
    assert result.before.rows == nrfx.utilization(gm).rows
    assert result.after.rows == nrfx.utilization(result.module).rows
    assert result.changed == isinstance(model, Attending)
