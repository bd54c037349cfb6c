"""A traced network as a plain graph module: torch's own layers and operations, and nothing of nrfx.

What nrfx adds to a graph goes: the checks of what the trace took for granted, constants that depend on the mode (those
of the present mode stay), cross layers and channel scales (the operations that they stand for stay). torch.jit.script,
FX quantization and whoever reads graphs then meets what is known there.

Not handled, and refused by name: a model that was traced in parts, boxes, regions of autocast, results of a class of
the model's own, and a layer called like an attribute of graph modules.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from nrfx.errors import ExportError
from nrfx.nests import Maker
from nrfx.nn import ChannelScale, Cross
from nrfx.tracing import ByMode, PartialModule, TracedModule, as_traced
from nrfx.tracing.graph.guards import is_guard, reads
from nrfx.tracing.graph.regions import begin, casts, is_border
from nrfx.tracing.graph.registered import HOST, own_names, registered
from nrfx.tracing.graph.scripted import Scripted


def plain(gm: nn.Module, example_inputs: Any = None) -> fx.GraphModule:
    """The network in its present mode, as a torch.fx.GraphModule without anything of nrfx in it.

    It shares parameters, buffers and torch's own layers with `gm`, takes the tensors of `gm.inputs` one by one, and
    gives what `gm` gives. The checks of what the trace took for granted are gone: on sizes for which the model would
    take another way, it goes the way of the trace.

    Args:
        gm: what `nrfx.trace`, a rewrite or `nrfx.load` gave; or a module, with example_inputs.

    Raises:
        ExportError: something in the graph has no plain form; names it.

    >>> import nrfx, torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    >>> x = torch.randn(2, 3, 4, 4)
    >>> small = nrfx.compact(nrfx.trace(net, x)).module
    >>> bool((nrfx.plain(small)(x) == small(x)).all())
    True
    """
    traced = as_traced(gm, example_inputs)
    if isinstance(traced, PartialModule):
        raise ExportError(
            f"{type(traced).__name__} was traced in parts, and its model's own code runs around them: there is no one "
            "graph of it. Take a part of the model, such as its backbone."
        )
    for node in traced.graph.nodes:
        _check(traced, node)
    graph = fx.Graph()
    known: dict[fx.Node, Any] = {}
    for node in traced.graph.nodes:
        _write(traced, node, graph, known)
    _erase_unread(traced.graph, graph, known)
    return _module(traced, graph)


def _check(traced: TracedModule, node: fx.Node) -> None:
    """Raises ExportError for a node that has no plain form."""
    if is_guard(node):
        return
    if "opaque" in node.meta:
        code = getattr(node.target, "__qualname__", node.target)
        raise ExportError(f"{node.name} ({code}) is a box, which runs code that no graph holds. {_PART}")
    if isinstance(node.target, Maker):
        kind = node.target.kind.__name__
        raise ExportError(f"{node.name} makes a {kind}, a class that only the model's package knows. {_PART}")
    if node.target is begin and casts(node, False):
        raise ExportError(
            f"{node.name} begins a region of autocast, which a plain graph does not have: take it out of the forward, "
            "and run the plain module under torch.autocast instead."
        )
    if node.target is begin and traced.training:
        raise ExportError(
            f"{node.name} begins a region ({node.args[0]}) that matters in training, and a plain graph has none: call "
            "eval() first."
        )
    first = str(node.target).partition(".")[0]
    if node.op in ("call_module", "get_attr") and first in own_names() - {HOST}:  # only boxes read the host
        raise ExportError(f"{node.target}: a graph module has a {first!r} of its own. Rename that layer of the model.")


_PART = "A plain graph cannot have it: take the part of the model in front of it."


def _write(traced: TracedModule, node: fx.Node, graph: fx.Graph, known: dict[fx.Node, Any]) -> None:
    """Adds the plain form of a node to the graph; `known` has what stands for each node before it."""
    if is_guard(node) or is_border(node):
        return
    given: Any = fx.map_arg((node.args, node.kwargs), known.__getitem__)
    args, kwargs = given
    module = registered(traced, str(node.target)) if node.op == "call_module" else None
    if isinstance(module, ByMode):
        known[node] = module.forward(*args, **kwargs)
    elif isinstance(module, Cross):
        known[node] = _operations(module, str(node.target), graph, *args, **kwargs)
    elif isinstance(module, ChannelScale):
        known[node] = _scaled(module, node, graph, *args, **kwargs)
    else:
        kind = None if traced.facts.form is not None and node.op in ("placeholder", "output") else node.type
        known[node] = graph.create_node(node.op, node.target, args, kwargs, node.name, kind)
        known[node].meta = {key: node.meta[key] for key in ("val", "stack_trace") if key in node.meta}


def _operations(layer: Cross, path: str, graph: fx.Graph, x: fx.Node) -> fx.Node:
    """The operations of a cross layer, as a symbolic trace of the layer alone finds them."""
    inner = fx.Tracer().trace(layer)
    known: dict[fx.Node, Any] = {}
    for node in inner.nodes:
        if node.op == "output":
            break
        if node.op == "placeholder":
            known[node] = x
            continue
        known[node] = graph.node_copy(node, known.__getitem__)
        if node.op == "get_attr":
            known[node].target = f"{path}.{node.target}"
    last = fx.map_arg(node.args[0], known.__getitem__)
    assert isinstance(last, fx.Node)
    return last


def _scaled(layer: ChannelScale, node: fx.Node, graph: fx.Graph, x: fx.Node) -> fx.Node:
    """x times the factors of a channel scale; the rank of x is that of the trace."""
    shape = [1] * node.meta["val"].dim()
    shape[layer.dim] = -1
    weight = graph.get_attr(f"{node.target}.weight")
    return graph.call_function(torch.mul, (x, graph.call_method("view", (weight, *shape))))


def _erase_unread(traced: fx.Graph, graph: fx.Graph, known: Mapping[fx.Node, Any]) -> None:
    """Erases what was computed for the checks alone: sizes and other values that are no tensors."""
    asked = {source for node in traced.nodes if is_guard(node) for source in reads(node.args[0])}
    for node in reversed(traced.nodes):
        twin = known.get(node)
        computes = node.op in ("call_function", "call_method") and not isinstance(node.meta.get("val"), Tensor)
        if node in asked and computes and isinstance(twin, fx.Node) and not twin.users and not twin.is_impure():
            graph.erase_node(twin)


def _module(traced: TracedModule, graph: fx.Graph) -> fx.GraphModule:
    """The graph with what it reads of the traced module, which is shared."""
    root = nn.Module()
    contents = vars(traced._contents())
    root.__dict__.update({key: contents[key] for key in ("_modules", "_parameters", "_buffers", "training")})
    root.__dict__.update({key: value for key, value in contents.items() if isinstance(value, Tensor)})
    module = fx.GraphModule(root, graph, type(traced).__name__)
    for node in graph.nodes:
        if node.op == "call_module" and isinstance(scripted := module.get_submodule(str(node.target)), Scripted):
            module.set_submodule(str(node.target), scripted.bound())
    for part in module.modules():
        if type(part) is nn.Module:  # fx makes the containers anew, in train mode
            part.training = traced.training
    return module
