"""Cross attention in a network that was never rejuvenated: every layer's channels are split into parts.

This is BL-CA, the baseline that tells what cross attention alone is worth. A part takes the place of a generation: with
two parts, the first half of the channels of a space is part 0, the second half part 1. Params and multiply-adds stay.
"""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nrfx.analysis.channels import Channels
from nrfx.analysis.cost import total_cost
from nrfx.analysis.spaces import channels_of
from nrfx.errors import RewriteError
from nrfx.ids import among
from nrfx.nn import Cross
from nrfx.plan.blocks import Blocks, crossable
from nrfx.rewrite.cross_layers import attending
from nrfx.rules import Reading
from nrfx.tracing import TracedModule, as_traced, propagate
from nrfx.tracing.graph.stated import AsBuilt


def cross_attend(gm: nn.Module, parts: int = 2, example_inputs: Any = None) -> TracedModule:
    """A copy of the network whose layers attend across parts of their channels, with the same params and multiply-adds.

    It is for networks that are trained from scratch: parameters keep their names, shapes and values, but the function
    is another wherever a weight between two parts is not 0,

        out_i = y_ii + 2 sigmoid(y_ii) * sum of y_ij over j != i        instead of        sum of all y_ij

    Layers that read the network's input or give its output stay as they are, and so do those without a cross form
    (grouped and transposed convolutions, layers called as functions, shared weights). Build the optimizer afterwards.

    Args:
        gm: a module, or what `nrfx.trace` returned; it is left as it is.
        parts: how many, of equal widths where that is possible. A space with fewer channels is not split.
        example_inputs: for a module that is not traced yet.

    Raises:
        RewriteError: parts is less than 2, the network has cross layers already, or no layer can be split.
        TraceError: the module cannot be captured.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 1))
    >>> cross_attend(net, example_inputs=torch.zeros(1, 3, 4, 4)).get_submodule("2")
    CrossConv2d((4, 4) -> (3, 3), kernel_size=(1, 1), stride=(1, 1), scheme='attention')

    Source: Neural Rejuvenation, Table 1, BL-CA; the equations are 9 and 10, here for any number of parts.
    """
    if isinstance(parts, bool) or not isinstance(parts, int) or parts < 2:
        raise RewriteError(f"parts is {parts!r}; expected an integer of 2 or more: the channels attend across parts.")
    traced = as_traced(gm, example_inputs)
    for path, module in traced.named_modules():
        if isinstance(module, Cross):
            raise RewriteError(
                f"{path} is a cross layer already: {module}. Pass a network that was never rejuvenated; rejuvenate() "
                "with scheme='attention' gives the others their generations."
            )
    channels = channels_of(traced)
    forms, notes = crossable(traced, channels)
    split = {reading.path: _blocks(channels, reading, _parts(channels, parts), parts) for reading in forms.values()}
    chosen = {path: blocks for path, blocks in split.items() if blocks is not None}
    if not chosen:
        why = notes[0] if notes else f"none reads and gives {parts} or more channels that are not the network's own"
        raise RewriteError(f"No layer can be split into {parts} parts: {why.rstrip('.')}. Nothing was changed.")
    twin = copy.deepcopy(traced)
    for path, blocks in chosen.items():
        twin.set_submodule(path, attending(twin.get_submodule(path), blocks))
    propagate(twin)
    twin.facts = replace(twin.facts, fresh=AsBuilt.of(traced))
    assert total_cost(twin, channels_of(twin, axes=channels.axes)) == total_cost(traced, channels)
    return twin


def _parts(channels: Channels, parts: int) -> Tensor:
    """[channels] int64: the part of each channel, -1 where its space is not split.

    Spaces of the network's own inputs and outputs, and those with fewer channels than parts, are not.
    """
    ends = {step.node.name for step in channels.steps if step.node.op in ("placeholder", "output")}
    touched = [pin.labels for pin in channels.pins if pin.node in ends]
    touched += [channels.births[name] for name in channels.births if name in ends]
    fixed = {
        int(space) for labels in touched for space in channels.spaces_along(labels.reshape(-1)).unique() if space >= 0
    }
    part = torch.full_like(channels.space_of, -1)
    for space in channels.spaces:
        if space.index not in fixed and space.width >= parts:
            members = (channels.space_of == space.index).nonzero().flatten()
            part[members] = torch.arange(members.numel()) * parts // members.numel()
    return part


def _blocks(channels: Channels, reading: Reading, part: Tensor, parts: int) -> Blocks | None:
    """The blocks of a layer; None where a channel of either side has no part, or its outputs do not lie in order."""
    if not all(bool(among(channels.channels_along(axis), part >= 0).all()) for axis in (reading.rows, reading.cols)):
        return None
    rows, columns = (part[channels.channels_along(axis)] for axis in (reading.rows, reading.cols))
    if bool((rows[1:] < rows[:-1]).any()):
        return None
    return Blocks(rows, columns, parts, tuple((index,) for index in range(parts)))
