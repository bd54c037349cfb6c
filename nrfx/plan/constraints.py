"""Births that must not grow, or not change at all, because an op of the graph did not take the new widths.

Which widths an op takes shows when the graph is interpreted on the labels of the new widths (resize.py). Where these do
not meet as the old ones did, the spaces concerned are constrained, and the widths are computed again.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels, Mismatch
from nrfx.errors import RewriteError
from nrfx.rules import Family


@dataclass
class WidthConstraints:
    """Birth -> reason, for the births that must not grow and for those that must not change.

    Each attempt to resize that fails adds a birth to one of the two: what is in `no_growth` does not grow again, and
    `add` raises where every birth concerned is in `no_change`. So there are at most twice as many attempts as births.
    """

    no_growth: dict[str, str] = field(default_factory=dict)
    no_change: dict[str, str] = field(default_factory=dict)

    def add(self, channels: Channels, kept: Tensor, width: Tensor, mismatch: Mismatch) -> None:
        """Constrains the spaces that a mismatch concerns: those that grew must not grow; if none grew, none may change.

        Args:
            kept, width: as they were given to `resize`.

        Raises:
            RewriteError: none of these spaces may change already.
        """
        before = torch.bincount(channels.space_of[kept], minlength=len(channels.spaces))
        grew = {key for space in (width > before).nonzero() for key in channels.spaces[int(space)].births}
        reason = f"{mismatch.node}: {mismatch.reason}"
        # the labels of a mismatch may be survivors alone; then the cause lies in what stands before the node
        concerned, upstream = _concerned(channels, mismatch), _upstream(channels, mismatch.node)
        for births in (concerned & grew, upstream & grew):
            if births:
                self.no_growth.update(dict.fromkeys(births, reason))
                return
        births = concerned - self.no_change.keys() or upstream - self.no_change.keys()
        if not births:
            raise RewriteError(
                f"Node {mismatch}. All spaces concerned keep their width already. The network is unchanged."
            )
        self.no_change.update(dict.fromkeys(births, reason))


def _concerned(channels: Channels, mismatch: Mismatch) -> set[str]:
    """The births of every space that the mismatch names."""
    count = channels.channel_of.numel()
    labels = torch.cat([torch.zeros(0, dtype=torch.int64), *(labels.reshape(-1) for labels in mismatch.labels)])
    known = labels[(labels >= 0) & (labels < count)].unique()
    spaces = {int(space) for space in channels.space_of[channels.channel_of[known]].unique()}
    return {key for space in spaces for key in channels.spaces[space].births}


def _upstream(channels: Channels, place: str) -> set[str]:
    """The births of all spaces from which a way leads to the node that no contraction sums over.

    Their widths decide at which positions the channels stand that the node reads.
    """
    steps = {(step.mode, step.node): step for step in channels.steps}
    queue = [key for key in steps if key[1].name == place]
    seen, births = set(queue), set[str]()
    while queue:
        mode, node = queue.pop()
        for source in node.all_input_nodes:
            effect = steps[mode, source].effect
            layouts = [effect.reading.rows] if effect.reading is not None else []
            if source.op == "get_attr":
                tensor = channels.aliases.get(str(source.target), "")
                layouts += [layout for layout in channels.layouts.get(tensor, ()) if layout is not None]
            for spaces in map(channels.spaces_along, layouts):
                births |= {
                    key for space in spaces[spaces >= 0].unique().tolist() for key in channels.spaces[space].births
                }
            if effect.family is not Family.CONTRACTION and (mode, source) not in seen:
                seen.add((mode, source))
                queue.append((mode, source))
    return births
