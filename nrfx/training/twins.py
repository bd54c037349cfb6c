"""A twin of a network, rewritten as the network was: an average of its weights, a teacher, a copy with other numbers.

A twin has the structure of the network before a rewrite. It is carried by the same decisions: the same channels go and
come, by the same origins and factors. Constants of dead channels are the twin's own: their betas have other values, and
so have the weights that read them. New channels are the network's, and nothing old reads them.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nrfx.analysis.channels import Channels, readers
from nrfx.analysis.constants import constants_of
from nrfx.analysis.liveness import Liveness, affine_of
from nrfx.analysis.names import named_tensors
from nrfx.analysis.spaces import channels_of
from nrfx.errors import TrainingError
from nrfx.nn import Cross
from nrfx.plan.absorb import Absorption, absorb_alike
from nrfx.plan.origins import NEW, Factors, Origins, gather
from nrfx.rewrite.absorb_constants import offsets, write_carriers
from nrfx.rewrite.compare import Call, outputs
from nrfx.rewrite.result import Decided, Rejuvenation
from nrfx.rules import Reading
from nrfx.tracing import TracedModule
from nrfx.tracing.graph.stated import KEY

Twin = nn.Module | Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Carried:
    """A twin after a rewrite, and how far it computes what it computed before.

    Attributes:
        module: a network of the new structure with the twin's numbers; None for a mapping of tensors.
        tensors: its parameters and buffers by name; those of a mapping where the twin was one. They hold no plan: to
            load them into the new network, add the entry `rewritten_by_nrfx` of its state dict.
        keeps_function: whether the twin's outputs are those from before, with the gammas of dropped channels at 0, and
            these gammas are dead in the twin too.
        lag: the largest abs(gamma) among dropped channels, relative to the twin's largest in the same layer; 0 where
            all are 0 in the twin, as they nearly are in the network.
        difference: the largest difference of outputs on the inputs that were given, relative to the largest output,
            against the twin as it was; None without inputs.
        notes: sentences on what is not exact.

    >>> import nrfx
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> teacher = copy.deepcopy(net)
    >>> with torch.no_grad():
    ...     _ = net[1].weight[:4].zero_()  # alive in the teacher
    >>> carried = nrfx.carry(teacher, nrfx.compact(nrfx.trace(net, torch.zeros(1, 3, 4, 4))))
    >>> carried.keeps_function, carried.lag
    (False, 1.0)
    """

    module: TracedModule | None = field(repr=False)
    tensors: Mapping[str, Tensor] = field(repr=False)
    keeps_function: bool
    lag: float
    difference: float | None
    notes: tuple[str, ...]


def carry(twin: Twin, result: Rejuvenation, inputs: Any = None, *, old: TracedModule | None = None) -> Carried:
    """The twin of a network, rewritten as the network was: an average of its weights, a teacher, a copy.

    The twin is left as it is. It has the parameters and buffers of the network before the rewrite, by name and shape,
    with numbers of its own, in any dtype and on any device. Where the dropped channels are dead in it too, it computes
    what it computed, to rounding. An average lags behind: a gamma that is dead in the network may still be alive in it.
    Such channels go all the same, with `keeps_function` False, the `lag` and a note.

    Args:
        twin: a traced module, the model that was traced, or tensors by name (a state_dict; buffers may be missing).
        result: what `nrfx.rejuvenate` or `nrfx.compact` made of the network, also `event.result`.
        inputs: a tensor or a tuple of arguments, on which the twin is compared with what comes of it: `difference`.
        old: the network before, where the twin is no traced module and nothing else holds that network any more.

    Raises:
        TrainingError: the twin is none of that network. Nothing was changed.

    >>> import nrfx
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> with torch.no_grad():
    ...     _ = net[1].weight[:4].zero_()
    >>> gm = nrfx.trace(net, torch.zeros(1, 3, 4, 4))
    >>> average = torch.optim.swa_utils.AveragedModel(gm)
    >>> result = nrfx.compact(gm)
    >>> carried = nrfx.carry(average.module, result, torch.ones(1, 3, 4, 4))
    >>> carried.keeps_function, carried.difference < 1e-6
    (True, True)
    >>> average.module = carried.module
    """
    given = _given(twin)
    _check_fits(given, result, isinstance(twin, nn.Module))
    decided = result.decided
    if decided is None:
        tensors, lost = _gathered(given, given, result, frozenset()), 0
    elif decided.scratch:
        tensors, lost = _of_network(given, result), 0
    else:
        adjusted, lost, written = _adjusted(given, decided, _structure(twin, decided, old))
        tensors = _gathered(adjusted, given, result, written)
    lag, alive = _lag(given, result)
    module = _module(twin, tensors, result) if isinstance(twin, nn.Module) else None
    difference = None if inputs is None or module is None else _difference(twin, module, inputs)
    return Carried(
        module=module,
        tensors=tensors,
        keeps_function=result.keeps_function and not alive and not lost,
        lag=lag,
        difference=difference,
        notes=tuple(_notes(result, lag, alive, lost, difference)),
    )


def _given(twin: Twin) -> dict[str, Tensor]:
    if isinstance(twin, nn.Module):
        return {name: tensor.detach() for name, tensor in named_tensors(twin).items()}
    if isinstance(twin, Mapping) and all(isinstance(value, Tensor) for value in twin.values()):
        return {name: value.detach() for name, value in twin.items() if name != KEY}  # the plan is the network's own
    raise TrainingError(f"The twin is of class {type(twin).__name__}; expected a module, or tensors by name.")


def _check_fits(given: Mapping[str, Tensor], result: Rejuvenation, whole: bool) -> None:
    """Raises TrainingError unless the twin has the tensors of the network before; a mapping may lack buffers."""
    now = named_tensors(result.module)
    shapes = {name: x.shape for name, x in now.items()} if result.decided is None else result.decided.shapes
    needed = {parent for name, parent in result.parents.items() if parent and (whole or name in _parameters(result))}
    hint = "Give the twin of the network before the rewrite, by its own names (wrapper.module, not the wrapper)."
    if unknown := sorted(given.keys() - shapes.keys()):
        raise TrainingError(f"The twin has {unknown[0]}, which the network before the rewrite has not. {hint}")
    if missing := sorted(needed - given.keys()):
        raise TrainingError(f"The twin has no {missing[0]}. {hint}")
    for name, tensor in given.items():
        if tensor.shape != shapes[name]:
            raise TrainingError(
                f"{name} of the twin has shape {list(tensor.shape)}; in the network before the rewrite it has "
                f"{list(shapes[name])}. {hint}"
            )


def _parameters(result: Rejuvenation) -> set[str]:
    return {name for name, _ in result.module.named_parameters()}


def _structure(twin: Twin, decided: Decided, old: TracedModule | None) -> TracedModule:
    """A traced module of the old structure: the twin itself, or the network before."""
    for module in (twin, old, decided.old()):
        if isinstance(module, TracedModule):
            shapes = {name: tensor.shape for name, tensor in named_tensors(module).items()}
            if shapes == decided.shapes:
                return module
    raise TrainingError(
        "The network before the rewrite is gone, and the twin has no graph: pass that network as old=, or a traced "
        "twin."
    )


def _adjusted(
    given: Mapping[str, Tensor], decided: Decided, structure: TracedModule
) -> tuple[dict[str, Tensor], int, frozenset[str]]:
    """The twin's tensors in their old shapes with its own constants absorbed, and the columns of carriers written.

    Returns: the tensors; the number of channels whose constant has no place in the twin; the gammas and betas.
    """
    tensors = {name: tensor.detach() for name, tensor in named_tensors(structure).items()} | dict(given)
    channels = channels_of(structure)
    assert channels.space_of.shape == decided.live.shape, "the structure has other channels than the one rewritten"
    absorption = _absorption(tensors, channels, decided)

    def dense(reading: Reading) -> Tensor:
        return _dense(tensors, structure, reading)

    adjusted = dict(tensors)
    for name, added in offsets(channels, absorption, dense).items():
        adjusted[name] = tensors[name].double() + added.to(tensors[name].device)
    for key, step in readers(channels.steps).items():
        reading = step.effect.reading
        if reading is not None and key in absorption.before and key not in absorption.absorbers:
            whole = dense(reading)
            written = write_carriers(whole, (None,) * whole.dim(), whole, channels, reading, absorption)
            adjusted |= _stored(written, structure, reading)
    norms = channels.first_norms.values()
    of_norms = frozenset(name for norm in norms for name in (norm.gamma, norm.beta) if name is not None)
    return {name: adjusted[name] for name in given}, len(absorption.hold), of_norms


def _absorption(tensors: Mapping[str, Tensor], channels: Channels, decided: Decided) -> Absorption:
    """The absorption with the constants of these tensors."""

    def read(name: str) -> Tensor:
        return tensors[name].double().cpu()

    norms = channels.first_norms.values()
    names = {name for norm in norms for name in (norm.gamma, norm.beta, norm.mean, norm.var) if name is not None}
    values = {name: read(name).flatten() for name in names}
    affine = {norm.key: affine_of(norm, values, decided.gamma_dead) for norm in norms}
    constants = constants_of(channels, affine, read, read)
    liveness = Liveness(decided.live, decided.gamma_dead, (), affine, constants, (), decided.threshold, "live")
    return absorb_alike(read, channels, liveness, decided.absorption)


def _dense(tensors: Mapping[str, Tensor], structure: TracedModule, reading: Reading) -> Tensor:
    """The weight of a layer as [rows, columns of a group, *kernel], with zeros where a cross layer has no block."""
    if reading.weight is not None:
        return reading.by_rows(tensors[reading.weight])
    layer = structure.get_submodule(reading.path)
    assert isinstance(layer, Cross)
    if layer.scheme == "attention":
        return tensors[f"{reading.path}.weight"]
    blocks = {index: tensors[f"{reading.path}.weights.{index}"] for index in layer.weights}
    like = next(iter(blocks.values()))
    whole = like.new_zeros(reading.rows.numel(), reading.cols.numel(), *like.shape[2:])
    for index, block in blocks.items():
        rows, columns = layer.rows(int(index)), torch.tensor(layer.columns(int(index)), device=like.device)
        whole[rows.start : rows.stop] = whole[rows.start : rows.stop].index_copy(1, columns, block)
    return whole


def _stored(whole: Tensor, structure: TracedModule, reading: Reading) -> dict[str, Tensor]:
    """The dense weight as the parameters of its layer; the way back of `_dense`."""
    if reading.weight is not None:
        return {reading.weight: reading.by_rows(whole)}
    layer = structure.get_submodule(reading.path)
    assert isinstance(layer, Cross)
    if layer.scheme == "attention":
        return {f"{reading.path}.weight": whole}
    parts = {}
    for index in layer.weights:
        rows, columns = layer.rows(int(index)), torch.tensor(layer.columns(int(index)), device=whole.device)
        parts[f"{reading.path}.weights.{index}"] = whole[rows.start : rows.stop].index_select(1, columns)
    return parts


def _gathered(
    adjusted: Mapping[str, Tensor], given: Mapping[str, Tensor], result: Rejuvenation, of_norms: frozenset[str]
) -> dict[str, Tensor]:
    """The new tensors: the twin's, gathered and scaled, and the network's at new positions.

    Args:
        adjusted: the twin's tensors with constants absorbed, perhaps in a wider dtype than `given`.
        of_norms: gammas and betas. A carrier's are written anew (factor 0); columns of carriers are written already.
    """
    carried = {}
    for name, new in _named(result).items():
        parent = result.parents[name]
        if parent is None:
            carried[name] = new.detach().clone()
        elif parent in given:
            origins, factors = result.origins[name], result.factors[name]
            value = _followed(adjusted[parent], new.detach(), origins, factors, parent in of_norms)
            carried[name] = value.to(given[parent].dtype)
    return _with_aliases(carried, given, result)


def _followed(value: Tensor, new: Tensor, origins: Origins, factors: Factors, anew: bool) -> Tensor:
    by = tuple(None if factor is None else torch.where(factor == 0, 1.0, factor) for factor in factors)
    moved = gather(value, origins, by)
    for dim, (places, factor) in enumerate(zip(origins, factors, strict=True)):
        fresh = torch.zeros(new.shape[dim], dtype=torch.bool)
        fresh |= places == NEW if places is not None else False
        fresh |= factor.cpu() == 0 if factor is not None and anew else False
        if bool(fresh.any()):
            at = fresh.nonzero().flatten().to(moved.device)
            moved = moved.index_copy(dim, at, new.to(moved).index_select(dim, at))
    return moved.clone() if moved.data_ptr() == value.data_ptr() else moved


def _of_network(given: Mapping[str, Tensor], result: Rejuvenation) -> dict[str, Tensor]:
    """The network's own new tensors, for nothing of the old ones is left."""
    named = {name: tensor.detach().clone() for name, tensor in _named(result).items()}
    kept = {name: x for name, x in named.items() if result.parents[name] is None or result.parents[name] in given}
    return _with_aliases(kept, given, result)


def _named(result: Rejuvenation) -> dict[str, Tensor]:
    """Each parameter and buffer of the new network once."""
    return dict([*result.module.named_parameters(), *result.module.named_buffers()])


def _with_aliases(carried: dict[str, Tensor], given: Mapping[str, Tensor], result: Rejuvenation) -> dict[str, Tensor]:
    """Further names of tied tensors, where the twin has them."""
    first = {id(tensor): name for name, tensor in _named(result).items()}
    every = named_tensors(result.module)
    return {
        name: carried[first[id(tensor)]]
        for name, tensor in every.items()
        if first[id(tensor)] in carried and (name in carried or name in given)
    }


def _module(twin: nn.Module, tensors: Mapping[str, Tensor], result: Rejuvenation) -> TracedModule:
    """A copy of the new network with these tensors, in the mode of the twin."""
    own = named_tensors(twin)
    frozen = not any(parameter.requires_grad for parameter in twin.parameters())
    memo: dict[int, Any] = {}
    for name, new in _named(result).items():
        value = tensors[name]
        if isinstance(new, nn.Parameter):
            parent = own.get(result.parents[name] or "", new)
            value = nn.Parameter(value, requires_grad=parent.requires_grad and not frozen)
        memo[id(new)] = value
    module: TracedModule = copy.deepcopy(result.module, memo)
    return module.train(twin.training)


def _lag(given: Mapping[str, Tensor], result: Rejuvenation) -> tuple[float, int]:
    """The largest gamma of a dropped channel, relative to its layer's largest; and how many of them are not dead."""
    threshold = result.decided.threshold if result.decided is not None else 0.0
    largest, alive = 0.0, 0
    for name, gone in result.removed.items():
        if name not in given or not bool(gone.any()):
            continue
        size = given[name].detach().double().abs().cpu()
        relative = size[gone] / size.max().clamp(min=torch.finfo(torch.float64).tiny)
        largest, alive = max(largest, float(relative.max())), alive + int((relative >= max(threshold, 1e-300)).sum())
    return largest, alive


def _difference(twin: Any, module: TracedModule, inputs: Any) -> float:
    """The largest difference of outputs in eval mode, relative to the largest output."""
    call: Call = (inputs if isinstance(inputs, tuple) else (inputs,), {})
    before, after = (outputs(copy.deepcopy(each), call) for each in (twin, module))
    pairs = [(x.double(), y.double()) for x, y in zip(before.values(), after.values(), strict=True) if x.numel()]
    return max((float((x - y).abs().max() / x.abs().max().clamp(min=1e-300)) for x, y in pairs), default=0.0)


def _notes(result: Rejuvenation, lag: float, alive: int, lost: int, difference: float | None) -> list[str]:
    notes = []
    if result.decided is not None and result.decided.scratch:
        notes.append(
            "Every parameter was initialised anew: the twin is the new network, and nothing of its own is left."
        )
    if alive:
        changed = "" if difference is None else f" Outputs changed by {difference:.1e} of the largest."
        notes.append(
            f"{alive} dropped channels are not dead in the twin: the largest of their gammas is {lag:.2g} of the "
            f"largest in its layer. They went all the same.{changed}"
        )
    if lost:
        notes.append(f"The constants of {lost} dropped channels have no place in the twin, and were dropped.")
    return notes
