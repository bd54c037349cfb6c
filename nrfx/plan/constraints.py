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
class Limits:
    """What attempts to resize have taught: births (with the reason) that may not grow, or not change at all."""

    narrow: dict[str, str] = field(default_factory=dict)
    fixed: dict[str, str] = field(default_factory=dict)

    def add(self, found: Channels, kept: Tensor, width: Tensor, mismatch: Mismatch) -> None:
        """Limits the spaces that a mismatch concerns: those that grew may only shrink; where none grew all stay.

        kept: bool [channels], width: int64 [spaces], as they were given to `resize`.

        Raises:
            RewriteError: all of them are fixed already.
        """
        before = torch.bincount(found.space_of[kept], minlength=len(found.spaces))
        grew = {key for space in (width > before).nonzero() for key in found.spaces[int(space)].births}
        reason = f"{mismatch.node}: {mismatch.reason}"
        concerned, upstream = _concerned(found, mismatch), _upstream(found, mismatch.node)
        for births in (concerned & grew, upstream & grew):
            if births:
                self.narrow.update(dict.fromkeys(births, reason))
                return
        births = concerned - self.fixed.keys() or upstream - self.fixed.keys()
        if not births:
            raise RewriteError(f"Node {mismatch} and no space is left to fix. The network is unchanged.")
        self.fixed.update(dict.fromkeys(births, reason))


def _concerned(found: Channels, mismatch: Mismatch) -> set[str]:
    """The births of every space that the mismatch names."""
    count = found.channel_of.numel()
    labels = torch.cat([torch.zeros(0, dtype=torch.int64), *(labels.reshape(-1) for labels in mismatch.labels)])
    known = labels[(labels >= 0) & (labels < count)].unique()
    spaces = {int(space) for space in found.space_of[found.channel_of[known]].unique()}
    return {key for space in spaces for key in found.spaces[space].births}


def _upstream(found: Channels, name: str) -> set[str]:
    """The births of every space that reaches a node without being summed over: they decide what stands where."""
    steps = {(step.mode, step.node): step for step in found.steps}
    queue = [key for key in steps if key[1].name == name]
    seen, births = set(queue), set[str]()
    while queue:
        mode, node = queue.pop()
        for source in node.all_input_nodes:
            effect = steps[mode, source].effect
            layouts = [effect.reading.rows] if effect.reading is not None else []
            if source.op == "get_attr":
                name = found.aliases.get(str(source.target), "")
                layouts += [layout for layout in found.layouts.get(name, ()) if layout is not None]
            for spaces in map(found.spaces_along, layouts):
                births |= {key for space in spaces[spaces >= 0].unique().tolist() for key in found.spaces[space].births}
            if effect.family is not Family.CONTRACTION and (mode, source) not in seen:
                seen.add((mode, source))
                queue.append((mode, source))
    return births
