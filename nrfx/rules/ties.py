"""The ties that come from reading a layout: whatever shares an index on the axis is one channel to the reader."""

from torch import Tensor

from nrfx.labels import lies_along, spread


def ties_along(labels: Tensor, axis: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """Ties between the labels that share an index of `axis`; none where labels vary along it alone."""
    if lies_along(labels, axis):
        return ()
    rows = spread(labels, axis)
    if rows.shape[1] == 1:
        return ()
    lead = rows.amax(1, keepdim=True)
    return ((lead.expand_as(rows), rows),)
