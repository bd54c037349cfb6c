"""Ties between whole births against the ties of their labels, one by one."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nrfx.analysis.births import Births
from nrfx.ids import components
from nrfx.labels import along, born


def births_of(widths: list[int]) -> list[Tensor]:
    ends = torch.tensor([0, *widths]).cumsum(0).tolist()
    return [born(start, width) for start, width in zip(ends, widths, strict=False)]


Ties = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.sampled_from([1, 1, 2, 3, 4])))


@given(st.lists(st.sampled_from([0, 1, 2, 3, 12, 12, 12]), min_size=1, max_size=8), Ties)
def test_ties_of_births_are_the_ties_of_their_labels(widths: list[int], pairs: list[tuple[int, int, int]]) -> None:
    labels = births_of(widths)
    births = Births(labels)
    left, right = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)]
    for one, other, size in pairs:
        first, second = labels[one % len(labels)], labels[other % len(labels)]
        if size > 1 and first.numel() % size == second.numel() % size == 0:
            first, second = first.view(-1, size)[:, -1:].expand(-1, size), second.view(-1, size)
            tied = births.tied(first, second)
            first, second = first.reshape(-1), second.reshape(-1)
        else:
            same = first.numel() == second.numel() > 0
            tied = births.tied(first[:, None], second[:, None])
            assert tied <= same and (tied or not same or size_of_groups(births) > 1)
        if tied:
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
        for key, size in members.items():
            own = channel_of[labels[int(key)]]
            assert space_of[own].tolist() == [index] * width * size
            assert own.unique(return_counts=True)[1].tolist() == [size] * width


def size_of_groups(births: Births) -> int:
    return max(births.group)


def test_groups_are_tied_that_are_groups_of_both_births() -> None:
    first, second, third = labels = births_of([6, 6, 6])
    births = Births(labels)

    def last(birth: Tensor, size: int) -> Tensor:
        return birth.view(-1, size)[:, -1:].expand(-1, size)

    assert not births.tied(last(first, 3), second.view(-1, 3))  # of the first birth only the last of each group is met
    assert births.tied(last(first, 3), first.view(-1, 3)) and births.tied(last(first, 3), second.view(-1, 3))
    assert not births.tied(last(second, 2), second.view(-1, 2))  # 2 and 3 are 6
    assert not births.tied(first.view(-1, 3)[:, :1].expand(-1, 3), third.view(-1, 3))
    assert births.channels()[0].tolist() == [0] * 3 + [1] * 3 + [0] * 3 + [1] * 3 + [2, 3, 4, 5, 6, 7]
    assert births.roots(18).tolist() == [0] * 3 + [3] * 3 + [0] * 3 + [3] * 3 + [*range(12, 18)]
    assert births.spaces(["a", "b", "c"])[1] == [({"a": 3, "b": 3}, 2), ({"c": 1}, 6)]


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


def test_a_birth_in_another_order_is_no_whole_one() -> None:
    whole, other = labels = births_of([6, 6])
    births = Births(labels)
    assert births.whole(whole.view(2, 3)) == births.whole(whole.view(2, 3)[None]) == 0
    assert births.whole(whole.view(2, 3).t()) is births.whole(whole[1:]) is births.whole(other[:3].expand(2, 3)) is None
    assert births.whole(other.clone()) == 1 and births.whole(other.view(2, 1, 3).transpose(0, 1)) == 1
