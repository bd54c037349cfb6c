import torch

from nrfx.labels import NONE, OPAQUE, along, coalesce, collapse, components, layout


def test_components_join_through_chains_in_any_order() -> None:
    left, right = torch.tensor([5, 3, 1, 4]), torch.tensor([4, 2, 3, 1])
    assert components(7, left, right).tolist() == [0, 1, 1, 1, 1, 1, 6]


def test_no_ties_leave_everyone_alone() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert components(3, nothing, nothing).tolist() == [0, 1, 2]


def test_a_label_is_preferred_over_an_opaque_value_and_that_over_none() -> None:
    left, right = torch.tensor([NONE, NONE, OPAQUE, 3]), torch.tensor([4, OPAQUE, NONE, 7])
    assert coalesce([left, right]).tolist() == [4, OPAQUE, OPAQUE, 3]


def test_repeated_dims_cost_no_memory_and_collapse_to_one() -> None:
    labels = along(torch.arange(4), 1, (2, 4, 50, 50))
    assert labels.untyped_storage().nbytes() == 4 * 8
    assert collapse(labels).shape == (1, 4, 1, 1)
    assert torch.equal(layout(labels, 1), torch.arange(4))


def test_a_layout_of_an_axis_that_shares_labels_takes_a_channel_over_padding() -> None:
    labels = torch.tensor([[0, NONE], [1, OPAQUE]])
    assert layout(labels, 0).tolist() == [0, 1]
