"""The state of every optimizer of torch after a rewrite, against optimizers that were there from the start."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.optim import Optimizer

from nrfx.training.optimizer import migrate

Dims = tuple[Tensor | None, ...]
Build = Callable[[list[nn.Parameter]], Optimizer]

BUILD: Mapping[str, Build] = {
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.1),
    "SGD, nesterov": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: optim.Adam(p, lr=0.01, eps=1e-30),
    "Adam, amsgrad": lambda p: optim.Adam(p, lr=0.01, eps=1e-30, amsgrad=True),
    "AdamW": lambda p: optim.AdamW(p, lr=0.01, eps=1e-30, weight_decay=0.0),
    "NAdam": lambda p: optim.NAdam(p, lr=0.01, eps=1e-30),
    "RAdam": lambda p: optim.RAdam(p, lr=0.01, eps=1e-30),
    "Adamax": lambda p: optim.Adamax(p, lr=0.01, eps=1e-30),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.5, eps=1e-30),
    "Adadelta": lambda p: optim.Adadelta(p, lr=1.0, eps=1e-20),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.01, eps=1e-30),
    "RMSprop, centered": lambda p: optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True, eps=1e-30),
    "Rprop": lambda p: optim.Rprop(p, lr=0.01),
    "Adafactor": lambda p: optim.Adafactor(p, lr=0.01, eps=(1e-30, 1e-3)),
    "Muon": lambda p: optim.Muon(p, lr=0.01, weight_decay=0.0),
}
"""Without weight decay, and with an eps that counts for nothing: both see the scale of parameter or gradient."""
AS_A_WHOLE = {"Adafactor", "Muon"}
"""A step of these depends on the parameter as a whole."""
STEPS = 4


@dataclass(frozen=True)
class Result:
    """What `migrate` reads of a Rejuvenation."""

    module: nn.Module
    origins: Mapping[str, Dims]
    parents: Mapping[str, str | None]
    factors: Mapping[str, Dims]


class Matrix(nn.Module):
    """One parameter."""

    def __init__(self, rows: int, columns: int, seed: int = 0) -> None:
        super().__init__()
        drawn = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(drawn.double())


def gradients(rows: int, columns: int, count: int) -> list[Tensor]:
    """Gradients of one size at each position in all steps: a product of a row's and a column's, with random signs."""
    generator = torch.Generator().manual_seed(1)
    size = torch.rand(rows, 1, generator=generator).double() + 0.5
    size = size * (torch.rand(1, columns, generator=generator).double() + 0.5)
    signs = [torch.randn(rows, columns, generator=generator).sign() for _ in range(count)]
    return [(step + 1) * sign * size for step, sign in enumerate(signs)]


def stepped(optimizer: Optimizer, parameter: nn.Parameter, gradient: Tensor) -> Tensor:
    """What a step with this gradient adds to the parameter."""
    before = parameter.detach().clone()
    parameter.grad = gradient.clone()
    optimizer.step()
    return parameter.detach() - before


def result_of(new: Matrix, origins: Dims = (None, None), factors: Dims = (None, None)) -> Result:
    return Result(new, {"weight": origins}, {"weight": "weight"}, {"weight": factors})


def trained(build: Build, matrix: Matrix, several: list[Tensor]) -> Optimizer:
    optimizer = build([matrix.weight])
    for gradient in several:
        stepped(optimizer, matrix.weight, gradient)
    return optimizer


ROWS, COLUMNS = torch.tensor([2, -1, 0]), torch.tensor([3, 0, 1, -1, -1])
"""Of four rows two stay and one is new; of four columns three stay and two are new."""


@pytest.mark.parametrize("name", sorted(BUILD.keys() - AS_A_WHOLE))
def test_where_channels_come_and_go_the_next_step_of_survivors_is_the_old_one(name: str) -> None:
    old, new = Matrix(4, 4), Matrix(3, 5, seed=2)
    *past, coming = gradients(4, 4, STEPS + 1)
    optimizer = trained(BUILD[name], old, past)
    there, kept = (ROWS >= 0)[:, None] & (COLUMNS >= 0), (ROWS.clamp(min=0)[:, None], COLUMNS.clamp(min=0))
    with torch.no_grad():
        new.weight.copy_(torch.where(there, old.weight[kept], new.weight))
    lonely = trained(BUILD[name], Matrix(4, 4), past)
    expected = stepped(lonely, lonely.param_groups[0]["params"][0], coming)
    migrate(optimizer, old, result_of(new, (ROWS, COLUMNS)))
    step = stepped(optimizer, new.weight, torch.where(there, coming[kept], 0.5))
    torch.testing.assert_close(step[there], expected[kept][there], rtol=1e-12, atol=1e-15)
    assert bool(step.isfinite().all())


@pytest.mark.parametrize("name", sorted(BUILD))
def test_where_nothing_changes_the_next_step_is_the_old_one(name: str) -> None:
    old, new = Matrix(4, 4), Matrix(4, 4)
    *past, coming = gradients(4, 4, STEPS + 1)
    optimizer, lonely = trained(BUILD[name], old, past), trained(BUILD[name], other := Matrix(4, 4), past)
    new.load_state_dict(old.state_dict())
    assert migrate(optimizer, old, result_of(new)) == ()
    assert torch.equal(stepped(optimizer, new.weight, coming), stepped(lonely, other.weight, coming))


@pytest.mark.parametrize("name", sorted(BUILD))
def test_where_a_parameter_is_scaled_the_state_is_that_of_an_optimizer_over_the_scaled_one(name: str) -> None:
    """The twin's parameter is set to f times the parameter before each step, and its gradient is 1 / f of it."""
    old, scaled_from_the_start, new = Matrix(4, 4), Matrix(4, 4), Matrix(4, 4)
    by_row, by_column = torch.tensor([0.5, 1.0, 3.0, 10.0]).double(), torch.tensor([1.0, 2.0, 0.25, 1.0]).double()
    f = by_row[:, None] * by_column
    past = gradients(4, 4, STEPS)
    optimizer, twin = BUILD[name]([old.weight]), BUILD[name]([scaled_from_the_start.weight])
    for gradient in past:
        with torch.no_grad():
            scaled_from_the_start.weight.copy_(old.weight * f)
        stepped(optimizer, old.weight, gradient)
        stepped(twin, scaled_from_the_start.weight, gradient / f)
    migrate(optimizer, old, result_of(new, factors=(by_row, by_column)))
    expected, state = twin.state[scaled_from_the_start.weight], optimizer.state[new.weight]
    assert state.keys() == expected.keys() and state
    for key, value in expected.items():
        if name == "Adafactor" and key in ("row_var", "col_var"):
            continue  # only their product has a meaning
        torch.testing.assert_close(state[key], value, rtol=1e-7, atol=0, msg=key)
    if name == "Adafactor":
        torch.testing.assert_close(estimate(state), estimate(expected), rtol=1e-12, atol=0)


def estimate(state: Mapping[str, Any]) -> Tensor:
    """The mean of squared gradients that Adafactor's factors stand for."""
    product: Tensor = state["row_var"] @ state["col_var"] / state["row_var"].mean(-2, keepdim=True)
    return product


# What new positions start from


def test_what_an_optimizer_does_not_start_from_zero_starts_so_at_new_positions_too() -> None:
    past = gradients(4, 4, STEPS)
    for name, key, start in (("Adagrad", "sum", 0.5), ("Rprop", "step_size", 0.01), ("Adam", "exp_avg", 0.0)):
        old, new = Matrix(4, 4), Matrix(3, 5)
        optimizer = trained(BUILD[name], old, past)
        migrate(optimizer, old, result_of(new, (ROWS, COLUMNS)))
        state = optimizer.state[new.weight][key]
        assert (state[1] == start).all() and (state[:, 3:] == start).all()
        assert not (state[0, :3] == start).any()


def test_a_sum_keeps_the_value_that_it_began_with() -> None:
    """Adagrad: 0.5 + the sum of squares; a factor of 2 divides the squares alone by 4."""
    old, new = Matrix(1, 1), Matrix(1, 1)
    optimizer = trained(BUILD["Adagrad"], old, [torch.full((1, 1), 3.0).double()])
    migrate(optimizer, old, result_of(new, factors=(torch.tensor([2.0]), None)))
    assert float(optimizer.state[new.weight]["sum"]) == 0.5 + 9 / 4


def test_the_average_of_asgd_keeps_its_distance_from_the_parameter_and_starts_at_new_ones() -> None:
    """A bias that took up a constant moved: its average moves with it."""
    old, new = Matrix(4, 4), Matrix(3, 5, seed=2)
    optimizer = trained(lambda p: optim.ASGD(p, lr=0.1, t0=1), old, gradients(4, 4, STEPS))
    distance = (optimizer.state[old.weight]["ax"] - old.weight).detach()
    migrate(optimizer, old, result_of(new, (ROWS, COLUMNS), (torch.tensor([2.0, 1.0, 1.0]), None)))
    ax = optimizer.state[new.weight]["ax"]
    assert torch.equal(ax[1], new.weight[1]) and torch.equal(ax[:, 3:], new.weight[:, 3:])
    torch.testing.assert_close((ax - new.weight)[0, :3].detach(), 2 * distance[2, [3, 0, 1]])


def test_adafactor_s_estimate_stays_where_channels_come_and_go_and_new_ones_start_at_the_level_of_others() -> None:
    old, new = Matrix(4, 4), Matrix(3, 5)
    optimizer = trained(BUILD["Adafactor"], old, gradients(4, 4, STEPS))
    before = estimate(optimizer.state[old.weight])
    notes = migrate(optimizer, old, result_of(new, (ROWS, COLUMNS)))
    state = optimizer.state[new.weight]
    after = estimate(state)
    assert state["row_var"].shape == (3, 1) and state["col_var"].shape == (1, 5)
    torch.testing.assert_close(after[::2, :3], before[[2, 0]][:, [3, 0, 1]], rtol=1e-12, atol=0)
    assert bool((after[1] > 0).all()) and bool((after[:, 3:] > 0).all())
    # both have the mean of the whole, as if they had been taken over the new positions
    torch.testing.assert_close(state["row_var"].mean(), state["col_var"].mean(), rtol=1e-12, atol=0)
    assert notes and "as a whole" in notes[0]


def test_adafactor_keeps_means_over_the_kernel_s_dims_for_each_channel() -> None:
    old, new = nn.Conv2d(3, 4, 3).double(), nn.Conv2d(2, 3, 3).double()
    optimizer = optim.Adafactor(old.parameters(), lr=0.01)
    old(torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).double()).square().sum().backward()
    optimizer.step()
    before = optimizer.state[old.weight]["row_var"].clone()
    rows, columns, two = torch.tensor([3, 0, 1]), torch.tensor([2, 0]), torch.tensor([2.0, 1.0, 1.0]).double()
    origins = {"weight": (rows, columns, None, None), "bias": (rows,)}
    factors = {"weight": (two, None, None, None), "bias": (two,)}
    migrate(optimizer, old, Result(new, origins, {"weight": "weight", "bias": "bias"}, factors))
    after = optimizer.state[new.weight]["row_var"]
    torch.testing.assert_close(after, before[rows][:, columns] / two.square().view(-1, 1, 1, 1))


@pytest.mark.parametrize("changes", [True, False])
def test_lbfgs_starts_anew_where_a_parameter_changes_and_says_so(changes: bool) -> None:
    old, new = Matrix(4, 4), Matrix(3 if changes else 4, 4)
    optimizer = optim.LBFGS([old.weight], max_iter=3)
    optimizer.step(lambda: closure(optimizer, old))
    notes = migrate(optimizer, old, result_of(new, (ROWS if changes else None, None)))
    assert bool(optimizer.state[new.weight]) is not changes
    assert notes == (("LBFGS starts anew: its state belongs to all 1 parameters, and 1 changed.",) if changes else ())
    before = new.weight.detach().clone()
    optimizer.step(lambda: closure(optimizer, new))
    assert not torch.equal(new.weight, before)


def closure(optimizer: Optimizer, module: Matrix) -> Tensor:
    optimizer.zero_grad()
    loss = (module.weight**2).sum() + (module.weight**4).sum()
    loss.backward()
    return loss


def test_the_state_of_sparse_gradients_is_carried() -> None:
    old, new = (nn.Embedding(4, width, sparse=True) for width in (3, 2))
    optimizer = optim.SparseAdam(old.parameters())
    old(torch.tensor([0, 2])).square().sum().backward()
    optimizer.step()
    before = optimizer.state[old.weight]["exp_avg"].clone()
    origins: dict[str, Dims] = {"weight": (None, torch.tensor([2, 0]))}
    migrate(optimizer, old, Result(new, origins, {"weight": "weight"}, {"weight": (None, None)}))
    assert torch.equal(optimizer.state[new.weight]["exp_avg"], before[:, [2, 0]])
    new(torch.tensor([1])).sum().backward()
    optimizer.step()
