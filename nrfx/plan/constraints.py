"""What may not grow, or not change at all, because an op of the graph did not take the new widths.

Which widths an op takes shows when the labels of the new widths are sent through the graph (plan/resize.py). Where
they do not meet as the old ones did, the spaces concerned are limited, and the widths are looked for again.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels, Mismatch
from nrfx.errors import RewriteError
from nrfx.rules import Family


@dataclass
class WidthConstraints:
    """What attempts to resize have taught: births (with the reason) that may not grow, or not change at all."""

    no_growth: dict[str, str] = field(default_factory=dict)
    no_change: dict[str, str] = field(default_factory=dict)

    def add(self, channels: Channels, kept: Tensor, width: Tensor, mismatch: Mismatch) -> None:
        """Limits the spaces that a mismatch concerns: those that grew may only shrink; where none grew all stay.

        kept: bool [channels], width: int64 [spaces], as they were given to `resize`.

        Raises:
            RewriteError: all of them are fixed already.
        """
        before = torch.bincount(channels.space_of[kept], minlength=len(channels.spaces))
        grew = {key for space in (width > before).nonzero() for key in channels.spaces[int(space)].births}
        reason = f"{mismatch.node}: {mismatch.reason}"
        concerned, upstream = _concerned(channels, mismatch), _upstream(channels, mismatch.node)
        for births in (concerned & grew, upstream & grew):
            if births:
                self.no_growth.update(dict.fromkeys(births, reason))
                return
        births = concerned - self.no_change.keys() or upstream - self.no_change.keys()
        if not births:
            raise RewriteError(f"Node {mismatch} and no space is left to fix. The network is unchanged.")
        self.no_change.update(dict.fromkeys(births, reason))


def _concerned(channels: Channels, mismatch: Mismatch) -> set[str]:
    """The births of every space that the mismatch names."""
    count = channels.channel_of.numel()
    labels = torch.cat([torch.zeros(0, dtype=torch.int64), *(labels.reshape(-1) for labels in mismatch.labels)])
    known = labels[(labels >= 0) & (labels < count)].unique()
    spaces = {int(space) for space in channels.space_of[channels.channel_of[known]].unique()}
    return {key for space in spaces for key in channels.spaces[space].births}


def _upstream(channels: Channels, name: str) -> set[str]:
    """The births of every space that reaches a node without being summed over: they decide what stands where."""
    steps = {(step.mode, step.node): step for step in channels.steps}
    queue = [key for key in steps if key[1].name == name]
    seen, births = set(queue), set[str]()
    while queue:
        mode, node = queue.pop()
        for source in node.all_input_nodes:
            effect = steps[mode, source].effect
            layouts = [effect.reading.rows] if effect.reading is not None else []
            if source.op == "get_attr":
                name = channels.aliases.get(str(source.target), "")
                layouts += [layout for layout in channels.layouts.get(name, ()) if layout is not None]
            for spaces in map(channels.spaces_along, layouts):
                births |= {
                    key for space in spaces[spaces >= 0].unique().tolist() for key in channels.spaces[space].births
                }
            if effect.family is not Family.CONTRACTION and (mode, source) not in seen:
                seen.add((mode, source))
                queue.append((mode, source))
    return births
