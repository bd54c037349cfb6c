"""One file for a network whose layers are no longer those of its class, and for what a resumed run needs beside it.

The file is a safetensors file, without pickled code:

    tensors     parameters and buffers by name, tied ones once; those of the optimizer under `optimizer/`
    metadata    "nrfx": JSON with the format, its version, the plan, the optimizer's groups and the rejuvenator's state

The plan says what tensors cannot: cross layers, inputs, ties, frozen parameters, modes. Widths follow from the tensors'
shapes. Not kept: gradients, hooks, schedulers, the state of random number generators.
"""

import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, fx, nn
from torch.optim import Optimizer

from nrfx.channels import channels
from nrfx.errors import CheckpointError, NrfxError, TraceError
from nrfx.nn import Cross
from nrfx.rewrite.contiguous import is_reordered
from nrfx.rewrite.cross import FORMS
from nrfx.rewrite.literals import Literals, put_literals
from nrfx.rewrite.widths import bare_width, fit_norm, fit_widths
from nrfx.trace import TracedModule, as_traced, propagate
from nrfx.trace.shapes import InputSpec
from nrfx.trace.shell import same, shell

VERSION = 1
_KEY = "nrfx"

Location = str | os.PathLike[str]


class Resumable(Protocol):
    """What save and load ask of a Rejuvenator."""

    optimizer: Optimizer

    @property
    def module(self) -> nn.Module: ...

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], module: TracedModule) -> None: ...


def save(
    path: Location, module: nn.Module, optimizer: Optimizer | None = None, rejuvenator: Resumable | None = None
) -> None:
    """Writes a network, and the state of its optimizer and Rejuvenator if given, to one file, whole or not at all.

    Args:
        path: the file; its folder must exist. A file that is there is replaced at the end, in one step.
        module: a traced module, rejuvenated or not (`result.module`, `nr.module`), or a GraphModule with shapes.
        optimizer: of the module's parameters.
        rejuvenator: the one that trains the module with this optimizer.

    Raises:
        CheckpointError: the file cannot be written, or module, optimizer and rejuvenator do not belong together.

    >>> import tempfile, nrfx
    >>> folder = tempfile.TemporaryDirectory()
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> with torch.no_grad():
    ...     _ = net[1].weight[:4].zero_()
    >>> small = nrfx.compact(nrfx.trace(net, torch.zeros(1, 3, 4, 4))).module
    >>> save(f"{folder.name}/small.safetensors", small)
    >>> fresh = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> load(f"{folder.name}/small.safetensors", fresh).get_submodule("0")
    Conv2d(3, 4, kernel_size=(1, 1), stride=(1, 1))
    >>> folder.cleanup()
    """
    traced = _savable(module)
    _check_company(traced, optimizer, rejuvenator)
    plan, tensors = _Plan.of(traced), _first(traced)
    content = {"format": "nrfx", "version": VERSION, "plan": plan.to_json(), "optimizer": None, "rejuvenator": None}
    if optimizer is not None:
        state = _optimizer_state(optimizer, traced)
        content["optimizer"] = _encoded(state, "optimizer")
        tensors |= _tensors_in(state, "optimizer")
    if rejuvenator is not None:
        state = dict(rejuvenator.state_dict())
        content["rejuvenator"] = _encoded(state, "rejuvenator")
        tensors |= _tensors_in(state, "rejuvenator")
    _write(path, _serialized(tensors, json.dumps(content)))


def load(
    path: Location, model: nn.Module, optimizer: Optimizer | None = None, rejuvenator: Resumable | None = None
) -> TracedModule:
    """The network that `save` wrote, built from a fresh instance of its class, which is left as it is.

    The result is on the devices of `model` (the CPU for the meta device), in the dtypes and modes that were saved.

    Args:
        path: a file written by `nrfx.save`.
        model: an instance of the architecture that was traced at first; or a traced module or GraphModule of one.
        optimizer: over the parameters of `model`; of the class that was saved, with as many groups or one. It trains
            the result from here on, its options and state as saved.
        rejuvenator: with that optimizer. It goes on where the saved one was, with the result as its module.

    Raises:
        CheckpointError: the file cannot be read, or does not fit. Nothing was changed.
    """
    stored = _read(path)
    _check_asked(stored, optimizer, rejuvenator)
    module = _restored(stored, model)
    refill = None if optimizer is None else _Refill.of(stored, optimizer, model, module)
    if rejuvenator is not None:
        try:
            rejuvenator.load_state_dict(_decoded(stored.rejuvenator, stored.tensors), module)
        except (NrfxError, TypeError, ValueError) as error:
            raise stored.misfit(f"its rejuvenator's state is refused: {error}") from error
    if optimizer is not None and refill is not None:
        refill.carry_out(optimizer)
    return module


# The file -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    """A cross layer: every path it is registered under, and its config."""

    paths: tuple[str, ...]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class _Plan:
    """What makes the network of a fresh model and the tensors.

    aliases: name -> first name, of tied parameters and buffers. frozen, channels_last: first names.
    other_mode: the submodules whose mode is not that of the root. literals: as Facts.literals.
    norms: the widths of norms without parameters, by path.
    """

    inputs: tuple[InputSpec, ...]
    gamma0: Mapping[str, float]
    layers: tuple[_Layer, ...]
    aliases: Mapping[str, str]
    frozen: tuple[str, ...]
    channels_last: tuple[str, ...]
    training: bool
    other_mode: tuple[str, ...]
    literals: Literals = field(default_factory=dict)
    norms: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, traced: TracedModule) -> Self:
        paths: dict[Cross, tuple[str, ...]] = {}
        for path, module in traced.named_modules(remove_duplicate=False):
            if isinstance(module, Cross):
                paths[module] = (*paths.get(module, ()), path)
        return cls(
            inputs=traced.inputs,
            gamma0=traced.gamma0,
            layers=tuple(_Layer(where, layer.config()) for layer, where in paths.items()),
            aliases=_aliases(traced),
            frozen=tuple(name for name, parameter in traced.named_parameters() if not parameter.requires_grad),
            channels_last=tuple(name for name, tensor in _first(traced).items() if _is_channels_last(tensor)),
            training=traced.training,
            other_mode=tuple(path for path, module in traced.named_modules() if module.training != traced.training),
            literals=traced.facts.literals,
            norms={path: width for path, norm in traced.named_modules() if (width := bare_width(norm)) is not None},
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        tuples = {name: tuple(values[name]) for name in ("frozen", "channels_last", "other_mode")}
        inputs = tuple((tuple(int(size) for size in shape), _dtype(dtype)) for shape, dtype in values["inputs"])
        layers = tuple(_Layer(tuple(layer["paths"]), dict(layer["config"])) for layer in values["layers"])
        return cls(**{**values, **tuples, "inputs": inputs, "layers": layers})

    def to_json(self) -> dict[str, Any]:
        inputs = [(shape, str(dtype).removeprefix("torch.")) for shape, dtype in self.inputs]
        return {**asdict(self), "inputs": inputs}


@dataclass(frozen=True)
class _Stored:
    """A file that was read: the plan, the tensors (mapped from the file, not to be written to), the rest undecoded."""

    path: str
    plan: _Plan
    tensors: Mapping[str, Tensor]
    optimizer: Any
    rejuvenator: Any

    @property
    def names(self) -> frozenset[str]:
        """First names and aliases of the network's parameters and buffers."""
        return frozenset(name for name in self.tensors if "/" not in name) | self.plan.aliases.keys()

    def tensor(self, name: str) -> Tensor:
        return self.tensors[self.plan.aliases.get(name, name)]

    def misfit(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self.path} does not fit: {reason}")


def _write(path: Location, content: bytes) -> None:
    if not isinstance(path, str | os.PathLike):
        raise CheckpointError(f"The path is {path!r}; expected the name of a file.")
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise CheckpointError(
            f"{os.fspath(path)} cannot be written: there is no folder {target.parent}. Make it first."
        )
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise CheckpointError(
            f"{os.fspath(path)} cannot be written ({error.strerror or error}); what was there is as it was. "
            "Choose a place that is writable and has room."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _serialized(tensors: Mapping[str, Tensor], content: str) -> bytes:
    try:
        return safetensors.torch.save(_unshared(tensors), metadata={_KEY: content})
    except (KeyError, ValueError, NotImplementedError, SafetensorError) as error:
        raise CheckpointError(f"A tensor cannot be written to a safetensors file: {error}") from error


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, no two in one storage."""
    found, storages = {}, set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        storage = value.untyped_storage()
        if storage.nbytes() != value.nbytes or storage.data_ptr() in storages:
            value = value.clone()
        storages.add(value.untyped_storage().data_ptr())
        found[name] = value
    return found


def _read(path: Location) -> _Stored:
    try:
        place = os.fspath(path)
    except TypeError as error:
        raise CheckpointError(f"The path is {path!r}; expected the name of a file that nrfx.save wrote.") from error
    try:
        with safe_open(place, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no file {place}.") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{place} is not a complete safetensors file ({error}). nrfx.load reads what nrfx.save wrote."
        ) from error
    if _KEY not in metadata:
        raise CheckpointError(
            f"{place} was not written by nrfx.save: its metadata has no {_KEY!r}. "
            "Plain weights go into the model itself: model.load_state_dict(safetensors.torch.load_file(path))."
        )
    try:
        return _parsed(place, json.loads(metadata[_KEY]), tensors)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{place} is damaged: its plan cannot be understood ({type(error).__name__}: {error})."
        ) from error


def _parsed(path: str, content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> _Stored:
    if content["version"] > VERSION:
        raise CheckpointError(
            f"{path} has format version {content['version']}, and this nrfx reads up to {VERSION}: "
            "install a newer nrfx."
        )
    plan = _Plan.from_json(content["plan"])
    if lost := set(plan.aliases.values()) - tensors.keys():
        raise ValueError(f"{_listed(lost)} is tied to another name and missing")
    return _Stored(path, plan, tensors, content["optimizer"], content["rejuvenator"])


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{name!r} is no dtype")
    return found


# Tensors by name ------------------------------------------------------------------------------------------------------


def _registered(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under all of its names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _first(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under its first name."""
    aliases = _aliases(module)
    return {name: tensor for name, tensor in _registered(module).items() if name not in aliases}


def _aliases(module: nn.Module) -> dict[str, str]:
    """Second and further names of tied parameters and buffers -> the first name."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(tensor), name) for name, tensor in _registered(module).items()}
    return {name: known for name, known in names.items() if name != known}


def _relative(name: str, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """The tensor of that name, else one of the same layer (whose weight may be in blocks on one side)."""
    if name in tensors:
        return tensors[name]
    owner = name.rpartition(".")[0].removesuffix(".weights")
    return next((tensor for other, tensor in tensors.items() if other.startswith(f"{owner}.")), None)


_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def _is_channels_last(tensor: Tensor) -> bool:
    """By its strides: is_contiguous says yes to both formats for a 1x1 kernel, and convolutions tell them apart."""
    if tensor.dim() not in _LAST:
        return False
    plain, last = (
        torch.empty(tensor.shape, device="meta", memory_format=memory_format).stride()
        for memory_format in (torch.contiguous_format, _LAST[tensor.dim()])
    )
    return plain != tensor.stride() == last


def _listed(names: Iterable[str]) -> str:
    found = sorted(names)
    return ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")


# The network ----------------------------------------------------------------------------------------------------------


def _savable(module: nn.Module) -> TracedModule:
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
            "nrfx.rewrite.contiguous has re-ordered the concatenations, which the model that the file is loaded into "
            "does not have so: save the network before it, and call it again after load."
        )
    kept = _registered(traced)
    if extra := [name for name in traced.state_dict() if name not in kept]:
        raise CheckpointError(f"The file format holds parameters and buffers only; found {_listed(extra)}.")
    if odd := [name for name in kept if "/" in name]:
        raise CheckpointError(f"Names of parameters and buffers must not hold a '/'; found {_listed(odd)}.")
    return traced


def _restored(stored: _Stored, model: nn.Module) -> TracedModule:
    if not isinstance(model, nn.Module):
        raise CheckpointError(f"load puts the file into an instance of the model; it got a {type(model).__name__}.")
    fresh = _traced_as(stored, model)
    twin = shell(fresh, same)
    _put_layers(stored, twin)
    _check_names(stored, twin)
    _check_shapes(stored, fresh, twin)
    _put_tensors(stored, twin, _registered(fresh))
    _put_modes(stored, twin)
    for path, module in twin.named_modules():
        fit_widths(module)
        if path in stored.plan.norms:
            fit_norm(module, stored.plan.norms[path])
    try:
        put_literals(twin, stored.plan.literals)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise stored.misfit(
            "the sizes that its rewritten graph states have no place in the model's graph "
            f"({type(error).__name__}: {error}). Pass an instance of the architecture that was saved."
        ) from error
    twin.facts = replace(twin.facts, inputs=stored.plan.inputs, gamma0=dict(stored.plan.gamma0))
    try:
        propagate(twin)
    except TraceError as error:
        raise stored.misfit(f"the model's graph cannot take its widths. {error}") from error
    return twin


def _traced_as(stored: _Stored, model: nn.Module) -> TracedModule:
    """The fresh model, traced on inputs of the stored shapes and in the stored dtypes."""
    given = _registered(model)
    dtypes = {id(tensor): _dtype_for(stored, name, tensor) for name, tensor in given.items()}

    def cast(tensor: Tensor) -> Tensor:
        dtype = dtypes.get(id(tensor), tensor.dtype)
        if dtype == tensor.dtype:
            return tensor
        bare = torch.empty_like(tensor.detach(), dtype=dtype)
        return nn.Parameter(bare, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else bare

    fits = all(dtypes[id(tensor)] == tensor.dtype for tensor in given.values())
    examples = tuple(torch.empty(shape, dtype=dtype, device="meta") for shape, dtype in stored.plan.inputs)
    try:
        return as_traced(model if fits else shell(model, cast), examples)
    except TraceError as error:
        raise stored.misfit(f"{type(model).__name__} cannot be traced with its inputs. {error}") from error


def _dtype_for(stored: _Stored, name: str, tensor: Tensor) -> torch.dtype:
    found = _relative(stored.plan.aliases.get(name, name), stored.tensors)
    if found is None or found.is_floating_point() != tensor.is_floating_point():
        return tensor.dtype
    return found.dtype


def _put_layers(stored: _Stored, twin: TracedModule) -> None:
    """Puts the cross layers of the plan, without weights, where the fresh model has the layers they were made of."""
    places = dict(twin.named_modules(remove_duplicate=False))
    planned = {path: layer for layer in stored.plan.layers for path in layer.paths}
    for path, module in places.items():
        if isinstance(module, Cross) and path not in planned:
            raise stored.misfit(
                f"{path} is a cross layer in the model and a plain one in the file. Pass a fresh instance of the model."
            )
    for entry in stored.plan.layers:
        try:
            layer = Cross.from_config(entry.config, device="meta")
        except (NrfxError, TypeError, ValueError) as error:
            raise stored.misfit(f"its layer {entry.paths[0]} cannot be made. {error}") from error
        for path in entry.paths:
            if not _is_form_of(layer, places.get(path)):
                found, expected = _described(layer), _described(places.get(path))
                raise stored.misfit(f"{path} is {found} in the file and {expected} in the model.")
            twin.set_submodule(path, layer)


def _described(module: nn.Module | None) -> str:
    return "missing" if module is None else f"{type(module).__name__}({module.extra_repr()})"


def _is_form_of(layer: Cross, module: nn.Module | None) -> bool:
    """Whether the cross layer may have come from the module: the same kind and kernel."""
    of_kind = type(module) is type(layer) or any(
        isinstance(module, plain) and isinstance(layer, form) for plain, form in FORMS.items()
    )
    options = [name for name in ("kernel_size", "stride", "padding", "dilation") if hasattr(module, name)]
    return of_kind and all(getattr(module, name) == getattr(layer, name) for name in options)


def _check_names(stored: _Stored, twin: TracedModule) -> None:
    expected = _registered(twin).keys()
    missing, unexpected = expected - stored.names, stored.names - expected
    if missing or unexpected:
        lacks = f" It lacks {len(missing)} that the model has: {_listed(missing)}." if missing else ""
        brings = f" It has {len(unexpected)} that the model lacks: {_listed(unexpected)}." if unexpected else ""
        raise stored.misfit(
            f"its parameters and buffers are not those of the model.{lacks}{brings} "
            "Pass an instance of the architecture that was saved."
        )


def _check_shapes(stored: _Stored, fresh: TracedModule, twin: TracedModule) -> None:
    """Refuses a tensor that differs from the model's along a dim that no rewrite changes."""
    blocks = {name for layer in stored.plan.layers for name in _block_names(layer, stored)}
    expected, made = _registered(fresh), _registered(twin)
    found = {name: tuple(stored.tensor(name).shape) for name in stored.names - blocks}
    found |= {name: shape for name, shape in _dense_shapes(stored).items() if name in expected}
    wanted = {name: tuple((expected[name] if name in expected else made[name]).shape) for name in found}
    wanted |= {name: tuple(made[name].shape) for name in blocks}
    found |= {name: tuple(stored.tensor(name).shape) for name in blocks}
    differing = [name for name in found if found[name] != wanted[name]]
    resizable = _resizable(stored, fresh) if set(differing) - blocks else {}
    for name in stored.names:
        kind, other = stored.tensor(name), made[name]
        if kind.is_floating_point() != other.is_floating_point():
            raise stored.misfit(f"{name} is {kind.dtype} in the file and {other.dtype} in the model.")
    for name in sorted(differing):
        if not _differ_where(found[name], wanted[name], resizable.get(name, (False,) * len(wanted[name]))):
            raise stored.misfit(
                f"{name} is {list(found[name])} in the file and {list(wanted[name])} in the model, whose graph fixes "
                "that width. Pass an instance of the architecture that was saved."
            )


def _block_names(layer: _Layer, stored: _Stored) -> set[str]:
    """The names under which a cross layer's weight is kept in blocks: the model has none of them."""
    return {name for path in layer.paths for name in stored.names if name.startswith(f"{path}.weights.")}


def _dense_shapes(stored: _Stored) -> dict[str, tuple[int, ...]]:
    """What the weights that are kept in blocks were like in the model, by their names there."""
    return {
        f"{path}.weight": (
            sum(layer.config["out_generations"]),
            sum(layer.config["in_generations"]),
            *layer.config.get("kernel_size", ()),
        )
        for layer in stored.plan.layers
        for path in layer.paths
        if layer.config["scheme"] == "removed"
    }


def _differ_where(found: tuple[int, ...], wanted: tuple[int, ...], may: tuple[bool, ...]) -> bool:
    """Whether the shapes have as many dims, and differ only in those that may."""
    if len(found) != len(wanted):
        return False
    return all(a == b or free for a, b, free in zip(found, wanted, may, strict=True))


def _resizable(stored: _Stored, fresh: TracedModule) -> dict[str, tuple[bool, ...]]:
    """For each parameter and buffer, whether a rewrite may change its dims."""
    try:
        found = channels(fresh)
    except NrfxError as error:
        raise stored.misfit(f"it has other widths than the model, which cannot be analysed. {error}") from error

    def may(layout: Tensor | None) -> bool:
        spaces = () if layout is None else found.spaces_along(layout).unique().tolist()
        return any(found.spaces[space].free for space in spaces if space >= 0)

    by_first = {name: tuple(may(layout) for layout in layouts) for name, layouts in found.layouts.items()}
    return {name: by_first[first] for name, first in found.aliases.items() if first in by_first}


def _put_tensors(stored: _Stored, twin: TracedModule, fresh: Mapping[str, Tensor]) -> None:
    made: dict[str, Tensor] = {}
    for name, slot in _registered(twin).items():
        first = stored.plan.aliases.get(name, name)
        if first not in made:
            made[first] = _made(stored, first, slot, _relative(name, fresh))
        owner, _, attribute = name.rpartition(".")
        module = twin.get_submodule(owner)
        (module._parameters if isinstance(slot, nn.Parameter) else module._buffers)[attribute] = made[first]  # type: ignore[assignment]
    if _aliases(twin) != stored.plan.aliases:
        untied = dict(_aliases(twin).items() ^ stored.plan.aliases.items())
        raise stored.misfit(f"its tied parameters are not tied in the same way in the model: {_listed(untied)}.")


def _made(stored: _Stored, name: str, slot: Tensor, relative: Tensor | None) -> Tensor:
    """A tensor of the file on the device of its relative in the fresh model, as what the slot holds."""
    device = torch.device("cpu") if relative is None or relative.is_meta else relative.device
    tensor = stored.tensors[name]
    last = name in stored.plan.channels_last and tensor.dim() in _LAST
    memory_format = _LAST[tensor.dim()] if last else torch.contiguous_format
    value = torch.empty(tensor.shape, dtype=tensor.dtype, device=device, memory_format=memory_format)
    value.copy_(tensor)
    return nn.Parameter(value, name not in stored.plan.frozen) if isinstance(slot, nn.Parameter) else value


def _put_modes(stored: _Stored, twin: TracedModule) -> None:
    plan, places = stored.plan, dict(twin.named_modules())
    if unknown := set(plan.other_mode) - places.keys():
        raise stored.misfit(f"it names {len(unknown)} submodules that the model lacks: {_listed(unknown)}.")
    twin.train(plan.training)
    for path, module in places.items():
        module.training = plan.training != (path in plan.other_mode)


# The optimizer and the rejuvenator ------------------------------------------------------------------------------------


def _check_company(traced: TracedModule, optimizer: Optimizer | None, rejuvenator: Resumable | None) -> None:
    if rejuvenator is not None:
        if {id(p) for p in rejuvenator.module.parameters()} != {id(p) for p in traced.parameters()}:
            raise CheckpointError(
                "The rejuvenator trains another module by now: save rejuvenator.module, which an event replaces."
            )
        if optimizer is not rejuvenator.optimizer:
            raise CheckpointError("A rejuvenator is saved with its optimizer: pass optimizer=rejuvenator.optimizer.")
    if optimizer is not None:
        _check_trains(optimizer, traced)


def _check_trains(optimizer: Optimizer, module: nn.Module) -> None:
    own = {id(parameter) for parameter in module.parameters()}
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    foreign = [list(parameter.shape) for parameter in trained if id(parameter) not in own]
    if foreign:
        raise CheckpointError(
            f"The optimizer trains {len(foreign)} parameters that the module does not have, the first of shape "
            f"{foreign[0]}. Parameters are kept by name: pass the module that the optimizer trains."
        )


def _optimizer_state(optimizer: Optimizer, traced: TracedModule) -> dict[str, Any]:
    """Class, groups and state, with names for parameters."""
    names = {id(parameter): name for name, parameter in traced.named_parameters()}
    groups = [
        {
            "names": [names[id(parameter)] for parameter in group["params"]],
            "options": {key: value for key, value in group.items() if key not in ("params", "param_names")},
        }
        for group in optimizer.param_groups
    ]
    state = {
        names[id(parameter)]: dict(state) for parameter, state in optimizer.state.items() if id(parameter) in names
    }
    return {"class": type(optimizer).__qualname__, "groups": groups, "state": state}


def _check_asked(stored: _Stored, optimizer: Optimizer | None, rejuvenator: Resumable | None) -> None:
    if optimizer is not None and stored.optimizer is None:
        raise stored.misfit("it holds no optimizer. Load the module alone and build a new optimizer for it.")
    if rejuvenator is None:
        return
    if stored.rejuvenator is None:
        raise stored.misfit("it holds no rejuvenator. Load module and optimizer, and make a new Rejuvenator of them.")
    if optimizer is not rejuvenator.optimizer:
        raise CheckpointError("A rejuvenator is loaded with its optimizer: pass optimizer=rejuvenator.optimizer.")


@dataclass(frozen=True)
class _Refill:
    """What an optimizer gets: per group its options, names and parameters, and the state of each parameter."""

    groups: tuple[tuple[dict[str, Any], list[str], list[nn.Parameter]], ...]
    state: Mapping[Tensor, dict[str, Any]]

    @classmethod
    def of(cls, stored: _Stored, optimizer: Optimizer, model: nn.Module, module: TracedModule) -> Self:
        _check_trains(optimizer, model)
        try:
            saved = _decoded(stored.optimizer, stored.tensors)
            _check_kind(stored, optimizer, saved)
            return cls._filled(saved, dict(module.named_parameters()))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise stored.misfit(
                f"its optimizer's state cannot be understood ({type(error).__name__}: {error})."
            ) from error

    @classmethod
    def _filled(cls, saved: Mapping[str, Any], parameters: Mapping[str, nn.Parameter]) -> Self:
        groups = []
        state: dict[Tensor, dict[str, Any]] = {}
        for group in saved["groups"]:
            options, names = dict(group["options"]), list(group["names"])
            on_device = bool(options.get("capturable") or options.get("fused"))
            groups.append((options, names, [parameters[name] for name in names]))
            for name in names:
                if name in saved["state"]:
                    state[parameters[name]] = _placed(saved["state"][name], parameters[name], on_device)
        return cls(tuple(groups), state)

    def carry_out(self, optimizer: Optimizer) -> None:
        groups, named = optimizer.param_groups, "param_names" in optimizer.param_groups[0]
        groups.extend({} for _ in self.groups[len(groups) :])
        for group, (options, names, parameters) in zip(groups, self.groups, strict=True):
            group.update(options, params=parameters, **({"param_names": names} if named else {}))
        optimizer.state.clear()
        optimizer.state.update(self.state)


def _check_kind(stored: _Stored, optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    kind, count, found = type(optimizer).__qualname__, len(saved["groups"]), len(optimizer.param_groups)
    if saved["class"] != kind:
        raise stored.misfit(f"it holds the state of a {saved['class']}, and the optimizer is a {kind}.")
    if found not in (1, count):
        raise stored.misfit(
            f"its optimizer has {count} groups of parameters, and the one given has {found}. "
            f"Build it with {count} groups, or with one."
        )


def _placed(state: Mapping[str, Any], parameter: nn.Parameter, on_device: bool) -> dict[str, Any]:
    """Copies of the state's tensors where torch keeps them: with the parameter, but for counts of steps on the CPU."""

    def placed(key: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if key == "step" and not on_device:
            return value.clone()
        if value.shape != parameter.shape:
            return value.to(parameter.device, copy=True)
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)

    return {key: placed(key, value) for key, value in state.items()}


# Values as JSON, tensors by name --------------------------------------------------------------------------------------


def _encoded(value: Any, place: str) -> Any:
    """The value as JSON: {"tensor": place}, {"tuple": [...]}, {"dict": {...}}; all else stands for itself."""
    if isinstance(value, Tensor):
        return {"tensor": place}
    if isinstance(value, tuple | list):
        items = [_encoded(item, inner) for inner, item in _inside(value, place)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict):
        return {"dict": {str(key): _encoded(value[key], f"{place}/{key}") for key in value}}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CheckpointError(f"{place} is a {type(value).__name__}, and a file holds numbers, text and tensors only.")


def _tensors_in(value: Any, place: str) -> dict[str, Tensor]:
    """The tensors of a value, by the places that _encoded gives them."""
    if isinstance(value, Tensor):
        return {place: value}
    return {name: tensor for inner, item in _inside(value, place) for name, tensor in _tensors_in(item, inner).items()}


def _inside(value: Any, place: str) -> list[tuple[str, Any]]:
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, tuple | list):
        pairs = enumerate(value)
    return [(f"{place}/{key}", item) for key, item in pairs]


def _decoded(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decoded(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    return _DECODE[kind](inner, tensors)


_DECODE: Mapping[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    "tensor": lambda inner, tensors: tensors[inner].clone(),
    "tuple": lambda inner, tensors: tuple(_decoded(item, tensors) for item in inner),
    "dict": lambda inner, tensors: {key: _decoded(item, tensors) for key, item in inner.items()},
}
