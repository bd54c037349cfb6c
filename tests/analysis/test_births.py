"""Ties between whole births against the ties of their labels, one by one."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nrfx.analysis.births import Births
from nrfx.labels import along, born, components


def births_of(widths: list[int]) -> list[Tensor]:
    ends = torch.tensor([0, *widths]).cumsum(0).tolist()
    return [born(start, width) for start, width in zip(ends, widths, strict=False)]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7))))
def test_ties_of_births_are_the_ties_of_their_labels(widths: list[int], pairs: list[tuple[int, int]]) -> None:
    labels = births_of(widths)
    births = Births(labels)
    left, right = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)]
    for one, other in pairs:
        first, second = labels[one % len(labels)], labels[other % len(labels)]
        same = first.numel() == second.numel() > 0
        assert births.tied(first[:, None], second[:, None]) is same
        if same:
            left, right = [*left, first], [*right, second]
    count = sum(widths)
    expected = components(count, torch.cat(left), torch.cat(right))
    assert births.roots(count).tolist() == expected.tolist()
    channel_of, channels = births.channels()
    smallest = expected == torch.arange(count)
    assert channel_of.tolist() == (smallest.cumsum(0) - 1)[expected].tolist()
    assert channels == int(smallest.sum())
    space_of, spaces = births.spaces([str(index) for index in range(len(widths))])
    assert space_of.numel() == channels == sum(width for _, width in spaces)
    for index, (members, width) in enumerate(spaces):
        for key in members:
            own = channel_of[labels[int(key)]]
            assert space_of[own].tolist() == [index] * width


def test_a_part_of_a_birth_and_another_order_are_no_whole_birth() -> None:
    birth, _ = labels = births_of([4, 4])
    births = Births(labels)
    assert births.whole(birth.clone()) == births.whole(along(birth, 1, [1, 4, 1])) == 0
    assert births.whole(birth[1:]) is births.whole(birth.flip(0)) is births.whole(birth[:3]) is None
    assert births.whole(birth[::2]) is births.whole(birth[:0]) is births.whole(torch.tensor([-2, -2])) is None


def test_a_birth_is_repeated_where_each_of_its_labels_stands_equally_often_in_a_row() -> None:
    first, second = births_of([2, 3])
    births = Births([first, second])
    assert all(births.repeated(labels.repeat_interleave(times)) for labels in (first, second) for times in (1, 4))
    assert not births.repeated(first.repeat(2))
    assert not births.repeated(first.repeat_interleave(torch.tensor([1, 3])))
    assert not births.repeated(second[:2].repeat_interleave(3))
    assert not births.repeated(torch.cat([first, second]))
    assert not births.repeated(first[:0])
