"""A model of a catalogue: how it is built with random weights, and its inputs. Nothing is downloaded."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Real:
    """An input of standard normal numbers."""

    shape: tuple[int, ...]

    def draw(self, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return torch.randn(*self.shape, generator=generator, dtype=torch.float64).to(dtype)


@dataclass(frozen=True)
class Ids:
    """An input of whole numbers in [0, below)."""

    shape: tuple[int, ...]
    below: int = 50

    def draw(self, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return torch.randint(0, self.below, self.shape, generator=generator)


Spec = Real | Ids


@dataclass(frozen=True)
class Made:
    """Calls "module:name" with these arguments to make a module."""

    target: str
    args: tuple[Any, ...]
    options: Mapping[str, Any]

    def __call__(self) -> nn.Module:
        module, name = self.target.split(":")
        made: Any = importlib.import_module(module)
        for part in name.split("."):
            made = getattr(made, part)
        model: nn.Module = made(*self.args, **self.options)
        return model


@dataclass(frozen=True)
class Model:
    """A model of a catalogue.

    Attributes:
        package: as it is imported.
        name: unique in its package.
        family: the architecture, whatever package it is from.
        inputs: of its forward, by position, with a batch of two or one.
        others: the second size; where the model itself takes no such inputs, only the batch differs.
        gibibytes: memory that its checks need at least.
    """

    package: str
    name: str
    family: str
    build: Callable[[], nn.Module]
    inputs: tuple[Spec, ...]
    others: tuple[Spec, ...] = ()
    gibibytes: float = 0

    @property
    def title(self) -> str:
        """The name by which the table and the command line know it."""
        return self.name if self.package == "torchvision" else f"{self.package}:{self.name}"

    @property
    def installed(self) -> bool:
        return find_spec(self.package) is not None


def drawn(specs: tuple[Spec, ...], seed: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The inputs, each drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(spec.draw(generator, dtype) for spec in specs)


def in_batch(specs: tuple[Spec, ...], batch: int) -> tuple[Spec, ...]:
    """The same inputs with another number of examples."""
    return tuple(replace(spec, shape=(batch, *spec.shape[1:])) for spec in specs)


def shapes(specs: tuple[Spec, ...]) -> str:
    """The shapes, such as "2x3x64x64 2x16"."""
    return " ".join("x".join(map(str, spec.shape)) for spec in specs)


def made(target: str, /, *args: Any, **options: Any) -> Made:
    """A builder that calls "module:name" with these arguments."""
    return Made(target, args, options)


def image(
    package: str, name: str, family: str, build: Callable[[], nn.Module], side: int = 64, planes: int = 3
) -> Model:
    """A model that takes images [N, planes, side, side]; its second images are wider."""
    first, second = (2, planes, side, side), (3, planes, side, side + max(32, side // 2))
    return Model(package, name, family, build, (Real(first),), (Real(second),))


def signal(package: str, name: str, family: str, build: Callable[[], nn.Module], *shape: int) -> Model:
    """A model that takes real numbers [N, *shape]; those of its second size are longer along the last dim."""
    longer = (*shape[:-1], shape[-1] * 3 // 2)
    return Model(package, name, family, build, (Real((2, *shape)),), (Real((3, *longer)),))


def text(package: str, name: str, family: str, build: Callable[[], nn.Module]) -> Model:
    """A model that takes ids of words [N, length]; those of its second size are longer."""
    return Model(package, name, family, build, (Ids((2, 16)),), (Ids((3, 24)),))
