"""The names of parameters and buffers: all of each tensor, and the first."""

import pytest
from torch import nn

from nrfx.analysis.names import first_names, named_tensors
from tests.tracing.models import Tied
from tests.zoo import SMALL


@pytest.mark.parametrize(
    "model", [Tied(), *(build() for build in SMALL.values())], ids=lambda model: type(model).__name__
)
def test_every_name_of_every_tensor_is_there_parameters_first(model: nn.Module) -> None:
    named = named_tensors(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    assert list(named)[: len(parameters)] == list(parameters)
    both = {**parameters, **dict(model.named_buffers(remove_duplicate=False))}
    assert named.keys() == both.keys() and all(named[name] is tensor for name, tensor in both.items())


def test_further_names_of_a_tensor_lead_to_its_first() -> None:
    first = first_names(named_tensors(Tied()))
    assert {name for name, known in first.items() if name != known} == {"b.weight", "again.weight", "again.bias"}
    assert (first["b.weight"], first["again.weight"], first["a.weight"]) == ("a.weight", "norm.weight", "a.weight")
