"""The gammas of a network: how many there are, how many of them can die, and why the others cannot.

This is the one place that says so: reports, the notes of a rewrite, the Rejuvenator and the command line tell it on.
"""

from collections.abc import Iterator, Set
from dataclasses import dataclass

import torch

from nrfx.analysis.channels import Channels, Step
from nrfx.analysis.inventory import Inventory
from nrfx.choices import Residual
from nrfx.ids import joined
from nrfx.labels import OPAQUE
from nrfx.rules import Family, op_of
from nrfx.tracing import TracedModule

NAMED = 3
"""So many layers are named for a reason before the rest is counted."""


@dataclass(frozen=True)
class Kept:
    """Gammas that cannot die for one reason, and the norms that hold them, as "path (class)"."""

    reason: str
    norms: tuple[str, ...]
    gammas: int


@dataclass(frozen=True)
class Gammas:
    """The gammas of all norms.

    Attributes:
        total: how many there are.
        can_die: those on channels that may go.
        kept: the others by reason, most first.
    """

    total: int
    can_die: int
    kept: tuple[Kept, ...]

    @property
    def note(self) -> str:
        """Why no gamma can die, in a sentence that names what was found; "" where some can."""
        if self.can_die:
            return ""
        if not self.kept:
            return (
                "The network has no norm with a gamma, such as a batch norm, so that nothing tells which channels are "
                "dead. nrfx.insert_scales gives gammas to layers without a norm."
            )
        reasons = "; ".join(f"{_some(kept.norms)}: {kept.reason}" for kept in self.kept)
        return f"None of the network's {self.total:,} gammas can die, so that no channel can go. {reasons}."


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def gammas_of(
    traced: TracedModule, channels: Channels, residual: Residual = "live", in_training: bool = False
) -> Gammas:
    """The gammas of a network whose channels are known.

    Args:
        residual: as for `liveness_of`.
        in_training: whether they shall still die, which a frozen gamma does not.
    """
    frozen = {name for name, parameter in traced.named_parameters() if in_training and not parameter.requires_grad}
    return gammas_in(Inventory.of(traced), channels, residual, frozen)


def gammas_in(inventory: Inventory, channels: Channels, residual: Residual, frozen: Set[str] = frozenset()) -> Gammas:
    """The gammas of a network that registers this; those in `frozen` parameters cannot die."""
    kept: dict[str, tuple[dict[str, None], int]] = {}
    total = can_die = 0
    for norm, reason, count in _told(inventory, channels, residual, frozen):
        total += count
        if not reason:
            can_die += count
            continue
        norms, before = kept.get(reason, ({}, 0))
        kept[reason] = ({**norms, norm: None}, before + count)
    ranked = sorted(kept.items(), key=lambda entry: -entry[1][1])
    return Gammas(total, can_die, tuple(Kept(reason, tuple(norms), count) for reason, (norms, count) in ranked))


def _told(
    inventory: Inventory, channels: Channels, residual: Residual, frozen: Set[str]
) -> Iterator[tuple[str, str, int]]:
    """(norm, why its gammas cannot die, how many), the reason "" for those that can."""
    steps: dict[str, Step] = {}
    for step in channels.steps:
        steps.setdefault(step.path, step)
        if step.node.op == "call_module":
            steps.setdefault(str(step.node.target), step)
    told = set[str]()
    one_space = _one_space(channels)
    for module in inventory.modules:
        op = op_of(module.kind)
        if op is None or not op.norm or not module.first:
            continue
        path = module.path
        title = f"{path} ({module.kind.__name__})"
        name = channels.aliases.get(f"{path}.weight", f"{path}.weight")
        # a prune mask leaves its numbers in weight_orig
        count = sum(shape.numel() for key, shape in module.shapes.items() if key.startswith("weight"))
        if name not in channels.norms and count:
            yield title, _of_step(steps.get(path)), count
        elif name in channels.norms and name not in told:
            told.add(name)
            yield from (
                (title, *entry)
                for entry in _by_channel(channels, name, residual, name in frozen, one_space.get(name, -1))
            )
    for name in channels.norms.keys() - told:
        yield from (
            (name, *entry) for entry in _by_channel(channels, name, residual, name in frozen, one_space.get(name, -1))
        )


def _of_step(step: Step | None) -> str:
    """Why the gammas of a norm that is no channel's own cannot die."""
    if step is None:
        return "no graph calls it"
    if step.effect.family is Family.UNKNOWN:
        return step.effect.reason
    if not step.effect.pins:
        return "its gammas scale no channels"
    own = step.effect.pins[0].reason.removeprefix(f"{step.path} ")  # norms of one reason are told together
    return own if own == step.effect.pins[0].reason else f"it {own}"


def _one_space(channels: Channels) -> dict[str, int]:
    """Gamma parameter -> the space of all channels that it scales; without those that scale anything else too."""
    labels, norm_of = joined(list(channels.norms.values()))
    spaces = channels.spaces_along(labels)
    ends = torch.stack([torch.full((len(channels.norms),), start) for start in (len(channels.spaces), -1)])
    low, high = ends[0].scatter_reduce(0, norm_of, spaces, "amin"), ends[1].scatter_reduce(0, norm_of, spaces, "amax")
    found = zip(channels.norms, low.tolist(), high.tolist(), strict=True)
    return {name: first for name, first, last in found if first == last >= 0}


def _by_channel(
    channels: Channels, name: str, residual: Residual, frozen: bool, space: int
) -> Iterator[tuple[str, int]]:
    """(reason, count) of the gammas in one parameter, by the channels that they scale.

    space: that of all these channels; -1 where there are several, or where it scales something else.
    """
    layout = channels.norms[name]
    if frozen:
        yield "it is frozen (requires_grad is False)", layout.numel()
        return
    if space >= 0:  # nearly always
        yield _of_space(channels, space, residual), layout.numel()
        return
    spaces = channels.spaces_along(layout)
    for each in spaces[spaces >= 0].unique().tolist():
        yield _of_space(channels, each, residual), int((spaces == each).sum())
    for code in layout[layout < 0].unique().tolist():
        reason = f"it scales {channels.reasons[OPAQUE - code]}" if code <= OPAQUE else "it scales padded zeros"
        yield reason, int((layout == code).sum())


def _of_space(channels: Channels, index: int, residual: Residual) -> str:
    space = channels.spaces[index]
    if not space.free:
        return f"its channels are pinned by {space.pinned_by}: {space.pinned}"
    if space.stream and residual != "coupled":
        return f'its channels lie on a residual stream, which residual="{residual}" keeps'
    return ""
