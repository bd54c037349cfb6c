"""The network of a file: whether a module can be saved, and the saved one built from a fresh instance of its class.

What does not fit is refused by name: other parameters, layers, dtypes or ties, a width that the model's graph fixes.
"""

import reprlib
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from nrfx.analysis.spaces import channels_of
from nrfx.checkpoint.call import arguments
from nrfx.checkpoint.encoding import PARTS, is_place
from nrfx.checkpoint.file import Stored
from nrfx.checkpoint.plan import Layer, Plan
from nrfx.checkpoint.tensors import CHANNELS_LAST, aliases_of, listed, registered, relative_of
from nrfx.errors import CheckpointError, NrfxError, TraceError
from nrfx.nn import Cross
from nrfx.plan.blocks import form_of
from nrfx.rewrite.literals import put_literals
from nrfx.rewrite.module_widths import fit_widths
from nrfx.rewrite.sort_generations import is_reordered
from nrfx.tracing import TracedModule, as_traced, propagate, trace
from nrfx.tracing.graph.clone import same, shell
from nrfx.tracing.graph.guards import without_taken
from nrfx.tracing.graph.staleness import check_layers
from nrfx.tracing.graph.stated import KEY, AsBuilt
from nrfx.tracing.recording.draws import random_state_kept


def savable(module: nn.Module) -> TracedModule:
    """The traced module, if a file can hold it whole; a CheckpointError says what stands against it."""
    if not isinstance(module, fx.GraphModule):
        raise CheckpointError(
            f"save got a {type(module).__name__}, which is not a traced module: "
            "give it what nrfx.trace returned, result.module, or rejuvenator.module."
        )
    try:
        traced = as_traced(module)
    except TraceError as error:
        raise CheckpointError(f"The GraphModule cannot be saved: {error} Trace its model with nrfx.trace.") from error
    if is_reordered(traced):
        raise CheckpointError(
            "sort_generations has re-ordered the concatenations, which the model that the file is loaded into "
            "does not have so: save the network before it, and call it again after load."
        )
    kept = registered(traced)
    if extra := [name for name in traced.state_dict() if name not in kept and not name.endswith(KEY)]:
        raise CheckpointError(f"The file format holds parameters and buffers only; found {listed(extra)}.")
    if odd := [name for name in kept if is_place(name)]:
        raise CheckpointError(
            f"Names of parameters and buffers must not begin with {', '.join(f'{part}/' for part in PARTS)}, where a "
            f"file keeps what is not the network; found {listed(odd)}."
        )
    return traced


def restored(stored: Stored, model: nn.Module) -> TracedModule:
    """The network of the file, built on the graph of a fresh model, which is left as it is."""
    if not isinstance(model, nn.Module):
        raise CheckpointError(f"load puts the file into an instance of the model; it got a {type(model).__name__}.")
    fresh = _traced_as(stored, model)
    twin = shell(fresh, same)
    _put_layers(stored, twin)
    _check_names(stored, twin)
    _check_shapes(stored, fresh, twin)
    _put_tensors(stored, twin, registered(fresh))
    _put_modes(stored, twin)
    for path, module in twin.named_modules():
        fit_widths(module)
        if path in stored.plan.norms:
            fit_widths(module, stored.plan.norms[path])
    try:
        put_literals(twin, stored.plan.literals)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise stored.misfit(
            "the sizes that its rewritten graph states have no place in the model's graph "
            f"({type(error).__name__}: {error}). Pass an instance of the architecture that was saved."
        ) from error
    gamma0 = dict(stored.plan.gamma0)
    twin.facts = replace(twin.facts, inputs=stored.plan.specs, gamma0=gamma0, fresh=AsBuilt.of(fresh))
    try:
        propagate(twin)
        check_layers(twin)
    except TraceError as error:
        raise stored.misfit(f"the model's graph cannot take its widths. {error}") from error
    without_taken(fresh.graphs, twin.graphs)
    twin.recompile()
    if (name := stored.plan.unlike(built := Plan.of(twin))) is not None:
        raise stored.misfit(
            f"plan.{name} is {reprlib.repr(getattr(stored.plan, name))}, and the network that was built has "
            f"{reprlib.repr(getattr(built, name))}."
        )
    return twin


def _traced_as(stored: Stored, model: nn.Module) -> TracedModule:
    """The fresh model, traced on inputs of the stored shapes and in the stored dtypes."""
    if stored.plan.parts and not isinstance(model, TracedModule):
        raise stored.misfit(
            f"it holds a network in parts ({listed(stored.plan.parts)}), which only a run of the model can find. "
            f"Trace a fresh {type(model).__name__} with nrfx.trace(..., partial=True), and pass what comes out."
        )
    given = registered(model)
    dtypes = {id(tensor): _dtype_for(stored, name, tensor) for name, tensor in given.items()}

    def cast(tensor: Tensor) -> Tensor:
        dtype = dtypes.get(id(tensor), tensor.dtype)
        if dtype == tensor.dtype:
            return tensor
        bare = torch.empty_like(tensor.detach(), dtype=dtype)
        return nn.Parameter(bare, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else bare

    fits = all(dtypes[id(tensor)] == tensor.dtype for tensor in given.values())
    cast_model = model if fits else shell(model, cast)
    if isinstance(model, TracedModule):
        return as_traced(cast_model)
    examples = tuple(torch.empty(shape, dtype=dtype, device="meta") for shape, dtype in stored.plan.specs)
    try:
        args, kwargs = arguments(stored.plan.call, examples)
        if stored.plan.boxes:
            return _with_boxes(stored, cast_model)
        return as_traced(cast_model, args, kwargs, stored.plan.leaves)
    except CheckpointError as error:
        raise stored.misfit(str(error)) from error
    except TraceError as error:
        raise stored.misfit(f"{type(model).__name__} cannot be traced with its inputs. {error}") from error


def _with_boxes(stored: Stored, model: nn.Module) -> TracedModule:
    """The model traced around what cannot be traced. It is run for that, on inputs of its own."""
    device = next((parameter.device for parameter in model.parameters()), None)
    examples = tuple(
        torch.rand(shape, device=device).to(dtype)
        if dtype.is_floating_point
        else torch.zeros(shape, dtype=dtype, device=device)
        for shape, dtype in stored.plan.specs
    )
    with random_state_kept():
        args, kwargs = arguments(stored.plan.call, examples)
        traced = trace(model, args, kwargs, partial=True, leaves=stored.plan.leaves)
    if set(traced.facts.boxes) != set(stored.plan.boxes):
        now = listed(traced.facts.boxes) or "nothing"
        raise stored.misfit(
            f"it was traced around {listed(stored.plan.boxes)}, and now {now} cannot be traced. "
            "Trace a fresh instance with partial=True on example inputs, and pass what comes out."
        )
    return traced


def _dtype_for(stored: Stored, name: str, tensor: Tensor) -> torch.dtype:
    stored_one = relative_of(stored.plan.aliases.get(name, name), stored.tensors)
    if stored_one is None or stored_one.is_floating_point() != tensor.is_floating_point():
        return tensor.dtype
    return stored_one.dtype


def _put_layers(stored: Stored, twin: TracedModule) -> None:
    """Puts the cross layers of the plan, without weights, where the fresh model has the layers they were made of."""
    places = dict(twin.named_modules(remove_duplicate=False))
    planned = {path: layer for layer in stored.plan.layers for path in layer.paths}
    for path, module in places.items():
        if isinstance(module, Cross) and path not in planned:
            raise stored.misfit(
                f"{path} is a cross layer in the model and a plain one in the file. Pass a fresh instance of the model."
            )
    for entry in stored.plan.layers:
        _check_size(stored, entry)
        try:
            layer = Cross.from_config(entry.config, device="meta")
        except (NrfxError, TypeError, ValueError, RuntimeError) as error:
            raise stored.misfit(f"its layer {', '.join(entry.paths)} cannot be made. {error}") from error
        for path in entry.paths:
            if not _is_form_of(layer, places.get(path)):
                actual, expected = _described(layer), _described(places.get(path))
                raise stored.misfit(f"{path} is {actual} in the file and {expected} in the model.")
            twin.set_submodule(path, layer)


def _check_size(stored: Stored, layer: Layer) -> None:
    """Refuses a layer of more generations or channels than the file holds numbers, before it takes time and memory."""
    most = sum(stored.tensors[name].numel() for name in stored.tensors if not is_place(name))
    for side in ("in_generations", "out_generations"):
        generations = layer.config[side]
        if max(len(generations), sum(map(abs, generations))) > most:
            raise stored.misfit(
                f"its layer {', '.join(layer.paths)} has {len(generations)} {side} of {sum(generations)} channels, and "
                f"all its tensors together hold {most} numbers."
            )


def _described(module: nn.Module | None) -> str:
    return "missing" if module is None else f"{type(module).__name__}({module.extra_repr()})"


def _is_form_of(layer: Cross, module: nn.Module | None) -> bool:
    """Whether the cross layer may have come from the module: the same kind and kernel."""
    of_kind = module is not None and isinstance(layer, form_of(module) or type(module))
    options = [name for name in ("kernel_size", "stride", "padding", "dilation") if hasattr(module, name)]
    return of_kind and all(getattr(module, name) == getattr(layer, name) for name in options)


def _check_names(stored: Stored, twin: TracedModule) -> None:
    expected = registered(twin).keys()
    missing, unexpected = expected - stored.names, stored.names - expected
    if missing or unexpected:
        lacks = f" It lacks {len(missing)} that the model has: {listed(missing)}." if missing else ""
        brings = f" It has {len(unexpected)} that the model lacks: {listed(unexpected)}." if unexpected else ""
        raise stored.misfit(
            f"its parameters and buffers are not those of the model.{lacks}{brings} "
            "Pass an instance of the architecture that was saved."
        )


def _check_shapes(stored: Stored, fresh: TracedModule, twin: TracedModule) -> None:
    """Refuses a tensor that differs from the model's along a dim that no rewrite changes."""
    blocks = {name for layer in stored.plan.layers for name in _block_names(layer, stored)}
    expected, made = registered(fresh), registered(twin)
    shapes = {name: tuple(stored.tensor(name).shape) for name in stored.names - blocks}
    shapes |= {name: shape for name, shape in _dense_shapes(stored, twin).items() if name in expected}
    wanted = {name: tuple((expected[name] if name in expected else made[name]).shape) for name in shapes}
    wanted |= {name: tuple(made[name].shape) for name in blocks}
    shapes |= {name: tuple(stored.tensor(name).shape) for name in blocks}
    differing = [name for name in shapes if shapes[name] != wanted[name]]
    resizable = _resizable(stored, fresh) if set(differing) - blocks else {}
    for name in stored.names:
        kind, other = stored.tensor(name), made[name]
        if kind.is_floating_point() != other.is_floating_point():
            raise stored.misfit(f"{name} is {kind.dtype} in the file and {other.dtype} in the model.")
    for name in sorted(differing):
        if not _differ_where(shapes[name], wanted[name], resizable.get(name, (False,) * len(wanted[name]))):
            raise stored.misfit(
                f"{name} is {list(shapes[name])} in the file and {list(wanted[name])} in the model, whose graph fixes "
                "that width. Pass an instance of the architecture that was saved."
            )


def _block_names(layer: Layer, stored: Stored) -> set[str]:
    """The names under which a cross layer's weight is kept in blocks: the model has none of them."""
    return {name for path in layer.paths for name in stored.names if name.startswith(f"{path}.weights.")}


def _dense_shapes(stored: Stored, twin: TracedModule) -> dict[str, tuple[int, ...]]:
    """What the weights that are kept in blocks were like in the model, by their names there."""
    layers = {path: twin.get_submodule(path) for layer in stored.plan.layers for path in layer.paths}
    return {
        f"{path}.weight": (sum(layer.out_generations), sum(layer.in_generations), *layer.kernel_size)
        for path, layer in layers.items()
        if isinstance(layer, Cross) and layer.scheme == "removed"
    }


def _differ_where(shape: tuple[int, ...], wanted: tuple[int, ...], may: tuple[bool, ...]) -> bool:
    """Whether the shapes have as many dims, and differ only in those that may."""
    if len(shape) != len(wanted):
        return False
    return all(a == b or free for a, b, free in zip(shape, wanted, may, strict=True))


def _resizable(stored: Stored, fresh: TracedModule) -> dict[str, tuple[bool, ...]]:
    """For each parameter and buffer, whether a rewrite may change its dims."""
    try:
        channels = channels_of(fresh)
    except NrfxError as error:
        raise stored.misfit(f"it has other widths than the model, which cannot be analysed. {error}") from error

    def may(layout: Tensor | None) -> bool:
        spaces = () if layout is None else channels.spaces_along(layout).unique().tolist()
        return any(channels.spaces[space].free for space in spaces if space >= 0)

    by_first = {name: tuple(may(layout) for layout in layouts) for name, layouts in channels.layouts.items()}
    return {name: by_first[first] for name, first in channels.aliases.items() if first in by_first}


def _put_tensors(stored: Stored, twin: TracedModule, fresh: Mapping[str, Tensor]) -> None:
    made: dict[str, Tensor] = {}
    for name, slot in registered(twin).items():
        first = stored.plan.aliases.get(name, name)
        if first not in made:
            made[first] = _made(stored, first, slot, relative_of(name, fresh))
        owner, _, attribute = name.rpartition(".")
        module = twin.get_submodule(owner)
        (module._parameters if isinstance(slot, nn.Parameter) else module._buffers)[attribute] = made[first]  # type: ignore[assignment]
    if aliases_of(twin) != stored.plan.aliases:
        untied = dict(aliases_of(twin).items() ^ stored.plan.aliases.items())
        raise stored.misfit(f"its tied parameters are not tied in the same way in the model: {listed(untied)}.")


def _made(stored: Stored, name: str, slot: Tensor, relative: Tensor | None) -> Tensor:
    """A tensor of the file on the device of its relative in the fresh model, as what the slot holds."""
    tensor = stored.tensors[name]
    device = tensor.device if relative is None or relative.is_meta else relative.device
    last = name in stored.plan.channels_last and tensor.dim() in CHANNELS_LAST
    memory_format = CHANNELS_LAST[tensor.dim()] if last else torch.contiguous_format
    value = torch.empty(tensor.shape, dtype=tensor.dtype, device=device, memory_format=memory_format)
    value.copy_(tensor)
    return nn.Parameter(value, name not in stored.plan.frozen) if isinstance(slot, nn.Parameter) else value


def _put_modes(stored: Stored, twin: TracedModule) -> None:
    plan, places = stored.plan, dict(twin.named_modules())
    if unknown := set(plan.other_mode) - places.keys():
        raise stored.misfit(f"it names {len(unknown)} submodules that the model lacks: {listed(unknown)}.")
    twin.train(plan.training)
    for path, module in places.items():
        module.training = plan.training != (path in plan.other_mode)
