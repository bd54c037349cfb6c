"""Kinds of optimizers that users register."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from nrfx.errors import TrainingError
from nrfx.optimizers.kinds import TORCH, register_optimizer
from nrfx.optimizers.packages import kind_of
from nrfx.training.optimizer import check_optimizer, migrate
from tests.training.test_carried_state import Matrix, result_of


class Weighted(optim.Optimizer):
    """Keeps what other optimizers keep: a mean, a size that starts from an option, and a matrix of the whole."""

    def __init__(self, parameters: list[nn.Parameter], start: float) -> None:
        super().__init__(parameters, {"start": start})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            state, gradient = self.state[parameter], parameter.grad
            state.setdefault("mean", torch.zeros_like(parameter)).add_(gradient)
            state.setdefault("size", torch.full_like(parameter, self.param_groups[0]["start"])).add_(gradient**2)
            state["basis"] = [gradient @ gradient.T]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Weighted", {}), r'kind is \'Weighted\'; expected a class of optimizer, or its name as "package\.Class"'),
        ((nn.Linear, {}), "kind is <class .*Linear'>; expected a class of optimizer"),
        ((Weighted, ["mean"]), r"powers is \['mean'\] and restarts \(\); expected a mapping"),
        ((Weighted, {"mean": "1"}), "The power of 'mean' is '1'; expected a number"),
        ((Weighted, {"mean": 1}, {"size": 0}), "fill names 'size', which powers does not; it names mean"),
        ((Weighted, {"mean": 1}, {"mean": None}), "The fill of 'mean' is None; expected a number"),
        ((Weighted, {"mean": 1}, {"mean": "parameter"}), "filled with the parameter and has the power 1; a copy"),
    ],
)
def test_what_is_no_kind_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        register_optimizer(*arguments)
    assert kind_of(Weighted([nn.Parameter(torch.zeros(1))], 0.0)) is None


def test_every_optimizer_of_torch_is_known() -> None:
    kinds = {each for each in vars(optim).values() if isinstance(each, type) and issubclass(each, optim.Optimizer)}
    assert kinds - {optim.Optimizer} == set(TORCH)


def test_what_is_registered_is_carried_and_subclasses_with_it() -> None:
    class Carried(Weighted):
        pass

    class Below(Carried):
        pass

    register_optimizer(Carried, {"mean": 1, "size": 2}, {"size": "start"}, restarts=("basis",), note="a note")
    old, new = Matrix(2, 2), Matrix(3, 2)
    optimizer = Below([old.weight], start=7.0)
    check_optimizer(optimizer)
    old.weight.grad = torch.full((2, 2), 2.0).double()
    optimizer.step()
    optimizer.state[old.weight].pop("basis")
    notes = migrate(optimizer, old, result_of(new, (torch.tensor([1, 0, -1]), None), (torch.tensor([2.0, 1, 1]), None)))
    state: dict[str, Tensor] = optimizer.state[new.weight]
    assert state["mean"].tolist() == [[1, 1], [2, 2], [0, 0]]
    assert state["size"].tolist() == [[11 / 4, 11 / 4], [11, 11], [7, 7]]
    assert notes == ("Below: a note.",)


def test_state_of_a_whole_matrix_starts_anew_where_the_matrix_changes_and_is_copied_where_it_does_not() -> None:
    class Restarting(Weighted):
        pass

    register_optimizer(Restarting, {"mean": 1, "size": 2}, restarts=("basis",))
    for changes in (True, False):
        old, new = Matrix(2, 2), Matrix(3 if changes else 2, 2)
        optimizer = Restarting([old.weight], start=0.0)
        old.weight.grad = torch.ones(2, 2).double()
        optimizer.step()
        notes = migrate(optimizer, old, result_of(new, (torch.tensor([0, 1, -1]) if changes else None, None)))
        if changes:
            assert new.weight not in optimizer.state
            assert notes == (
                "Restarting starts anew for 1 parameters that changed, for their basis cannot be carried.",
            )
        else:
            assert notes == () and torch.equal(
                optimizer.state[new.weight]["basis"][0], torch.full((2, 2), 2.0).double()
            )
