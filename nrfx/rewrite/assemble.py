"""A copy of a network with new tensors, cross layers, widths and literals in the places of the old ones."""

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from nrfx.nn import Cross
from nrfx.plan.plan import Plan
from nrfx.rewrite.literals import write_literals
from nrfx.rewrite.module_widths import fit_widths
from nrfx.rewrite.new_tensors import NewTensors
from nrfx.tracing import TracedModule, propagate
from nrfx.tracing.graph.clone import on_meta
from nrfx.tracing.graph.guards import without_taken
from nrfx.tracing.graph.walk import named_modules, unchanged_too


def assemble(traced: TracedModule, plan: Plan, new: NewTensors, layers: Mapping[str, Cross]) -> TracedModule:
    """A copy of the network with the new tensors; `layers`: the cross layers, on the meta device, by their paths."""
    # deepcopy takes what the memo knows by its id for the copy: so every reference to an old tensor, ties included,
    # becomes one to the new tensor
    memo: dict[int, Any] = {}
    for name, tensor in new.tensors.items():
        if name in new.old:
            memo[id(new.old[name])] = _as(new.old[name], tensor)
    memo |= _left_behind(traced, layers, memo) if layers else {}
    memo |= _counters(new, memo)
    twin: TracedModule = copy.deepcopy(traced, memo)
    for path, layer in layers.items():
        _fill(layer, path, new)
        twin.set_submodule(path, layer.train(traced.get_submodule(path).training))
    unchanged_too(twin)
    for _, module in named_modules(twin):
        fit_widths(module)
    for path, width in plan.resized.norms.items():
        fit_widths(twin.get_submodule(path), width)
    write_literals(twin, plan.resized.literals)
    propagate(twin)
    nodes = [len(graph.nodes) for graph in twin.graphs.values()]
    without_taken(traced.graphs, twin.graphs)
    if nodes != [len(graph.nodes) for graph in twin.graphs.values()]:  # else the code is what it was
        twin.recompile()
    return twin


def _left_behind(traced: TracedModule, layers: Iterable[str], memo: Mapping[int, Any]) -> dict[int, Tensor]:
    """What stands for the weights of layers that become cross layers, by their ids: tensors without data. To copy
    them would take as much memory as the network, and the layers that hold them are replaced. Those with another
    name are copied.
    """
    named = list(traced.named_parameters(remove_duplicate=False))
    times = Counter(id(parameter) for _, parameter in named)
    owners = tuple(f"{path}." for path in layers)
    once = [each for name, each in named if name.startswith(owners) and times[id(each)] == 1]
    return {id(parameter): on_meta(parameter) for parameter in once if id(parameter) not in memo}


def _counters(new: NewTensors, memo: Mapping[int, Any]) -> dict[int, Tensor]:
    """Copies of plain buffers that no layout follows, such as the counter of a batch norm, by their ids. deepcopy takes
    twenty times as long for each, and copies their memory: one that is a view, or has views, is left to it.
    """
    kept = {id(tensor): tensor for tensor in new.old.values() if type(tensor) is Tensor and id(tensor) not in memo}
    plain = {key: tensor for key, tensor in kept.items() if not vars(tensor) and not tensor.requires_grad}
    memory = {key: tensor.untyped_storage() for key, tensor in plain.items()}
    times = Counter(storage.data_ptr() for storage in memory.values())
    return {
        key: tensor.clone()
        for key, tensor in plain.items()
        if times[memory[key].data_ptr()] == 1 and memory[key].nbytes() == tensor.nbytes and tensor.is_contiguous()
    }


def _fill(layer: Cross, path: str, new: NewTensors) -> None:
    """Puts the new tensors into a cross layer that is on the meta device."""
    for name, _ in list(layer.named_parameters()):
        full = f"{path}.{name}"
        old = new.old.get(new.parents[full] or "", None)
        trained = old.requires_grad if old is not None else True
        owner, _, attribute = name.rpartition(".")
        target = layer.get_submodule(owner)
        parameter = nn.Parameter(new.tensors[full], requires_grad=trained)
        if isinstance(target, nn.ParameterDict):
            target[attribute] = parameter
        else:
            setattr(target, attribute, parameter)


def _as(old: Tensor, new: Tensor) -> Tensor:
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
