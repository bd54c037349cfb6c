"""Optimizers of other packages, known by name: small ones of our own that keep state in the same forms."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn, optim

from nrfx.optimizers.kinds import PARAMETER, Kind
from nrfx.optimizers.packages import NAMED, kind_of, with_wrapped
from nrfx.training.optimizer import migrate
from tests.training.test_carried_state import COLUMNS, ROWS, Matrix, gradients, result_of, stepped


class Named(optim.Optimizer):
    """An optimizer without hyperparameters; `init` makes the state of a parameter, `update` the step."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            if not state:
                state["step"] = 0
                self.init(parameter, state)
            state["step"] += 1
            assert parameter.grad is not None
            self.update(parameter, parameter.grad, state)


class AdamWScheduleFree(Named):
    """The parameter is y, between the fast z and the mean x, which is not kept."""

    def init(self, parameter: Tensor, state: dict[str, Tensor]) -> None:
        state["z"], state["exp_avg_sq"] = parameter.clone(), torch.zeros_like(parameter)

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> None:
        x = parameter.lerp(state["z"], 1 - 1 / 0.9)
        state["exp_avg_sq"].lerp_(gradient.square(), 0.1)
        state["z"].sub_(0.1 * gradient / state["exp_avg_sq"].sqrt())
        parameter.copy_(x.lerp(state["z"], 1 / float(state["step"])).lerp(state["z"], 0.1))


class Lion(Named):
    def init(self, parameter: Tensor, state: dict[str, Tensor]) -> None:
        state["exp_avg"] = torch.zeros_like(parameter)

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> None:
        parameter.sub_(0.1 * state["exp_avg"].lerp(gradient, 0.1).sign())
        state["exp_avg"].lerp_(gradient, 0.01)


class Adafactor(Named):
    """The means lose their dim."""

    def init(self, parameter: Tensor, state: dict[str, Tensor]) -> None:
        state["exp_avg_sq_row"] = parameter.new_zeros(parameter.shape[:-1])
        state["exp_avg_sq_col"] = parameter.new_zeros((*parameter.shape[:-2], parameter.shape[-1]))
        state["exp_avg"] = torch.zeros_like(parameter)

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> None:
        rows, columns = state["exp_avg_sq_row"], state["exp_avg_sq_col"]
        rows.lerp_(gradient.square().mean(-1), 0.1)
        columns.lerp_(gradient.square().mean(-2), 0.1)
        size = (rows[..., None] * columns[..., None, :] / rows.mean(-1)[..., None, None]).sqrt()
        state["exp_avg"].lerp_(gradient / size, 0.1)
        parameter.sub_(0.1 * state["exp_avg"])


MADE = {"schedulefree": AdamWScheduleFree, "timm": Lion, "transformers": Adafactor}


def named(package: str, parameter: nn.Parameter) -> optim.Optimizer:
    """An optimizer of a class that has the name of that package's."""
    kind = MADE[package]
    made = type(kind.__name__, (kind,), {"__module__": f"{package}.optim.deep"})
    optimizer: optim.Optimizer = made([parameter])
    assert kind_of(optimizer) is NAMED[f"{package}.{kind.__name__}"]
    return optimizer


@pytest.mark.parametrize("package", sorted(MADE))
def test_the_next_step_of_survivors_is_the_old_one(package: str) -> None:
    old, lonely, new = Matrix(4, 4), Matrix(4, 4), Matrix(3, 5, seed=2)
    optimizer, alone = named(package, old.weight), named(package, lonely.weight)
    *past, coming = gradients(4, 4, 5)
    for gradient in past:
        stepped(optimizer, old.weight, gradient)
        stepped(alone, lonely.weight, gradient)
    there, kept = (ROWS >= 0)[:, None] & (COLUMNS >= 0), (ROWS.clamp(min=0)[:, None], COLUMNS.clamp(min=0))
    with torch.no_grad():
        new.weight.copy_(torch.where(there, old.weight[kept], new.weight))
    migrate(optimizer, old, result_of(new, (ROWS, COLUMNS)))
    step = stepped(optimizer, new.weight, torch.where(there, coming[kept], 0.5))
    expected = stepped(alone, lonely.weight, coming)[kept]
    # the means over rows and columns see the gradients of new channels from this step on
    tolerance = 0.1 if package == "transformers" else 1e-12
    torch.testing.assert_close(step[there], expected[there], rtol=tolerance, atol=1e-12)
    assert bool(step.isfinite().all())


def test_what_a_wrapper_puts_into_the_state_is_a_copy_of_the_parameter() -> None:
    old, new = Matrix(2, 2), Matrix(2, 3)
    optimizer = optim.SGD([old.weight], lr=0.1)
    optimizer.state[old.weight]["lookahead_slow_buff"] = old.weight.detach() + 1
    migrate(optimizer, old, result_of(new, (None, torch.tensor([1, 0, -1]))))
    slow = optimizer.state[new.weight]["lookahead_slow_buff"]
    torch.testing.assert_close(slow, new.weight.detach() + torch.tensor([1.0, 1.0, 0.0]).double())


def test_a_kind_s_own_state_goes_before_that_of_wrappers() -> None:
    own = with_wrapped(Kind({"z": 1}))
    assert own.powers == {"z": 1, "lookahead_slow_buff": -1} and own.fill == {"lookahead_slow_buff": PARAMETER}
