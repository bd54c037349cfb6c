"""What users get wrong, one row a mistake: an error of ours that names the place and what to do, or a note.

After each, the model is as it was: parameters, buffers, flags, modes, hooks, code.
"""

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

import nrfx
from tests.mistakes import ROWS, TABLES
from tests.mistakes.broken import full, random_images, traced


@pytest.mark.parametrize("name", ROWS)
def test_a_mistake_is_answered_and_the_model_is_as_it_was(name: str, tmp_path: Path) -> None:
    case = ROWS[name]
    model = case.make()
    before = _state(model)
    if case.error is None:
        said = str(case.mistake(model, tmp_path))
    else:
        with pytest.raises(case.error) as caught:
            case.mistake(model, tmp_path)
        assert type(caught.value) is case.error
        said = str(caught.value)
    for word in case.words:
        assert word in said
    after = _state(model)
    assert after.keys() == before.keys()
    for key, value in before.items():
        assert _same(value, after[key]), key


def test_the_table_has_no_name_twice() -> None:
    assert len(ROWS) == sum(map(len, TABLES)) >= 40


def test_whole_numbers_of_numpy_are_a_budget() -> None:
    assert nrfx.Budget(params=numpy.int64(5_000)) == nrfx.Budget(params=5_000)


def test_a_backward_that_is_still_to_come_is_not_disturbed_by_a_rejuvenation() -> None:
    gm = traced()
    loss = gm(random_images()).sum()
    assert nrfx.rejuvenate(gm, full(gm)).changed
    loss.backward()
    assert all(parameter.grad is not None for parameter in gm.parameters())


def _state(module: nn.Module) -> dict[str, Any]:
    """Everything about a module that a call could have changed."""
    state: dict[str, Any] = {"code": getattr(module, "code", None)}
    for path, each in module.named_modules():
        hooks = {
            name: len(value) for name, value in vars(each).items() if name.endswith("_hooks") and value is not None
        }
        state[f"{path} itself"] = (id(each), each.training, hooks)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        state[name] = (id(tensor), tensor.requires_grad, tensor.grad is None)
        if not isinstance(tensor, nn.UninitializedParameter):
            state[f"{name} in numbers"] = tensor.detach().clone()
    return state


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor):
        return bool(one == other)
    if one.is_meta:
        return one.shape == other.shape
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())
