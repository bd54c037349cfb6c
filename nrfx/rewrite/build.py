"""The new network: tensors gathered by their origins, with constants absorbed, scales moved, new channels started.

What changes a number (carriers, factors, offsets) is computed in float64 and cast back once, so that a rewrite adds one
rounding to each number that it changes, and none to the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from nrfx.analysis.channels import readers
from nrfx.ids import among
from nrfx.labels import memory_of
from nrfx.nn import Cross
from nrfx.plan.blocks import Blocks, blocks_after, unmergeable
from nrfx.plan.origins import (
    NEW,
    Axes,
    Axis,
    Factors,
    Origins,
    axes_of_births,
    gather,
    gather_along,
    origin,
    with_means,
)
from nrfx.plan.plan import Plan
from nrfx.rewrite.absorb_constants import offsets, write_carriers
from nrfx.rewrite.assemble import assemble
from nrfx.rewrite.cross_layers import cross_layer
from nrfx.rewrite.initialise import from_scratch, recycled, rejuvenated
from nrfx.rewrite.new_tensors import NewTensors
from nrfx.rules import Family, Norm, Reading
from nrfx.tracing import TracedModule
from nrfx.tracing.graph.stated import AsBuilt


@dataclass(frozen=True)
class Built:
    """The new module, and where each of its parameters and buffers comes from (see Rejuvenation)."""

    module: TracedModule
    origins: Mapping[str, Origins]
    parents: Mapping[str, str | None]
    factors: Mapping[str, Factors]
    notes: tuple[str, ...]


def build(traced: TracedModule, plan: Plan) -> Built:
    """The network that the plan describes; `traced` stays as it is."""
    built = _Builder(traced, plan).build()
    built.module.facts = replace(built.module.facts, fresh=AsBuilt.of(traced))
    return built


@dataclass
class _Builder:
    """Collects the new tensors by name, then puts them into a copy."""

    traced: TracedModule
    plan: Plan
    layers: dict[str, Cross] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def build(self) -> Built:
        """Builds weights, then all other tensors, and puts them into a copy of the network."""
        self.new = NewTensors(dict([*self.traced.named_parameters(), *self.traced.named_buffers()]))
        old, new = self.plan.channels.births, self.plan.resized.births
        self.known_axes: dict[tuple[Any, Any], Axis] = {
            (memory_of(old[key]), memory_of(new[key])): axis for key, axis in axes_of_births(old, new).items()
        }
        self.axes_by_id: dict[tuple[int, int], Axis] = {}
        self.known_carriers: dict[tuple[Any, int], Tensor | None] = {}
        self.known_factors: dict[tuple[str, int], tuple[Factors, Factors]] = {}
        # keys of the weights that read carriers, for neither a bias nor norms absorb their constants
        self.carrying = self.plan.absorption.before.keys() - self.plan.absorption.absorbers.keys()
        self.carries = bool(self.plan.absorption.carriers.any())
        self.norm_of = self._roles()
        self.offsets = offsets(self.plan.channels, self.plan.absorption, self._dense)
        for step in readers(self.plan.channels.steps).values():
            if step.effect.reading is not None:
                self._weight(step.effect.reading, step.effect.family)
        for name in self.plan.channels.layouts:
            if name not in self.new.origins and not self._replaced(name):
                self._other(name)
        return self._built(assemble(self.traced, self.plan, self.new, self.layers))

    def _built(self, module: TracedModule) -> Built:
        """The module with what is known of its tensors: those that are in no layout came as they were."""
        tensors = dict([*module.named_parameters(), *module.named_buffers()])
        whole = {name: (None,) * tensor.dim() for name, tensor in tensors.items()}
        return Built(
            module,
            {name: self.new.origins.get(name, whole[name]) for name in tensors},
            {name: self.new.parents.get(name, name) for name in tensors},
            {name: self.new.factors.get(name, whole[name]) for name in tensors},
            tuple(self.notes),
        )

    def _axis(self, old: Tensor, new: Tensor) -> Axis:
        """Where each position of a new layout comes from. The plan holds every layout, in memory of its own."""
        known = self.axes_by_id.get((id(old), id(new)))
        if known is None:
            key = memory_of(old), memory_of(new)
            if key not in self.known_axes:
                self.known_axes[key] = Axis.of(origin(old, new), old.numel())
            known = self.axes_by_id[id(old), id(new)] = self.known_axes[key]
        return known

    def _roles(self) -> dict[str, tuple[str, Norm]]:
        """Parameter or buffer of a norm -> (its role, the norm)."""
        roles = {}
        for norm in self.plan.channels.first_norms.values():
            named = {"gamma": norm.gamma, "beta": norm.beta, "mean": norm.mean, "var": norm.var}
            roles.update({name: (role, norm) for role, name in named.items() if name is not None})
        return roles

    def _dense(self, reading: Reading) -> Tensor:
        """The weight as [rows, columns of a group, *kernel], with zeros where a cross layer has no block."""
        if reading.weight is not None:
            return reading.by_rows(self.new.old[reading.weight].detach())
        module = self.traced.get_submodule(reading.path)
        assert isinstance(module, Cross)
        return module.dense_weight().detach()

    def _weight(self, reading: Reading, family: Family) -> None:
        """Builds the dense weight of a convolution or linear layer, and cuts it where the layer has blocks."""
        plan, new = self.plan, self.plan.resized.readings[reading.key]
        rows, columns = self._axis(reading.rows, new.rows), self._axis(reading.cols, new.cols)
        weight = self._dense(reading)
        grouped = family is Family.GROUPED
        axes: Axes = (rows, None if grouped else columns, *(None,) * (weight.dim() - 2))
        origins = _places(axes)
        factors = self._weight_factors(reading, origins, grouped)
        weight = self._gathered(reading, weight, axes, factors, grouped)
        width = columns.places.numel()
        per_output = weight.shape[0] if not grouped else max(weight.shape[0] * weight.shape[1] // width, 1)
        if plan.scratch:
            weight = from_scratch(weight, per_output, plan.generator)
        elif plan.recycles and rows.known is not None:
            weight = recycled(weight, rows.places, per_output, plan.generator)
        elif rows.known is not None:
            weight = rejuvenated(weight, rows.places, None if plan.drawn else origins[1], per_output, plan.generator)
        self._store(reading, weight, axes, factors)

    def _gathered(self, reading: Reading, weight: Tensor, axes: Axes, factors: Factors, grouped: bool) -> Tensor:
        """The weight at the new places, scaled, with the columns of carriers; in its own dtype."""
        new = gather_along(weight, axes, tuple(_values(factor) for factor in factors))
        if grouped or reading.key not in self.carrying:
            return new
        # the factors of carriers are 1
        return write_carriers(new, axes, weight, self.plan.channels, reading, self.plan.absorption)

    def _weight_factors(self, reading: Reading, origins: Origins, grouped: bool) -> Factors:
        """1 / the rescaling of the gammas that the columns (rows of a grouped weight) read, with 0 at carriers."""
        divisors = (self.plan.scales.rows if grouped else self.plan.scales.columns).get(reading.key)
        by_row = divisors if grouped else None
        by_column = None if grouped else divisors
        factors = [_inverse(by_row, origins[0]), _inverse(by_column, origins[1])]
        if not grouped and reading.key in self.carrying:
            factors[1] = self._restart(factors[1], reading.cols, origins[1])
        return (*factors, *(None,) * (len(origins) - 2))

    def _restart(self, factor: Tensor | None, layout: Tensor, places: Tensor | None) -> Tensor | None:
        """The factor, 0 at carriers: their values are written anew, and their optimizer state starts at zero."""
        assert places is not None
        here = self._carriers_at(layout, places)
        if here is None:
            return factor
        ones = torch.ones(places.shape).double() if factor is None else factor
        return torch.where(here, 0.0, ones)

    def _carriers_at(self, layout: Tensor, places: Tensor) -> Tensor | None:
        """bool [len places]: whether the position comes from a carrier; None where none does.

        `known_axes` holds all places, so that no id is used twice.
        """
        if not self.carries:
            return None
        key = memory_of(layout), id(places)
        if key not in self.known_carriers:
            here = among(places, among(self.plan.channels.channels_along(layout), self.plan.absorption.carriers))
            self.known_carriers[key] = here if bool(here.any()) else None
        return self.known_carriers[key]

    def _store(self, reading: Reading, weight: Tensor, axes: Axes, factors: Factors) -> None:
        """Keeps the weight as one parameter, or as the blocks of a cross layer."""
        module = self.traced.get_submodule(reading.path)
        origins = _places(axes)
        blocks = self._blocks(module, reading, weight, origins)
        if blocks is None:
            assert reading.weight is not None
            kept = _changed(axes)
            if reading.transposed:
                new = self.plan.resized.readings[reading.key]
                weight = new.by_rows(weight).contiguous()
                kept, factors = self._transposed(reading, new, origins, factors)
            self.new.keep(reading.weight, reading.weight, weight, kept, factors)
            return
        # the module becomes a cross layer, with one weight under attention and else one for each output generation
        layer = self.layers[reading.path] = cross_layer(module, blocks, self.plan.scheme)
        if layer.scheme == "attention":
            name = f"{reading.path}.weight"
            self.new.keep(name, name, weight, origins, factors)
            return
        for index, rows, columns in blocks.parts():
            name = f"{reading.path}.weights.{index}"
            block = gather(weight, (rows, columns))
            cuts = (rows, columns)
            block_origins = tuple(part[at] for part, at in zip(origins, cuts, strict=False) if part is not None)
            block_factors = tuple(None if f is None else f[at] for f, at in zip(factors[:2], cuts, strict=True))
            tail = (None,) * (len(origins) - 2)
            parent, block_origins = self._parent(module, reading, index, block_origins)
            self.new.keep(name, parent, block, (*block_origins, *tail), (*block_factors, *tail))

    def _transposed(
        self, reading: Reading, new: Reading, origins: Origins, factors: Factors
    ) -> tuple[Origins, Factors]:
        """Origins and factors of a transposed weight, stored as [columns, rows of a group, *kernel].

        With groups its second axis holds the rows of one group, which stay, and its first axis the columns of all.
        """
        if reading.groups == 1:
            return (origins[1], origins[0], *origins[2:]), (factors[1], factors[0], *factors[2:])
        depthwise = factors[0] if reading.cols is reading.rows else None
        return (origin(reading.cols, new.cols), None, *origins[2:]), (depthwise, None, *factors[2:])

    def _blocks(self, module: nn.Module, reading: Reading, weight: Tensor, origins: Origins) -> Blocks | None:
        """The blocks of the new layer, None where it is no cross layer."""
        head = reading.key in self.plan.heads
        crossing = self.plan.scheme in ("attention", "removed") or isinstance(module, Cross)
        if not crossing or reading.key not in self.plan.forms:
            return None
        assert origins[0] is not None and origins[1] is not None
        merge = False
        if self.plan.merge and isinstance(module, Cross):
            reason = unmergeable(module, reading, weight, origins[0], origins[1])
            merge = reason is None
            self.notes += [] if merge else [f"{reading.path}: its generations stay apart: {reason}."]
        return blocks_after(module, reading, origins[0], origins[1], head, merge)

    def _parent(
        self, module: nn.Module, reading: Reading, index: int, origins: tuple[Tensor, ...]
    ) -> tuple[str | None, tuple[Tensor, ...]]:
        """The old parameter that a block of rows comes from, and the block's origins as positions in this parameter."""
        if not isinstance(module, Cross) or module.scheme == "attention":
            return f"{reading.path}.weight", origins
        assert reading.out_generation is not None
        # all old rows of a block are of one generation
        known = origins[0][origins[0] != NEW]
        old = int(reading.out_generation[known[0]]) if known.numel() else index
        if str(old) not in module.weights:  # that generation read nothing so far
            return None, tuple(torch.full_like(part, NEW) for part in origins)
        rows, columns = torch.tensor(module.rows(old)), torch.tensor(module.columns(old))
        return f"{reading.path}.weights.{old}", (_within(origins[0], rows), _within(origins[1], columns))

    def _replaced(self, name: str) -> bool:
        """Whether the parameter is a weight of a cross layer: `_store` has put others in its place."""
        owner = name.rpartition(".")[0].removesuffix(".weights")
        return owner in self.layers and not name.endswith(".bias")

    def _other(self, name: str) -> None:
        """A bias, a parameter or statistic of a norm, or a parameter that the graph reads on its own."""
        old_layouts = self.plan.channels.layouts[name]
        new_layouts = self.plan.resized.layouts.get(name) or (self._bias_layout(name),)
        axes = tuple(
            None if old is None or new is None else self._axis(old, new)
            for old, new in zip(old_layouts, new_layouts, strict=True)
        )
        value = self.new.old[name].detach()
        # neither a bias nor a vector of a norm
        if len(axes) > 1 or axes[0] is None or old_layouts[0] is None or self._is_bare(name):
            value = with_means(gather_along(value, axes), _places(axes))
            self.new.keep(name, name, value, _changed(axes), (None,) * len(axes))
            return
        if name in self.offsets:
            value = value.double() + self.offsets[name].to(value.device)
        factor, by = self._vector_factor(name, old_layouts[0], _places(axes))
        value = gather_along(value, axes, by)
        self.new.keep(name, name, self._started(name, value, old_layouts[0], axes[0]), _changed(axes), factor)

    def _is_bare(self, name: str) -> bool:
        """Whether the parameter brings channels into being itself: a layer scale, a position embedding."""
        return name in self.plan.channels.births

    def _bias_layout(self, name: str) -> Tensor:
        """The rows of the layer that the bias belongs to."""
        key = name.removesuffix(".bias")
        return self.plan.resized.readings[key].rows

    def _vector_factor(self, name: str, layout: Tensor, origins: Origins) -> tuple[Factors, Factors]:
        """The rescaling of a gamma or beta, with 0 at carriers, and the factor for its values; None for other vectors.

        `known_axes` holds all places, so that no id is used twice.
        """
        role, norm = self.norm_of.get(name, ("", None))
        if norm is None or role not in ("gamma", "beta"):
            return (None,), (None,)
        key = norm.key, id(origins[0])  # gamma and beta have the same
        if key not in self.known_factors:
            scale = self.plan.scales.gammas.get(norm.gamma or "")
            factor = None if scale is None else _taken(scale, origins[0])
            factor = self._restart(factor, layout, origins[0])
            self.known_factors[key] = (factor,), (_values(factor),)
        return self.known_factors[key]

    def _started(self, name: str, value: Tensor, layout: Tensor, axis: Axis) -> Tensor:
        """The value, with the new positions of a norm at their initial level, and carriers at gamma 0 and beta 1."""
        role, norm = self.norm_of.get(name, ("", None))
        if norm is None:
            return torch.zeros_like(value) if self.plan.scratch else value
        start = {"gamma": self.plan.gamma_new(name), "beta": 0.0, "mean": 0.0, "var": 1.0}[role]
        if self.plan.scratch:
            value = torch.full_like(value, start)
        elif axis.known is not None:
            value = torch.where((axis.places == NEW).to(value.device), start, value)
        here = self._carriers_at(layout, axis.places)
        constant = {"gamma": 0.0, "beta": 1.0}
        if here is None or role not in constant:
            return value
        return torch.where(here.to(value.device), constant[role], value)


def _places(axes: Axes) -> Origins:
    return tuple(None if axis is None else axis.places for axis in axes)


def _changed(axes: Axes) -> Origins:
    """The origins, None also for a dim that stays as it is."""
    return tuple(None if axis is None or axis.chosen is None else axis.places for axis in axes)


def _values(factor: Tensor | None) -> Tensor | None:
    """The factor for values: 1 where it is 0, for there the new value is written apart; None where all are 1."""
    if factor is None or bool(((factor == 1) | (factor == 0)).all()):
        return None
    return torch.where(factor == 0, 1.0, factor)


def _inverse(divisors: Tensor | None, places: Tensor | None) -> Tensor | None:
    return None if divisors is None else _taken(1 / divisors, places)


def _taken(values: Tensor, places: Tensor | None) -> Tensor:
    """[len places]: the values gathered by origins, 1 where the position is new."""
    assert places is not None
    return torch.where(places >= 0, values[places.clamp(min=0)], 1.0)


def _within(places: Tensor, part: Tensor) -> Tensor:
    """Origins on a whole axis -> origins in the ascending positions `part` of it; NEW for those outside of it."""
    at = torch.searchsorted(part, places.clamp(min=0)).clamp(max=part.numel() - 1)
    return torch.where((places >= 0) & (part[at] == places), at, NEW)
