import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nrfx.labels import (
    NONE,
    OPAQUE,
    all_channels,
    along,
    ascends,
    born,
    coalesce,
    collapse,
    highest,
    layout,
    lies_along,
    over_positions,
    repeat_alike,
    repeat_one_layout,
    repeated,
    side_by_side,
    spread_inside,
    varying,
    viewed,
)


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


def test_padded_zeros_take_the_value_beside_them_and_other_zeros_stay() -> None:
    labels = torch.tensor([[NONE, 3, 3], [NONE, NONE, NONE], [4, 4, NONE]])
    values = torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.5]])
    expected = [[0.5, 0.5, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.5]]
    assert spread_inside(values, labels, 0, 0.0).tolist() == expected
    assert spread_inside(values.mT[None], labels.mT[None], 2, 0.0).tolist() == expected


def bare(labels: Tensor) -> Tensor:
    """The same labels without notes."""
    return labels.view(labels.shape)


@pytest.mark.parametrize("ids", [born(0, 4), born(3, 1), torch.tensor([0, NONE, 2]), torch.tensor([OPAQUE, 1])])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_what_is_noted_on_labels_is_what_they_hold(ids: Tensor, dim: int) -> None:
    shape = [2, 3, 5]
    shape[dim] = ids.numel()
    labels = along(ids, dim, shape)
    assert lies_along(labels, dim)
    assert lies_along(bare(labels), dim) or ids.numel() == 1  # of one label torch may say anything of the stride
    assert layout(labels, dim) is ids
    assert layout(bare(labels), dim).tolist() == ids.tolist()
    assert all_channels(labels) is all_channels(bare(labels)) is bool((ids >= 0).all())


def _random_view(seed: int) -> Tensor:
    """A view of fresh labels, as ops on tensors make some: cut, with dims in another order, and repeated."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    sizes = [1 + draw(4) for _ in range(3)]
    whole = born(draw(9), sizes[0] * sizes[1] * sizes[2])
    view = whole.view(sizes).permute(torch.randperm(3, generator=generator).tolist())
    dim = draw(3)
    first = draw(view.shape[dim])
    view = view.narrow(dim, first, 1 + draw(view.shape[dim] - first))
    view = view.unsqueeze(draw(3))
    return viewed(whole, view.expand([size if size > 1 else 1 + draw(3) for size in view.shape]))


@pytest.mark.parametrize("seed", range(40))
def test_what_follows_from_labels_that_ascend_is_what_looking_at_them_finds(seed: int) -> None:
    labels = _random_view(seed)
    plain = bare(labels)
    assert ascends(labels) and not ascends(plain)
    assert all_channels(labels) and bool((labels >= 0).all())
    assert torch.equal(repeated(labels), plain) and repeated(labels).stride() == labels.stride()
    assert varying(labels) == {dim for dim, size in enumerate(collapse(plain).shape) if size > 1}
    assert varying(repeated(plain)) == varying(labels)  # no dim is the same all along, but for those of stride 0
    for dims in ([0], [1, 2], sorted(varying(labels)), [*range(labels.dim())]):
        if len(dims):
            assert torch.equal(highest(labels, dims), labels.amax(dims, keepdim=True))
            assert ascends(highest(labels, dims))
    for dim in range(labels.dim()):
        assert torch.equal(layout(labels, dim), layout(plain, dim))
    assert torch.equal(collapse(labels), collapse(plain)) and ascends(collapse(labels))


@pytest.mark.parametrize("op", [torch.flip, torch.roll])
def test_what_an_op_writes_into_memory_of_its_own_does_not_ascend(op: Callable[..., Tensor]) -> None:
    labels = born(0, 6)
    turned = viewed(labels, op(labels, (1,), (0,)) if op is torch.roll else op(labels, (0,)))
    assert not ascends(turned) and not ascends(viewed(bare(labels), labels.view(2, 3)))
    assert highest(turned.view(2, 3), [1]).tolist() == turned.view(2, 3).amax(1, keepdim=True).tolist()


def test_operands_repeat_alike_on_one_dim_in_one_shape_without_holes() -> None:
    one, other = (along(born(start, 4), 1, (2, 4, 5)) for start in (0, 4))
    assert repeat_alike([one, other])
    assert not repeat_alike([one, bare(other)])
    assert not repeat_alike([one, along(born(4, 4), 1, (2, 4, 1))])
    assert not repeat_alike([along(born(0, 4), 1, (4, 4, 5)), along(born(4, 4), 0, (4, 4, 5))])
    assert not repeat_alike([one, along(torch.tensor([4, 5, NONE, 6]), 1, (2, 4, 5))])


def test_parts_side_by_side_are_what_torch_makes_of_them() -> None:
    parts = [along(born(start, width), 1, (2, width, 5)) for start, width in ((0, 4), (4, 1), (0, 4))]
    whole = side_by_side(parts, 1)
    assert whole is not None
    assert torch.equal(whole, torch.cat(parts, 1))
    assert all_channels(whole)
    assert side_by_side(parts, 2) is side_by_side([*parts, bare(parts[0])], 1) is None


def test_two_tensors_repeat_one_layout_only_if_it_is_the_same_object_along_the_same_dim() -> None:
    one, like_it = born(0, 3), born(0, 3)
    wide, small = along(one, 1, (2, 3, 4)), along(one, 1, (2, 3, 1))
    assert repeat_one_layout(wide, small)
    assert not repeat_one_layout(wide, along(like_it, 1, (2, 3, 4)))
    assert not repeat_one_layout(wide, along(one, 0, (3, 2)))
    assert not repeat_one_layout(one, one)  # it repeats none


def _over_each_dim(labels: torch.Tensor) -> torch.Tensor:
    """`over_positions` by its definition, line by line of each dim."""
    if not bool((labels >= 0).any()):
        return labels
    out = labels.clone()
    for dim in range(out.dim()):
        lines = [*out.movedim(dim, -1).reshape(-1, out.shape[dim])]
        if all(len(set(line[line >= 0].tolist())) <= 1 for line in lines):
            filled = [torch.where(line < 0, line.max(), line) if int(line.max()) >= 0 else line for line in lines]
            moved = torch.stack(filled).reshape(out.movedim(dim, -1).shape)
            out = moved.movedim(-1, dim)
    return out


@pytest.mark.parametrize("seed", range(40))
def test_over_positions_is_what_its_definition_says(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = [int(torch.randint(1, 4, (), generator=generator)) for _ in range(1 + seed % 4)]
    along_last = torch.randint(0, 3, (shape[-1],), generator=generator).expand(shape)
    marks = torch.randint(-3, 3, shape, generator=generator)
    labels = torch.where(marks < 0, marks, along_last)  # a layout along the last dim, with holes
    assert torch.equal(over_positions(labels), _over_each_dim(labels))
    assert over_positions(labels) is over_positions(labels)


def test_labels_that_nothing_can_fill_are_freed() -> None:
    labels = torch.tensor([[NONE, 3], [4, 5]])  # neither dim is one of positions
    assert over_positions(labels) is labels
    left = weakref.ref(labels)
    del labels
    gc.collect()
    assert left() is None
