"""What the graph tells of each module that owns parameters: the channels that go in and come out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from nrfx.analysis.channels import Channels, Step
from nrfx.analysis.inventory import Inventory, Registered
from nrfx.analysis.not_understood import fed_in, read_by
from nrfx.labels import layout, varying
from nrfx.rules import Family, Norm, tensors

Width = Tensor | int | None
"""The layout of channels; their number, where they have none; None where they are not understood."""


@dataclass(frozen=True)
class Reached:
    """A module whose parameters a step reads.

    Attributes:
        out, in_: the channels of its output and input.
        norm: the normalisation that it is.
        reason: why it is not understood.
    """

    out: Width
    in_: Width
    norm: Norm | None = None
    reason: str | None = None


def reached(inventory: Inventory, channels: Channels) -> dict[str, Reached]:
    """Path -> what is told of a module, in the order of the graph.

    The first step tells it whose weights follow channels, or that is not understood; else the first through which
    channels pass: a norm over all of them, an attention, an activation with a slope.
    """
    owners = {name.rpartition(".")[0].removesuffix(".weights") for name in inventory.parameters}
    modules = {module.path: module for module in inventory.modules}
    hidden = _hidden(inventory, channels)
    found, own = dict[str, Reached](), set[str]()
    for step in channels.steps:
        told = step.effect.sites or step.effect.family is Family.UNKNOWN
        if told and step.node.op != "get_attr":
            if step.path in owners and step.path not in own:
                own.add(step.path)
                found[step.path] = _by_weights(step)
            continue
        for path, passing in _by_passing(step, modules, inventory, channels.aliases):
            if path in owners and path not in hidden and passing.out is not None:
                found.setdefault(path, passing)
    return found


def _hidden(inventory: Inventory, channels: Channels) -> set[str]:
    """The modules whose parameters are read by what is not understood, perhaps by way of ops that are."""
    unclear = [step.node for step in channels.steps if step.effect.family is Family.UNKNOWN]
    fed = fed_in(channels) if unclear else {}
    names = {channels.aliases.get(name, name) for node in unclear for name in read_by(inventory, node, fed)}
    return {name.rpartition(".")[0] for name in names}


def _by_weights(step: Step) -> Reached:
    """What is told by a step whose weights follow channels, or that is not understood."""
    effect = step.effect
    reason = effect.reason if effect.family is Family.UNKNOWN else None
    if effect.reading is not None:
        return Reached(effect.reading.rows, effect.reading.cols, effect.norm, reason)
    along = effect.sites[0].layout if effect.sites else None
    return Reached(along, along, effect.norm, reason)


def _by_passing(
    step: Step, modules: Mapping[str, Registered], inventory: Inventory, aliases: Mapping[str, str]
) -> Iterator[tuple[str, Reached]]:
    """What is told by a parameter that brings channels into being itself, and by a step that hands channels on."""
    node = step.node
    if node.op == "call_module":
        path = str(node.target)
        if issubclass(modules[path].kind, nn.MultiheadAttention):
            width = next((shape[-1] for shape in modules[path].shapes.values() if len(shape) == 2), None)
            yield from ((each, Reached(width, width)) for each in (path, f"{path}.out_proj"))
        elif modules[path].shapes:
            yield path, _passing(step)
        return
    given = [node] if node.op == "get_attr" else [each for each in node.all_input_nodes if each.op == "get_attr"]
    for each in given:
        name = aliases.get(str(each.target), str(each.target))
        if name in inventory.parameters and (each is not node or step.effect.sites):
            yield name.rpartition(".")[0], _by_weights(step) if each is node else _passing(step)


def _passing(step: Step) -> Reached:
    """The channels that a step hands on, where they lie along one dim of what it gives."""
    out = next(iter(tensors(step.effect.out)), None)
    dims = set() if out is None else varying(out)
    along = layout(out, dims.pop()) if out is not None and len(dims) == 1 else None
    along = along if along is not None and bool((along >= 0).any()) else None
    return Reached(along, along)
