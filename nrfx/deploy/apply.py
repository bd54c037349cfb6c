"""A rewritten network, put back into an instance of the user's own class: its code, with layers of new widths.

A rewrite changes tensors, widths of layers, and some layers into cross layers: all of that is state of modules, and the
user's forward runs on it. What it changes in the graph alone has no place there: scales that were inserted, and widths
that the forward's own code states as numbers. Such a result stays a traced module, and the error names the node.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from nrfx.errors import NrfxError, RewriteError
from nrfx.nn import ChannelScale, Cross
from nrfx.rewrite.drawn import drawn
from nrfx.rewrite.result import Rejuvenation
from nrfx.rewrite.verify import agreement
from nrfx.rules.registry import widths_of
from nrfx.tracing import ByMode, TracedModule
from nrfx.tracing.graph.clone import same, shell
from nrfx.tracing.graph.module import as_parameters
from nrfx.tracing.graph.walk import Contents


def apply(
    model: nn.Module,
    result: Rejuvenation | TracedModule,
    inputs: Any = None,
    kwargs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Makes `model`, in place, the network of `result`: same class, same code, new layers. Returns it.

    Parameters and buffers become those of `result.module`, shared with it, so that an optimizer that follows it trains
    the model; build any other optimizer anew. Attributes that repeat a width (`out_channels`) follow, and a layer that
    has become a cross layer takes the place of the old one. `nrfx.deploy.apply.changes` tells all of this beforehand.
    Before anything is changed, a copy with the new layers is compared with `result.module` in eval mode, on the inputs
    and on other batches and sizes that it takes.

    Args:
        model: the model that was traced, or another instance of its class.
        result: what a rewrite returned, or its module, such as `nrfx.load` gives it.
        inputs, kwargs: the arguments of a call, as for `nrfx.trace`; None draws tensors like those of the trace.

    Raises:
        RewriteError: the model's code cannot be the result, or it is another model. Nothing was changed.

    >>> import nrfx
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    >>> with torch.no_grad():
    ...     _ = net[1].weight[:4].zero_()
    >>> result = nrfx.compact(nrfx.trace(net, torch.zeros(1, 3, 4, 4)))
    >>> nrfx.apply(net, result)[3]
    Conv2d(4, 4, kernel_size=(1, 1), stride=(1, 1))
    """
    module = _module_of(result)
    _check(model, module)
    twin = shell(model, same)
    _put(twin, module)
    try:
        agreement(module, twin, *_call(module, inputs, kwargs))
    except NrfxError as error:
        raise RewriteError(
            f"The code of {type(model).__name__} on the new layers is not the rewritten network: {error} "
            f"{_stated(module)}{_STAYS}"
        ) from error
    if module._by_mode and "train" in module.facts.literals:  # only the code of eval mode has been compared
        raise RewriteError(f"{_stated(module)}{_STAYS}")
    _put(model, module)
    return model


_STAYS = "Nothing was changed: use the traced module (result.module) itself, or nrfx.export."


def changes(model: nn.Module, result: Rejuvenation | TracedModule) -> tuple[str, ...]:
    """A line for each layer that `apply` changes, with the attributes that change. Nothing is changed.

    Raises:
        RewriteError: as for `apply`, as far as it is seen without a run.

    >>> import nrfx
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    >>> with torch.no_grad():
    ...     _ = net[1].weight[:4].zero_()
    >>> changes(net, nrfx.compact(nrfx.trace(net, torch.zeros(1, 3, 4, 4))))[2]
    '3: weight [4, 8, 1, 1] -> [4, 4, 1, 1], in_channels 8 -> 4'
    """
    module = _module_of(result)
    _check(model, module)
    lines = []
    for path, old, new in _pairs(model, module):
        told = [f"{type(old).__name__} -> {new}"] if _is_exchanged(old, new) else list(_differences(old, new))
        if told:
            lines.append(f"{path or '(the model)'}: {', '.join(told)}")
    return tuple(lines)


def _module_of(result: Any) -> TracedModule:
    module = getattr(result, "module", result)
    if not isinstance(module, TracedModule):
        raise RewriteError(
            f"apply puts a rewritten network into a model; it got a {type(result).__name__}. Expected what "
            "nrfx.rejuvenate or nrfx.compact returned, or what nrfx.load gave."
        )
    return module


def _pairs(model: nn.Module, module: TracedModule) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """(path, module of the model, module of the network) for each path; nothing below a layer that is exchanged."""
    exchanged: list[str] = []
    new = dict(module.named_modules(remove_duplicate=False))
    for path, old in list(model.named_modules(remove_duplicate=False)):
        if any(path.startswith(f"{above}.") for above in exchanged):
            continue
        if _is_exchanged(old, new[path]):
            exchanged.append(path)
        yield path, old, new[path]


def _is_exchanged(old: nn.Module, new: nn.Module) -> bool:
    """Whether the layer is another one now; cross layers of a model change their generations with their widths."""
    return isinstance(new, Cross) and (not isinstance(old, Cross) or old.config() != new.config())


def _differences(old: nn.Module, new: nn.Module) -> Iterator[str]:
    for registry in ("_parameters", "_buffers"):
        for name, tensor in getattr(new, registry).items():
            before = getattr(old, registry)[name]
            if tensor is not None and before.shape != tensor.shape:
                yield f"{name} {list(before.shape)} -> {list(tensor.shape)}"
    for name in _widths(new):
        if getattr(old, name) != getattr(new, name):
            yield f"{name} {getattr(old, name)} -> {getattr(new, name)}"


def _widths(module: nn.Module) -> list[str]:
    """The attributes that repeat a width, also of a norm without parameters."""
    if nn.utils.parametrize.is_parametrized(module):
        return []
    return [name for name in {**widths_of(module), **widths_of(module, 1)} if hasattr(module, name)]


def _put(model: nn.Module, module: TracedModule) -> None:
    """Puts tensors, widths and exchanged layers of the network into the model, in place."""
    for path, old, new in list(_pairs(model, module)):
        if _is_exchanged(old, new):
            owner, _, name = path.rpartition(".")
            layer = copy.copy(new)  # with a mode of its own, and the same parameters
            model.get_submodule(owner)._modules[name] = layer.train(old.training)
            continue
        for name, parameter in new._parameters.items():
            old._parameters[name] = parameter
        for name, buffer in new._buffers.items():
            old._buffers[name] = buffer
        for name in _widths(new):
            setattr(old, name, getattr(new, name))


def _check(model: Any, module: TracedModule) -> None:
    """Raises RewriteError unless every layer and tensor has its place in the model."""
    if not isinstance(model, nn.Module) or isinstance(model, TracedModule):
        raise RewriteError(
            f"apply changes an instance of the model's own class; it got a {type(model).__name__}. "
            "What nrfx.trace returned has a graph, which a rewrite returns anew: use result.module."
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    for graph in dict.fromkeys(module.graphs.values()):
        for node in graph.nodes:
            if node.op == "call_module" and str(node.target) not in modules:
                _check_called(model, module, node)
    new = dict(module.named_modules(remove_duplicate=False))
    for path, old in modules.items():
        above = [path.rpartition(".")[0]]
        if path not in new and not any(isinstance(new.get(each), Cross) for each in above):
            raise _other(model, f"it has a module {path!r}, and the rewritten network has none")
        if path in new and not isinstance(new[path], Cross):
            _check_tensors(model, path, old, new[path])


def _check_called(model: nn.Module, module: TracedModule, node: fx.Node) -> None:
    """Raises RewriteError for a call of a layer that the model has not, but for constants by mode."""
    layer = module.get_submodule(str(node.target))
    if isinstance(layer, ByMode):
        return
    if not isinstance(layer, ChannelScale):
        raise _other(model, f"the rewritten network has a layer {node.target}, and the model none")
    raise RewriteError(
        f"Node {node.name} calls {node.target} ({type(layer).__name__}), and the code of {type(model).__name__} calls "
        f"no such layer. Fold scales into the weights first: nrfx.fold_scales. {_STAYS}"
    )


def _check_tensors(model: nn.Module, path: str, old: nn.Module, new: nn.Module) -> None:
    for registry in ("_parameters", "_buffers"):
        names = {name for name, value in getattr(old, registry).items() if isinstance(value, Tensor)}
        others = {name for name, value in getattr(new, registry).items() if isinstance(value, Tensor)}
        if odd := sorted(names ^ others):
            where = "rewritten network" if odd[0] in others else "model"
            raise _other(model, f"only the {where} has {f'{path}.' if path else ''}{odd[0]}")


def _other(model: nn.Module, found: str) -> RewriteError:
    return RewriteError(
        f"The result is not of this {type(model).__name__}: {found}. Pass the model that was traced, without what was "
        f"put around it since (DataParallel, torch.compile). {_STAYS}"
    )


def _call(module: TracedModule, inputs: Any, kwargs: Mapping[str, Any] | None) -> tuple[Any, Any]:
    if inputs is not None:
        return inputs, kwargs
    device = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    return module.facts.call(drawn(as_parameters(Contents.of(module), module.inputs), device))


def _stated(module: TracedModule) -> str:
    """The nodes whose widths the model's code states as numbers."""
    nodes = {node.name: node for graph in module.graphs.values() for node in graph.nodes}
    told = [
        f"node {name}{_line(nodes[name])} now has {', '.join(str(value) for value in places.values())}"
        for of_nodes in module.facts.literals.values()
        for name, places in of_nodes.items()
        if name in nodes
    ]
    return f"Its code states widths as numbers: {'; '.join(dict.fromkeys(told))}. " if told else ""


def _line(node: fx.Node) -> str:
    """The file and line of the model's code, where the trace has kept it."""
    places = [line.strip() for line in str(node.stack_trace or "").splitlines() if line.strip().startswith("File ")]
    return f" ({places[-1]})" if places else ""
