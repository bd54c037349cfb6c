"""Vectors of ids."""

import pytest
import torch

from nrfx.ids import components, occurrence


def test_components_join_through_chains_in_any_order() -> None:
    left, right = torch.tensor([5, 3, 1, 4]), torch.tensor([4, 2, 3, 1])
    assert components(7, left, right).tolist() == [0, 1, 1, 1, 1, 1, 6]


def test_no_ties_leave_everyone_alone() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert components(3, nothing, nothing).tolist() == [0, 1, 2]


@pytest.mark.parametrize("seed", range(10))
def test_components_are_what_joining_two_at_a_time_gives(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randint(0, 40, (2, 4 + 6 * seed), generator=generator) * 5
    expected = list(range(200))
    for one, other in zip(left.tolist(), right.tolist(), strict=True):
        low, high = sorted((expected[one], expected[other]))
        expected = [low if each == high else each for each in expected]
    assert components(200, left, right).tolist() == expected


@pytest.mark.parametrize("seed", range(10))
def test_occurrence_counts_the_earlier_ones(seed: int) -> None:
    layout = torch.randint(0, 6, (12,), generator=torch.Generator().manual_seed(seed))
    assert occurrence(layout).tolist() == [int((layout[:at] == label).sum()) for at, label in enumerate(layout)]
