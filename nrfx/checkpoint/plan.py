"""The plan: what of a network its tensors cannot say. Most widths are no part of it: the shapes of tensors say them."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any, Literal, NotRequired, Self, cast

import torch
from typing_extensions import TypedDict

from nrfx.checkpoint.call import Piece, call_of
from nrfx.checkpoint.tensors import aliases_of, is_channels_last, named_once
from nrfx.nn import Cross
from nrfx.rewrite.module_widths import bare_width
from nrfx.tracing import TracedModule
from nrfx.tracing.graph.shapes import InputSpec


class Config(TypedDict):
    """What `Cross.config` returns: the class, and the arguments of its constructor."""

    type: str
    in_generations: list[int]
    out_generations: list[int]
    bias: bool
    scheme: Literal["attention", "removed"]
    in_runs: list[tuple[int, int]]
    present: list[list[int]] | None
    kernel_size: NotRequired[list[int]]
    stride: NotRequired[list[int]]
    padding: NotRequired[list[int] | str]
    dilation: NotRequired[list[int]]


@dataclass(frozen=True)
class Layer:
    """A cross layer: every path it is registered under, and its config."""

    paths: tuple[str, ...]
    config: Config


@dataclass(frozen=True)
class Plan:
    """What makes the network of a fresh model and the tensors.

    inputs: shapes and names of dtypes. aliases: name -> first name, of tied parameters and buffers.
    frozen, channels_last: first names.
    other_mode: the submodules whose mode is not that of the root. literals, leaves, boxes: as in Facts. parts: the
        submodules that are graphs, where the network is no graph as a whole.
    norms: the widths of norms without parameters, by path.
    call: how the network is called, where its arguments are not just the inputs.
    """

    inputs: tuple[tuple[tuple[int, ...], str], ...]
    gamma0: Mapping[str, float]
    layers: tuple[Layer, ...]
    aliases: Mapping[str, str]
    frozen: tuple[str, ...]
    channels_last: tuple[str, ...]
    training: bool
    other_mode: tuple[str, ...]
    literals: Mapping[str, Mapping[str, Mapping[str, int | list[int | None]]]] = field(default_factory=dict)
    leaves: tuple[str, ...] = ()
    boxes: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    norms: Mapping[str, int] = field(default_factory=dict)
    call: Piece | None = None

    def __post_init__(self) -> None:
        for shape, dtype in self.inputs:
            if not isinstance(getattr(torch, dtype, None), torch.dtype):
                raise ValueError(f"inputs of dtypes that torch has, not {dtype!r}")
            if min(shape, default=0) < 0 or prod(shape) > sys.maxsize >> 3:
                raise ValueError(f"inputs of sizes that a tensor can have, not {list(shape)}")

    @classmethod
    def of(cls, traced: TracedModule) -> Self:
        """The plan of a network."""
        paths: dict[Cross, tuple[str, ...]] = {}
        for path, module in traced.named_modules(remove_duplicate=False):
            if isinstance(module, Cross):
                paths[module] = (*paths.get(module, ()), path)
        return cls(
            inputs=tuple((tuple(shape), str(dtype).removeprefix("torch.")) for shape, dtype in traced.inputs),
            gamma0=traced.gamma0,
            layers=tuple(Layer(where, cast(Config, layer.config())) for layer, where in paths.items()),
            aliases=aliases_of(traced),
            frozen=tuple(name for name, parameter in traced.named_parameters() if not parameter.requires_grad),
            channels_last=tuple(name for name, tensor in named_once(traced).items() if is_channels_last(tensor)),
            training=traced.training,
            other_mode=tuple(path for path, module in traced.named_modules() if module.training != traced.training),
            literals=traced.facts.literals,
            leaves=traced.facts.leaves,
            call=call_of(traced),
            boxes=traced.facts.boxes,
            parts=tuple(dict.fromkeys(part.path for part in traced.facts.parts)),
            norms={path: width for path, norm in traced.named_modules() if (width := bare_width(norm)) is not None},
        )

    def unlike(self, other: Self) -> str | None:
        """The first field in which the networks of two plans differ; None where they are the same."""
        return next((name for name in _OF_THE_NETWORK if _unordered(self, name) != _unordered(other, name)), None)

    @property
    def specs(self) -> tuple[InputSpec, ...]:
        """The inputs with torch's dtypes."""
        return tuple((shape, getattr(torch, dtype)) for shape, dtype in self.inputs)


def content_of(plan: Plan) -> dict[str, Any]:
    """A plan as it is written: without fields that earlier versions do not know, where these say nothing."""
    content = asdict(plan)
    return {name: value for name, value in content.items() if value or name not in ("leaves", "boxes", "parts", "call")}


_OF_THE_NETWORK = ("layers", "frozen", "channels_last", "training", "other_mode", "norms")


def _unordered(plan: Plan, name: str) -> Any:
    """The field, without the order of names that means nothing."""
    value = getattr(plan, name)
    if name == "layers":
        return sorted((sorted(layer.paths), json.dumps(layer.config, sort_keys=True)) for layer in value)
    return sorted(value) if isinstance(value, tuple) else value
