"""Python values as JSON, with their tensors beside them."""

import json
from typing import Any

import pytest
import torch

from nrfx.checkpoint.encoding import decoded, encoded, tensors_in
from nrfx.errors import CheckpointError

VALUES = {
    "plain": [None, True, 3, 2.5, "text"],
    "tuples": (1, (2, [3, ()])),
    "tensors": {"step": torch.tensor(3), "sums": [torch.arange(4.0), (torch.ones(2, 2, dtype=torch.bfloat16),)]},
    "a dict that looks encoded": {"tensor": {"tuple": ["tensor"]}},
}


@pytest.mark.parametrize("name", VALUES)
def test_what_is_encoded_is_decoded_to_the_same_value_with_copies_of_its_tensors(name: str) -> None:
    tensors = tensors_in(VALUES[name], "state")
    again = decoded(json.loads(json.dumps(encoded(VALUES[name], "state"))), tensors, "state")
    assert_same(again, VALUES[name])
    copies = tensors_in(again, "state")
    assert copies.keys() == tensors.keys()
    assert all(copies[place] is not tensor for place, tensor in tensors.items())


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    elif isinstance(one, dict):
        assert_same(list(one.items()), list(other.items()))
    elif isinstance(one, tuple | list):
        assert len(one) == len(other)
        for item, twin in zip(one, other, strict=True):
            assert_same(item, twin)
    else:
        assert one == other


def test_a_value_of_another_kind_is_refused_with_its_place() -> None:
    with pytest.raises(CheckpointError, match="state/rates/1 is a set"):
        encoded({"rates": [1, {2}]}, "state")
