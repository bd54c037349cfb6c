"""Scales where there is no norm to read a gamma from: one factor a channel, put in as 1 and folded away at the end.

Where channels meet no norm (the hidden units of a transformer's MLP, the convolutions of a plain VGG, the heads of an
attention) no gamma tells which of them are dead. A scale behind the activation does: training with the sparsity penalty
drives it to 0 where a channel is not needed. Behind the activation weights alone read the scaled values, so that the
scale is folded into them exactly, whatever the activation is.

Source: Neural Rejuvenation, Sec. 3.1.1: "an affine transform layer with learnable parameters is also valid".
"""

import copy
import operator
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from nrfx.analysis.channels import Channels
from nrfx.analysis.spaces import channels_of
from nrfx.nn import ChannelScale, Cross
from nrfx.plan.rescale import Tracking, tracked
from nrfx.rules import Effect, Family, Reading
from nrfx.tracing import TracedModule, as_traced

HOLDER = "scales"


def insert_scales(model_or_gm: nn.Module, example_inputs: Any = None) -> TracedModule:
    """A copy of the network with a scale of 1 for each channel that may change and meets no norm.

    The function is the same. A scale stands behind the activation and the pooling of the layer that brings its channels
    into being; the units of an attention (heads) have theirs before the layer that reads them. Only scales that
    `fold_scales` can fold away are put in.

    Args:
        model_or_gm: a module, or what `nrfx.trace` returned; it is left as it is.
        example_inputs: for a module that is not traced yet.

    Raises:
        TraceError: the module cannot be captured.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
    >>> gm = insert_scales(net, torch.zeros(1, 4))
    >>> [str(node.target) for node in gm.graph.nodes if node.op == "call_module"]
    ['0', '1', 'scales.0', '2']
    """
    twin = _copied(model_or_gm, example_inputs)
    channels = channels_of(twin)
    holders: dict[str, str] = {}
    for key, ends in _places(channels).items():
        if ends:
            owner = _owner(twin, ends[0][1])
            if owner not in holders:
                holders[owner] = _with_holder(twin, owner)
            _insert(twin, f"{holders[owner]}.{_registered(key)}", ends)
    if not holders:
        return twin
    twin.recompile()
    # whether a scale can be folded shows once it is in the graph: those that cannot are taken out again
    _without(twin, _not_foldable(twin))
    return twin


def fold_scales(gm: nn.Module) -> TracedModule:
    """A copy of the network without its scales: each is multiplied into the weights that read its channels.

    The function is the same, to rounding. Scales that joined others by training code of one's own and can no longer be
    folded stay where they are.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
    >>> gm = insert_scales(net, torch.zeros(1, 4))
    >>> with torch.no_grad():
    ...     _ = gm.get_parameter("scales.0.weight").fill_(2.0)
    >>> folded = fold_scales(gm)
    >>> bool((folded.get_parameter("2.weight") == 2 * net[2].weight).all()), len(list(folded.named_parameters()))
    (True, 4)
    """
    twin = _copied(gm, None)
    tracking = tracked(channels_of(twin))
    stay = _not_foldable(twin, tracking)
    table = torch.ones(tracking.count + 1).double()  # ONE is the last entry
    scales = {f"{path}.weight": path for path in _scales(twin) if path not in stay}
    for name, ids in tracking.ids.items():
        if name in scales:
            table[ids] = twin.get_parameter(name).detach().double().cpu()
    readings = {step.effect.reading.key: step.effect.reading for step in tracking.channels.steps if step.effect.reading}
    with torch.no_grad():
        for key, ids in tracking.columns.items():
            _multiply(twin, readings[key], table[ids])
        for key, ids in tracking.rows.items():
            weight = twin.get_parameter(str(readings[key].weight))
            weight.mul_(_along(table[ids], 0, weight))
    _without(twin, frozenset(scales.values()))
    return twin


def _copied(model_or_gm: nn.Module, example_inputs: Any) -> TracedModule:
    return copy.deepcopy(as_traced(model_or_gm, example_inputs))


def _places(channels: Channels) -> dict[str, list[tuple[str, fx.Node, int]]]:
    """Key -> (mode, the node behind which a scale goes, the axis of its channels), for free spaces without a gamma."""
    bare = {space.index for space in channels.spaces if space.free and not space.normed}
    units = {space.index for space in channels.spaces if max(space.births.values()) > 1}
    effects = {step.node: step.effect for step in channels.steps}
    places: dict[str, list[tuple[str, fx.Node, int]]] = {}
    for step in channels.steps:
        reading = step.effect.reading
        if reading is None or isinstance(reading.generation, Tensor):
            continue
        born, read = (set(channels.spaces_along(axis).unique().tolist()) for axis in (reading.rows, reading.cols))
        # units (heads) get a scale where they are read: an op that mixes positions stands between birth and reader
        if born <= bare - units and step.effect.family is Family.CONTRACTION:
            places.setdefault(reading.key, []).append((step.mode, _behind_activation(effects, step.node), reading.axis))
        if read <= bare & units:
            source = step.node.all_input_nodes[reading.operand]
            places.setdefault(f"{reading.key}.input", []).append((step.mode, source, reading.axis))
    return places


def _behind_activation(effects: Mapping[fx.Node, Effect], node: fx.Node) -> fx.Node:
    """The last of the ops behind a layer that act on each element or each channel alone, one behind the other."""
    while len(node.users) == 1:
        (user,) = node.users
        alone = effects[user].family in _EACH_ALONE and len(user.all_input_nodes) == 1
        if not alone or effects[user].pins:
            break
        node = user
    return node


_EACH_ALONE = (Family.POINTWISE, Family.IDENTITY, Family.POOL)


def _owner(twin: TracedModule, node: fx.Node) -> str:
    """The path of the module that gets the scale behind a node: in a model in parts it is the part, whose own code does
    not run. The model's runs, and may call all its children in turn.
    """
    return twin.facts.parts[node.meta["part"]].path if twin.facts.parts else ""


def _with_holder(twin: TracedModule, owner: str) -> str:
    """Registers a module for scales in the one at this path; returns its own path."""
    module = twin.get_submodule(owner)
    name = _free_name(module)
    module.add_module(name, nn.Module())
    return f"{owner}.{name}" if owner else name


def _insert(twin: TracedModule, path: str, ends: list[tuple[str, fx.Node, int]]) -> None:
    """One scale, called behind each of the nodes."""
    graphs, holder = twin.graphs, twin.get_submodule(path.rpartition(".")[0])
    for mode, node, axis in ends:
        val: Tensor = node.meta["val"]
        name = path.rpartition(".")[2]
        if not hasattr(holder, name):
            like = next(twin.parameters())
            scale = ChannelScale(val.shape[axis], axis - val.dim(), device=like.device, dtype=val.dtype)
            holder.add_module(name, scale.train(twin.training))
        with graphs[mode].inserting_after(node):
            call = graphs[mode].call_module(path, (node,))
        call.meta["val"] = val
        node.replace_all_uses_with(call, delete_user_cb=partial(operator.is_not, call))


def _not_foldable(twin: TracedModule, tracking: Tracking | None = None) -> frozenset[str]:
    """The scales whose values anything but a weight reads, or that lie before an op which no negative factor passes."""
    tracking = tracking or tracked(channels_of(twin))
    stuck = tracking.barred.keys() | tracking.positive
    foldable = {name for name, ids in tracking.ids.items() if not stuck & set(ids.tolist())}
    return frozenset(path for path in _scales(twin) if f"{path}.weight" not in foldable)


def _scales(traced: TracedModule) -> Iterator[str]:
    return (path for path, module in traced.named_modules() if isinstance(module, ChannelScale))


def _multiply(twin: TracedModule, reading: Reading, factors: Tensor) -> None:
    """The weights of a layer times one factor for each column, in place."""
    if bool((factors == 1).all()):
        return
    if reading.weight is not None:
        weight = twin.get_parameter(reading.weight)
        weight.mul_(_along(factors, 0 if reading.transposed else 1, weight))
        return
    module: Any = twin.get_submodule(reading.path)
    assert isinstance(module, Cross)
    if module.scheme == "attention":
        module.weight.mul_(_along(factors, 1, module.weight))
        return
    for index in range(len(module.out_generations)):
        if str(index) in module.weights:
            block = module.weights[str(index)]
            block.mul_(_along(factors[torch.tensor(module.columns(index))], 1, block))


def _along(factors: Tensor, dim: int, weight: Tensor) -> Tensor:
    """The factors as a tensor that broadcasts along `dim` of the weight."""
    shape = [1] * weight.dim()
    shape[dim] = -1
    return factors.to(weight).view(shape)


def _without(twin: TracedModule, paths: frozenset[str]) -> None:
    """Takes scales out of the graphs and the module tree, in place; and with the last one their holder."""
    for graph in {id(graph): graph for graph in twin.graphs.values()}.values():
        for node in list(graph.nodes):
            if node.op == "call_module" and str(node.target) in paths:
                node.replace_all_uses_with(node.all_input_nodes[0])
                graph.erase_node(node)
    for path in paths:
        twin.delete_submodule(path)
        holder = path.rpartition(".")[0]
        if holder and not list(twin.get_submodule(holder).children()):
            twin.delete_submodule(holder)
    twin.recompile()


def _free_name(module: nn.Module) -> str:
    """HOLDER, or with underscores behind it where the module has such an attribute."""
    names = (f"{HOLDER}{'_' * count}" for count in range(100))
    return next(name for name in names if not hasattr(module, name))


def _registered(key: str) -> str:
    """A module path as one name."""
    return key.replace(".", "_")
