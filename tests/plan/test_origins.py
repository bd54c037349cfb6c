"""Origins: where each position of a new axis comes from."""

import pytest
import torch

from nrfx.plan.origins import NEW, Axis, axes_of_births, first_place, gather, is_whole, origin, scaled


def drawn(seed: int, most: int = 12) -> torch.Tensor:
    """A layout of up to `most` labels from -1 to 4, so that labels repeat."""
    generator = torch.Generator().manual_seed(seed)
    length = int(torch.randint(most, (1,), generator=generator))
    return torch.randint(-1, 5, (length,), generator=generator)


@pytest.mark.parametrize("seed", range(40))
def test_the_n_th_of_a_label_comes_from_the_n_th_before_and_is_new_where_there_were_fewer(seed: int) -> None:
    old, new = drawn(seed), drawn(seed + 1000)
    for at, place in enumerate(origin(old, new).tolist()):
        same = (old == new[at]).nonzero().flatten().tolist()
        rank = int((new[:at] == new[at]).sum())
        assert place == (same[rank] if rank < len(same) else NEW)


@pytest.mark.parametrize("seed", range(20))
def test_the_axes_of_all_births_are_those_of_each_alone(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    widths = torch.randint(6, (5,), generator=generator).tolist()
    old = dict(zip("abcde", torch.arange(sum(widths)).split(widths), strict=True))
    new, more = {}, sum(widths)
    for key, labels in old.items():
        fresh = int(torch.randint(3, (1,), generator=generator))
        stay = labels[torch.rand(labels.numel(), generator=generator) < 0.7]
        new[key] = torch.cat([stay, torch.arange(more, more + fresh)])
        more += fresh
    new["c"] = old["c"].flip(0) if seed % 2 else old["c"]
    axes = axes_of_births(old, new)
    assert new.keys() - axes.keys() <= {"c"}  # in another order the labels do not ascend
    for key, axis in axes.items():
        alone = Axis.of(origin(old[key], new[key]), old[key].numel())
        for ours, theirs in ((axis.places, alone.places), (axis.chosen, alone.chosen), (axis.known, alone.known)):
            assert ours is theirs is None or (ours is not None and theirs is not None and torch.equal(ours, theirs))
        assert axis.in_front is alone.in_front
        assert axis.places.untyped_storage().nbytes() == axis.places.nbytes  # it keeps no others alive


def test_births_that_do_not_number_all_labels_in_order_have_no_common_axes() -> None:
    births = {"a": torch.tensor([1, 2]), "b": torch.tensor([0])}
    assert axes_of_births(births, births) == {}


def test_a_layout_with_strides_is_taken_without_a_warning_of_torch() -> None:
    every_second = torch.tensor([3, 9, 5, 9])[::2]
    assert origin(torch.tensor([3, 4, 5]), every_second).tolist() == [0, 2]


@pytest.mark.parametrize("seed", range(10))
def test_the_first_place_of_a_label_is_where_it_stands_first(seed: int) -> None:
    layout = drawn(seed)
    known = layout.tolist()
    for labels in (drawn(seed + 1000), layout):
        assert first_place(layout, labels).tolist() == [
            known.index(label) if label in known else NEW for label in labels.tolist()
        ]


def test_gather_takes_each_dim_by_its_origins_and_leaves_zeros_where_new() -> None:
    weight = torch.arange(1.0, 7.0).view(2, 3)
    rows, columns = torch.tensor([1, NEW, 0]), torch.tensor([NEW, 2])
    assert gather(weight, (rows, columns)).tolist() == [[0, 6], [0, 0], [0, 3]]
    assert gather(weight, (None, torch.arange(3))) is weight


def test_an_axis_is_whole_only_in_its_order_and_to_its_end() -> None:
    assert is_whole(torch.arange(3), 3)
    assert not is_whole(torch.arange(3), 4) and not is_whole(torch.tensor([0, 2, 1]), 3)


def test_factors_multiply_along_their_dims_in_float64() -> None:
    weight = torch.ones(2, 3)
    product = scaled(weight, (torch.tensor([2.0, 3.0]), torch.tensor([1.0, 10.0, 100.0])))
    assert product.dtype == torch.float64 and product.tolist() == [[2, 20, 200], [3, 30, 300]]
    assert scaled(weight, (None, None)) is weight


@pytest.mark.parametrize("rows", [[1, 0, NEW], [NEW, 1], [NEW, 0, NEW, 1], [NEW], [1], [0, 1]], ids=str)
@pytest.mark.parametrize("columns", [[2, 0, NEW], [NEW, 1], [NEW, NEW], [0], [0, 1, 2], None])
def test_old_numbers_go_where_their_origins_say(rows: list[int], columns: list[int] | None) -> None:
    old = torch.arange(1.0, 13).view(2, 3, 2)
    columns_or_all = [0, 1, 2] if columns is None else columns
    expected = [
        [[0.0, 0.0] if NEW in (row, column) else old[row, column].tolist() for column in columns_or_all] for row in rows
    ]
    origins = torch.tensor(rows), None if columns is None else torch.tensor(columns), None
    assert gather(old, origins).tolist() == expected
    by = torch.arange(1.0, len(columns_or_all) + 1).double()
    times_by = (torch.tensor(expected) * by.view(1, -1, 1)).tolist()
    assert gather(old, origins, (None, by, None)).tolist() == times_by


def test_products_are_rounded_once() -> None:
    old, factor = torch.rand(1000, generator=torch.Generator().manual_seed(0)), torch.full((1000,), 1 / 3).double()
    product = gather(old, (None,), (factor,))
    assert product.dtype == torch.float32 and torch.equal(product, (old.double() * factor).float())


@pytest.mark.parametrize(
    ("places", "in_front"), [([0, 1], True), ([1, NEW], True), ([NEW, 1], False), ([NEW, NEW], True), ([1, 0], True)]
)
def test_an_axis_knows_whether_new_positions_stand_behind_all_others(places: list[int], in_front: bool) -> None:
    axis = Axis.of(torch.tensor(places), 2)
    assert axis.in_front is in_front and axis.places.tolist() == places
    assert (axis.chosen is None) is (places == [0, 1])
    assert (axis.known is None) is (NEW not in places)
