"""Parameters and buffers by name, and their layout in memory."""

import pytest
import torch

from nrfx.checkpoint.tensors import aliases_of, is_channels_last, listed, named_once, registered, relative_of
from tests.tracing.models import Tied


def test_tied_tensors_are_named_once_and_their_further_names_lead_to_the_first() -> None:
    model = Tied()
    assert aliases_of(model) == {"b.weight": "a.weight", "again.weight": "norm.weight", "again.bias": "norm.bias"}
    assert registered(model).keys() == named_once(model).keys() | aliases_of(model).keys()
    assert not named_once(model).keys() & aliases_of(model).keys()


@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (4, 3, 1, 1), (4, 3, 2, 2, 2)])
def test_channels_last_is_told_by_strides_which_differ_for_a_kernel_of_one_too(shape: tuple[int, ...]) -> None:
    last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    assert is_channels_last(torch.zeros(shape).to(memory_format=last))
    assert not is_channels_last(torch.zeros(shape))
    assert not is_channels_last(torch.zeros(shape[:2])) and not is_channels_last(torch.zeros(1, 1, 1, 1))


def test_a_tensor_that_is_not_there_has_a_relative_in_its_layer() -> None:
    block, bias = torch.zeros(1), torch.ones(1)
    tensors = {"conv.weights.0": block, "fc.bias": bias, "convolution.bias": bias}
    assert relative_of("fc.bias", tensors) is bias
    assert relative_of("conv.weight", tensors) is block
    assert relative_of("fc.weights.1", tensors) is bias
    assert relative_of("co.weight", tensors) is None


def test_four_names_are_listed_and_the_rest_counted() -> None:
    assert listed("dbac") == "a, b, c, d" and listed("edbac") == "a, b, c, d and 1 more"
