"""The ties that come from reading a layout: whatever shares an index on the axis is one channel to the reader."""

from torch import Tensor

from nrfx.labels import collapse, led, lies_along, spread, varying


def ties_along(labels: Tensor, axis: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """Ties between the labels that share an index of `axis`; none where labels vary along it alone.

    >>> import torch
    >>> labels = torch.tensor([[0, 1], [2, 1]])  # the labels 0 and 2 meet at index 0 of the last axis
    >>> [(left.tolist(), right.tolist()) for left, right in ties_along(labels, 1)]
    [([[2, 2], [1, 1]], [[0, 2], [1, 1]])]
    """
    if lies_along(labels, axis):
        return ()
    rows = spread(labels, axis)
    if rows.shape[1] == 1:
        return ()
    lead = rows.amax(1, keepdim=True)
    return ((lead.expand_as(rows), rows),)


def ties_in_units(labels: Tensor, dims: set[int]) -> tuple[tuple[Tensor, Tensor], ...] | None:
    """Ties between the labels that differ along `dims` alone, such as the channels of one head; () where none do.

    None where nothing else tells labels apart: then all would be one unit.
    """
    varies = varying(labels)
    within = varies & dims
    if within and not varies - dims:
        return None
    small = collapse(labels)
    return ((led(small, within), small),) if within else ()
