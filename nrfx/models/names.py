# ruff: noqa: PLC0415  torchvision and timm are slow to import, and not always needed
"""Models by name, as the command line writes them.

    resnet50                  of torchvision, untrained
    timm:NAME                 of timm, if it is installed
    package.module:factory    an nn.Module of the user's own, or what returns one; the current directory is importable
    nrfx:NAME                 of the paper, as `create` makes it (networks.py)

Weights come from a file: nothing is downloaded.
"""

import importlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from nrfx.errors import UsageError
from nrfx.models.networks import NETWORKS, create
from nrfx.models.weights import with_weights

IMAGE = (1, 3, 224, 224)
VIDEO = (1, 3, 16, 112, 112)
SHAPES = {"inception_v3": (1, 3, 299, 299), "s3d": (1, 3, 16, 224, 224)} | dict.fromkeys(
    ("mvit_v1_b", "mvit_v2_s", "swin3d_b", "swin3d_s", "swin3d_t"), (1, 3, 16, 224, 224)
)
"""Inputs of the torchvision models that want another size than their kind."""

SLOW_START = {"googlenet", "inception_v3"}
"""Models whose own initialisation takes a minute and can be left out."""


@dataclass(frozen=True)
class ResolvedModel:
    """A model, example inputs that fit it, the name it was asked for by, and how its weights were found.

    >>> found = resolve("nrfx:vgg19_cifar")
    >>> found.name, [tuple(x.shape) for x in found.example_inputs]
    ('nrfx:vgg19_cifar', [(1, 3, 32, 32)])
    """

    module: nn.Module
    example_inputs: tuple[Tensor, ...]
    name: str
    notes: tuple[str, ...] = ()


def resolve(
    name: str,
    num_classes: int | None = None,
    weights: str | None = None,
    shapes: Sequence[tuple[int, ...]] | None = None,
) -> ResolvedModel:
    """The model of that name, with the weights of a file if one is given.

    Args:
        name: see the top of this file.
        num_classes: passed to the model's constructor; None for its default.
        weights: FILE or FILE:KEY, see weights.py: a checkpoint in any usual form, or a file of `nrfx.save`.
        shapes: of the example inputs, one per argument; None for those usual for the model.

    Raises:
        UsageError: there is no such model, or its factory fails.
        CheckpointError: the file cannot be read, or does not fit the model.

    >>> resolve("resnet18", num_classes=10).module.fc
    Linear(in_features=512, out_features=10, bias=True)
    """
    kind, colon, rest = name.partition(":")
    if not colon:
        module, shape = _torchvision(name, num_classes)
    elif kind == "timm":
        module, shape = _timm(rest, num_classes)
    elif kind == "nrfx":
        module, shape = create(rest, num_classes), NETWORKS[rest].shape
    else:
        module, shape = _own(kind, rest, num_classes), IMAGE
    notes: tuple[str, ...] = ()
    if weights is not None:
        module, notes = with_weights(module, weights, name)
    return ResolvedModel(module, tuple(torch.zeros(shape) for shape in shapes or (shape,)), name, notes)


def _torchvision(name: str, num_classes: int | None) -> tuple[nn.Module, tuple[int, ...]]:
    from torchvision import models

    if name not in models.list_models():
        raise UsageError(
            f"There is no model {name!r} in torchvision{_close(name, models.list_models())}. "
            "One of your own is package.module:factory."
        )
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if name in SLOW_START:
        options["init_weights"] = False
    if name in {*models.list_models(models.segmentation), *models.list_models(models.detection)}:
        options["weights_backbone"] = None
    shape = SHAPES.get(name, VIDEO if name in models.list_models(models.video) else IMAGE)
    return _constructed(name, lambda: models.get_model(name, weights=None, **options)), shape


def _timm(name: str, num_classes: int | None) -> tuple[nn.Module, tuple[int, ...]]:
    try:
        import timm
    except ImportError as error:
        raise UsageError(f"timm:{name} needs timm, which is not installed: pip install timm.") from error
    if not timm.is_model(name):
        raise UsageError(f"There is no model {name!r} in timm{_close(name, timm.list_models(), 'timm:')}.")
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    module = _constructed(f"timm:{name}", lambda: timm.create_model(name, pretrained=False, **options))
    settings: Any = module.pretrained_cfg
    return module, (1, *settings.get("input_size", IMAGE[1:]))


def _own(module_name: str, attribute: str, num_classes: int | None) -> nn.Module:
    full = f"{module_name}:{attribute}"
    with _current_directory_importable():
        value: Any = _imported(full, module_name)
        if not hasattr(value, attribute):
            raise UsageError(f"{module_name} has no {attribute!r}{_close(attribute, vars(value))}.")
        value = getattr(value, attribute)
        if isinstance(value, nn.Module):
            return value
        if not callable(value):
            raise UsageError(f"{full} is of type {type(value).__name__}; expected an nn.Module, or what returns one.")
        options = {} if num_classes is None else {"num_classes": num_classes}
        return _constructed(full, lambda: value(**options))


def _imported(full: str, module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(f"{missing}."):
            dotted = full.replace(".py:", ":").replace(os.sep, ".")
            hint = f" Write {dotted}." if dotted != full else ""
            raise UsageError(f"{full}: there is no module {missing!r} here or installed.{hint}") from error
        raise UsageError(f"{full}: {module_name} imports {missing!r}, which is not installed.") from error
    except Exception as error:  # the user's file runs here
        raise UsageError(f"{full}: importing {module_name} failed with {_brief(error)}") from error


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _constructed(name: str, make: Any) -> nn.Module:
    try:
        made = make()
    except Exception as error:  # the user's function runs here
        raise UsageError(f"{name}: making the model failed with {_brief(error)}") from error
    if not isinstance(made, nn.Module):
        raise UsageError(f"{name} returned something of type {type(made).__name__}; expected an nn.Module.")
    return made


def _brief(error: Exception) -> str:
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0] if first else 'no message'}"


def _close(name: str, names: Iterable[str], prefix: str = "") -> str:
    close = get_close_matches(name, list(names), n=3)
    return f"; close to it: {', '.join(prefix + each for each in close)}" if close else ""
