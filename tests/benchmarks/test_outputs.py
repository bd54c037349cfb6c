"""Outputs are compared by the largest difference, whatever they are made of."""

import torch

from benchmarks.outputs import relative


def test_outputs_are_compared_where_they_are_infinite_or_whole_numbers_too() -> None:
    inf = torch.tensor([1.0, float("inf")])
    assert relative((inf, torch.tensor([1, 2])), (inf, torch.tensor([1, 2]))) == 0
    assert relative((torch.tensor([2, 4]),), (torch.tensor([2, 3]),)) == 0.25
    assert relative((inf,), (inf[:1],)) == float("inf")
    nan = torch.tensor([1.0, float("nan")])
    assert relative((nan,), (nan,)) == 0 and str(relative((nan,), (inf.nan_to_num(),))) == "nan"
    assert str(relative((nan, inf), (inf.nan_to_num(), inf))) == "nan"
