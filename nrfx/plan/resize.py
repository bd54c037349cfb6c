"""From widths to layouts: what every axis of every parameter will look like.

Each birth keeps its surviving labels in order and gets new ones at its end (grown_births.py); the graph is interpreted
once more on these labels. A Mismatch is where they no longer meet as the old ones did (mismatches.py: a view with a
constant width, blocks that must stay equal): the caller then constrains the spaces concerned (constraints.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nrfx.analysis.channels import Channels, Step, first_readings
from nrfx.analysis.relabel import Relabeler
from nrfx.plan.expected import Expected
from nrfx.plan.grown_births import grown_births
from nrfx.plan.mismatches import check_steps
from nrfx.rules import Reading
from nrfx.tracing import TracedModule


@dataclass(frozen=True)
class Resized:
    """The layouts of the new network, in labels: survivors keep theirs, new channels have labels behind all old ones.

    Attributes:
        births: place -> its labels in the new network.
        layouts: parameter or buffer -> its new layout on each dim.
        readings: key of a weight -> its new rows and columns.
        channel_of: int64 [old and new labels], the channel of each label.
        literals: (mode, node) -> the arguments that state a width, with their new values.
        axes: the axis that holds the channels of each bare parameter.
        norms: path of a norm module -> its new width, for norms without parameters do not show it.
    """

    births: Mapping[str, Tensor]
    layouts: Mapping[str, tuple[Tensor | None, ...]]
    readings: Mapping[str, Reading]
    channel_of: Tensor
    literals: Mapping[tuple[str, str], Mapping[int | str, Any]]
    axes: Mapping[str, int | None]
    norms: Mapping[str, int]


def resize(traced: TracedModule, channels: Channels, kept: Tensor, width: Tensor) -> Resized:
    """The layouts of a network in which the channels `kept` (bool [channels]) stay and space s has width[s] channels.

    Raises:
        Mismatch: an op does not take these widths.
    """
    births, channel_of = grown_births(channels, kept, width)
    expected = Expected(channels, births, kept, width)
    tensors = dict([*traced.named_parameters(), *traced.named_buffers()])

    def shape_of(name: str) -> tuple[int, ...]:
        return expected.shape(name, tensors[name].shape)

    steps = Relabeler(traced, channels, births, channel_of, shape_of).interpreted()
    resized = Resized(
        births,
        _layouts(channels, steps),
        first_readings(steps),
        channel_of,
        {(step.mode, step.node.name): step.effect.literals for step in steps if step.effect.literals},
        channels.axes,
        {
            step.effect.norm.path: step.effect.norm.layout.numel()
            for step in steps
            if step.effect.norm is not None and step.node.op == "call_module"
        },
    )
    check_steps(channels, steps, channel_of, expected)
    return resized


def _layouts(channels: Channels, steps: tuple[Step, ...]) -> dict[str, tuple[Tensor | None, ...]]:
    """Parameter or buffer -> its layout on each dim, at its first visit."""
    new: dict[str, list[Tensor | None]] = {}
    for step in steps:
        for site in step.effect.sites:
            dims = new.setdefault(site.parameter, [None] * len(channels.layouts[site.parameter]))
            if dims[site.dim] is None:
                dims[site.dim] = site.layout
    return {name: tuple(dims) for name, dims in new.items()}
