"""The multiply-adds of ops that no rule describes, against FlopCounterMode on the model itself."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import nrfx


def resize_tokens(x: Tensor, w: Tensor) -> Tensor:
    return x.flatten(2).mT @ w


def view_as_attention(x: Tensor, w: Tensor) -> Tensor:
    tokens = x.flatten(2).mT.unsqueeze(1)
    return F.scaled_dot_product_attention(tokens, tokens, tokens)


def flip_and_convolve(x: Tensor, w: Tensor) -> Tensor:
    return F.conv2d(x.flip(1), w.view(5, 8, 1, 1))


def sort_and_pool(x: Tensor, w: Tensor) -> Tensor:
    return F.interpolate(F.avg_pool2d(F.layer_norm(x, (8, 8)).softmax(1).sort(1).values.roll(1, 2), 2), scale_factor=2)


def project(x: Tensor, w: Tensor) -> Tensor:
    return x.flatten(2).mT @ w[:, 0]


def permute_distances(x: Tensor, w: Tensor) -> Tensor:
    return torch.cdist(x.flatten(2), x.flatten(2))


def squeeze_spectrum(x: Tensor, w: Tensor) -> Tensor:
    return torch.fft.fft2(x).abs()


def by_values(x: Tensor, w: Tensor) -> Tensor:
    return x.flip(1) if float(x.sum()) > 0 else x


class Calling(nn.Module):
    """A unit and a user's function, which is one call of the graph."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.unit = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.function, self.w = function, nn.Parameter(torch.randn(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.unit(x), self.w)


UNIT = 27 * 8 * 64


def used(function: Callable[[Tensor, Tensor], Tensor], batch: int = 2, **facts: bool) -> nrfx.Utilization:
    nrfx.rules.opaque(function, **facts)
    return nrfx.utilization(nrfx.trace(Calling(function).eval(), torch.zeros(batch, 3, 8, 8)))


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("function", [resize_tokens, view_as_attention, flip_and_convolve, sort_and_pool])
def test_a_function_of_the_user_s_is_counted_whatever_its_name(
    function: Callable[[Tensor, Tensor], Tensor], batch: int
) -> None:
    u = used(function, batch)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        Calling(function).eval()(torch.zeros(1, 3, 8, 8))
    assert (u.flops.total, u.uncounted) == (counter.get_total_flops() // 2, ())
    (entry,) = u.not_understood
    assert (entry.nodes, entry.flops) == ((function.__name__,), u.flops.total - UNIT)


def test_products_with_vectors_count_too() -> None:
    assert used(project).flops.total == UNIT + 64 * 8


@pytest.mark.parametrize(("function", "op"), [
    (permute_distances, "aten._cdist_forward"),
    (squeeze_spectrum, "aten._fft"),
])  # fmt: skip
def test_what_may_do_more_than_is_counted_is_named(function: Callable[[Tensor, Tensor], Tensor], op: str) -> None:
    (line,) = used(function).uncounted
    assert line.startswith(f"{function.__name__}: ") and op in line


def test_a_box_that_does_not_run_without_values_is_named() -> None:
    u = used(by_values, keeps_shape=True)
    assert u.flops.total == UNIT and u.uncounted == ("by_values: it is an opaque box",)


def test_a_rewrite_around_such_a_function_costs_what_was_predicted() -> None:
    nrfx.rules.opaque(resize_tokens)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 1), Calling(resize_tokens))
    with torch.no_grad():
        model[1].weight[:3] = 0
    gm = nrfx.trace(model.eval(), torch.zeros(2, 3, 8, 8))
    result = nrfx.compact(gm)
    assert result.changed and result.after.flops.total == result.before.flops.live


class Table(nn.Module):
    """x [examples, positions, 8] against a table, which is computed once for all examples; `looks`: reads a value."""

    def __init__(self, looks: bool) -> None:
        super().__init__()
        self.table, self.layer, self.looks = nn.Parameter(torch.randn(6, 8)), nn.Linear(8, 8), looks

    def forward(self, x: Tensor) -> Tensor:
        table = self.layer(self.table)
        assert not self.looks or float(x.detach().sum()) < 1e9
        return x @ table.t()


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("examples", [1, 2, 3])
def test_what_is_done_once_for_all_examples_counts_whole_for_one(looks: bool, examples: int) -> None:
    model = nn.Sequential(nn.Linear(4, 8), Table(looks), nn.Linear(6, 2))
    x = torch.randn(examples, 5, 4)
    gm = nrfx.trace(model, x, partial=True) if looks else nrfx.trace(model, x, leaves=["1"])
    with FlopCounterMode(display=False) as counter:
        model(x[:1])
    flops = nrfx.utilization(gm).flops.total
    assert flops == counter.get_total_flops() // 2 == 5 * 4 * 8 + 6 * 8 * 8 + 5 * 8 * 6 + 5 * 6 * 2


def attended(x: Tensor) -> Tensor:
    """Attention over maps [tokens, examples, 8]."""
    y = x.transpose(0, 1)
    return torch.bmm(torch.bmm(y, y.mT), y).transpose(0, 1)


class TokensFirst(nn.Module):
    """A function without a rule, whose first dim is not that of the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return attended(self.layer(x).transpose(0, 1))


@pytest.mark.parametrize("examples", [1, 4, 3])
def test_one_example_is_found_whichever_dim_holds_the_examples(examples: int) -> None:
    nrfx.rules.opaque(attended)
    flops = nrfx.utilization(nrfx.trace(TokensFirst(), torch.randn(examples, 4, 8))).flops.total
    assert flops == 4 * 8 * 8 + 2 * 4 * 4 * 8


class Products(nn.Module):
    """A chain of products, in an order that depends on the number of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.layer = (
            nn.Parameter(torch.randn(8, 5)),
            nn.Parameter(torch.randn(5, 7)),
            nn.Linear(6, 8),
        )

    def forward(self, x: Tensor) -> Tensor:
        chain = [self.layer(x).flatten(0, 1), self.one, self.two]
        return torch.linalg.multi_dot(chain).unflatten(0, x.shape[:2])


@pytest.mark.parametrize(("examples", "tokens"), [(1, 9), (4, 9), (16, 3)])
def test_a_chain_of_products_is_counted_in_the_order_of_one_example(examples: int, tokens: int) -> None:
    model, x = Products(), torch.randn(examples, tokens, 6)
    with FlopCounterMode(display=False) as counter:
        model(x[:1])
    assert nrfx.utilization(nrfx.trace(model, x)).flops.total == counter.get_total_flops() // 2
