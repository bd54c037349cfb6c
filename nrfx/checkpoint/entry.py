"""The plan in a state dict: what plain checkpoints (torch.save, safetensors, torch.distributed) say of a network.

It is the plan of a file without what no state dict says: modes, frozen parameters, memory formats. Before a state dict
is loaded into a traced module, its plan is compared with the network that is there:

    the same network             the entry is taken out, and torch loads the rest
    another one of this model    the module becomes it in place, as in an event; torch loads the rest
    no plan, rewritten network   refused: widths may coincide, and the numbers would mean something else
    no network of this model     refused, with what does not fit

A model that is not traced knows no entry of this name, and torch says so.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nrfx.checkpoint.file import VERSION, Stored, Versioned
from nrfx.checkpoint.network import restored
from nrfx.checkpoint.plan import Plan, content_of
from nrfx.checkpoint.tensors import is_channels_last, listed, registered, relative_of
from nrfx.errors import CheckpointError
from nrfx.files import parsed
from nrfx.rewrite.sort_generations import is_reordered
from nrfx.tracing import TracedModule
from nrfx.tracing.graph.exchange import Snapshot
from nrfx.tracing.graph.original import differing, follow, join, original_of
from nrfx.tracing.graph.registered import ENTRY
from nrfx.tracing.graph.stated import KEY, Statements, register


@dataclass(frozen=True)
class Statement(Versioned):
    """The JSON of an entry. reordered: `sort_generations` came after the rewrite, which no plan repeats."""

    plan: Plan
    reordered: bool = False

    @classmethod
    def of(cls, traced: TracedModule) -> "Statement":
        """What is to be said of a network."""
        plan = replace(Plan.of(traced), frozen=(), channels_last=(), training=True, other_mode=())
        return cls("nrfx", VERSION, plan, is_reordered(traced))

    def network(self) -> Any:
        """The fields that two networks of one model must share to be one architecture, as JSON."""
        plan = json.loads(json.dumps(asdict(self.plan)))
        layers = sorted(
            (sorted(layer["paths"]), json.dumps(layer["config"], sort_keys=True)) for layer in plan["layers"]
        )
        return layers, plan["aliases"], plan["literals"], plan["norms"], self.reordered

    def tensor(self) -> Tensor:
        """The entry: uint8 [bytes]."""
        content = asdict(self) | {"plan": content_of(self.plan)}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return torch.frombuffer(bytearray(text.encode("ascii")), dtype=torch.uint8)


def entry_of(traced: TracedModule) -> Tensor | None:
    """The entry of a network's state dict; None where the network is what its model builds."""
    facts = traced.facts
    if facts.fresh is None:
        return None
    known = vars(traced).get(ENTRY)
    if known is None or known[0] is not facts:
        known = traced.__dict__[ENTRY] = facts, _made(traced)
    return None if known[1] is None else known[1].clone()


def _made(traced: TracedModule) -> Tensor | None:
    built = traced.facts.fresh.network
    now, fresh = Statement.of(traced), Statement.of(built)
    same = now.network() == fresh.network() and _shapes(traced) == _shapes(built)
    return None if same else now.tensor()


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in registered(module).items()}


def prepare(traced: TracedModule, state: dict[str, Any], prefix: str, model: nn.Module | None = None) -> None:
    """Makes the traced module the network of a state dict that is about to be loaded, and takes its entry out.

    Args:
        model: what the state dict is loaded into, where that is a model that follows the traced module.

    Raises:
        CheckpointError: the state dict is of another network, or says nothing and the network was rewritten. Nothing
            was changed.
    """
    place = f"The state dict{f' under {prefix!r}' if prefix else ''}"
    own = registered(traced)
    paths = {path for path, _ in traced.named_modules(remove_duplicate=False)}
    for key in state:
        path = key.removeprefix(prefix).removesuffix(KEY).removesuffix(".")
        if key.startswith(prefix) and key.endswith(f".{KEY}") and path and path not in paths:
            raise CheckpointError(
                f"{place} has the plan of a rewritten network as {key!r}, and the module has no submodule {path!r}: "
                f"the names begin with a wrapper's. Load it into the wrapper, or without {f'{path}.'!r} before names."
            )
    given = state.pop(prefix + KEY, None)
    loaded = {name: state[prefix + name] for name in own if prefix + name in state}
    if given is None:
        _check_is_built(traced, loaded, place)
        return
    statement = read_entry(given, place)
    if statement.network() == Statement.of(traced).network() and _fits(loaded, own):
        return
    if statement.reordered:
        raise CheckpointError(
            f"{place} is of a network after sort_generations, which no other network can become: save the network "
            "before it, and call it again after load."
        )
    _become(traced, _stored(traced, statement, state, prefix, place), model)


def _check_is_built(traced: TracedModule, loaded: Mapping[str, Any], place: str) -> None:
    """Refuses numbers without a plan for a network that is not what its model builds."""
    if loaded and entry_of(traced) is not None:
        raise CheckpointError(
            f"{place} has no entry {KEY!r}: it is of a network as its model builds it, or lost the entry on its way. "
            "The module was rewritten, and where shapes coincide the numbers would mean something else. Load it into a "
            f"fresh trace of the model; if it is of this network, add state[{KEY!r}] = module.state_dict()[{KEY!r}]."
        )


def _fits(loaded: Mapping[str, Any], own: Mapping[str, Tensor]) -> bool:
    return all(getattr(value, "shape", None) == own[name].shape for name, value in loaded.items())


def read_entry(value: Any, place: str) -> Statement:
    """What an entry says; of any dtype, for some convert all that a state dict holds."""
    about = f"{place}: its entry {KEY!r}"
    if not isinstance(value, Tensor) or value.dim() != 1:
        raise CheckpointError(f"{about} is {value!r:.60}; expected a tensor of bytes.")
    numbers = value.detach().cpu().double()
    if not bool(((numbers == numbers.round()) & (numbers >= 0) & (numbers < 128)).all()):
        raise CheckpointError(f"{about} is damaged: its numbers are no text. Take another copy of the checkpoint.")
    text = bytes(numbers.to(torch.uint8).tolist()).decode("ascii")
    version = parsed(Versioned, text, about, CheckpointError, extra="ignore").version
    if version != VERSION:
        raise CheckpointError(f"{about} has format version {version}, and this nrfx reads up to {VERSION}.")
    return parsed(Statement, text, about, CheckpointError)


def network_of(statement: Statement, tensors: Mapping[str, Tensor], model: nn.Module, place: str) -> TracedModule:
    """The network of a state dict with an entry, built from a fresh model, which is left as it is."""
    trains = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    frozen = tuple(name for name in tensors if not trains.get(name, True))
    return restored(Stored(place, replace(statement.plan, frozen=frozen), dict(tensors), None, None), model)


def _stored(traced: TracedModule, statement: Statement, state: Mapping[str, Any], prefix: str, place: str) -> Stored:
    """The state dict as a file of the same network would be read, with the module's own modes, dtypes and devices."""
    own = registered(traced)
    if split := [name for name, tensor in own.items() if hasattr(tensor, "full_tensor")]:
        raise CheckpointError(
            f"{place} is of another network of this model, and {listed(split)} are distributed by now: load it before "
            "the module is sharded."
        )
    given = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    values = {name: value for name, value in given.items() if isinstance(value, Tensor) and not name.endswith(KEY)}
    saved = traced.state_dict()
    values = {name: tensor for name, tensor in own.items() if name not in saved and name not in values} | values
    first = next(iter(own.values()))
    tensors, frozen = {}, []
    for name, value in values.items():
        relative = relative_of(name, own)
        kin = first if relative is None else relative
        alike = name in own or (kin.is_floating_point() and value.is_floating_point())
        dtype = kin.dtype if alike else value.dtype  # torch converts what it loads, too
        tensors[name] = value.detach().to(kin.device, dtype)
        if isinstance(kin, nn.Parameter) and not kin.requires_grad and name not in statement.plan.aliases:
            frozen.append(name)
    other = tuple(path for path, module in traced.named_modules() if module.training != traced.training)
    plan = replace(statement.plan, frozen=tuple(frozen), training=traced.training, other_mode=other)
    return Stored(place, plan, tensors, None, None)


def _become(traced: TracedModule, stored: Stored, model: nn.Module | None) -> None:
    """Builds the network of a state dict and makes the module, and the models that share its tensors, become it."""
    twin = restored(stored, traced if traced.facts.fresh is None else traced.facts.fresh.network)
    if any(is_channels_last(parameter) for parameter in traced.parameters()):
        twin.to(memory_format=torch.channels_last)
    candidates = {id(each): each for each in (original_of(traced), model) if each is not None}.values()
    models = [each for each in candidates if differing(each, traced) is None]
    before = Snapshot(traced, *models)
    try:
        for each in models:
            join(each, traced)
        traced.become(twin)
        for each in models:
            follow(each, traced)
    except BaseException:
        before.restore()
        traced.recompile()
        raise


register(Statements(entry_of, prepare))
