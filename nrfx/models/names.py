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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from nrfx.errors import CheckpointError, UsageError
from nrfx.models.networks import NETWORKS, create

IMAGE = (1, 3, 224, 224)
VIDEO = (1, 3, 16, 112, 112)
SHAPES = {"inception_v3": (1, 3, 299, 299), "s3d": (1, 3, 16, 224, 224)} | dict.fromkeys(
    ("mvit_v1_b", "mvit_v2_s", "swin3d_b", "swin3d_s", "swin3d_t"), (1, 3, 16, 224, 224)
)
"""Inputs of the torchvision models that want another size than their kind."""

SLOW_START = {"googlenet", "inception_v3"}
"""Models whose own initialisation takes a minute and can be left out."""

NESTS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts put the state_dict of the model."""


@dataclass(frozen=True)
class ResolvedModel:
    """A model, example inputs that fit it, and the name it was asked for by."""

    module: nn.Module
    example_inputs: tuple[Tensor, ...]
    name: str


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
        weights: a state_dict (.safetensors, or what torch.save wrote) or a file of `nrfx.save`.
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
    if weights is not None:
        module = _with_weights(module, Path(weights), name)
    return ResolvedModel(module, tuple(torch.zeros(shape) for shape in shapes or (shape,)), name)


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


# Weights


def _with_weights(module: nn.Module, path: Path, name: str) -> nn.Module:
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file.")
    if _is_own(path):
        from nrfx.checkpoint import load

        loaded: nn.Module = load(path, module)
        return loaded
    state = read_state(path)
    _check_fit(module.state_dict(), state, path, name)
    module.load_state_dict(state, strict=False)
    return module


def _is_own(path: Path) -> bool:
    """Whether `nrfx.save` wrote the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return any(key.startswith("nrfx") for key in file.metadata() or ())
    except (SafetensorError, OSError):
        return False


def read_state(path: Path) -> dict[str, Tensor]:
    """The state_dict in a file, without what training scripts put around it ("state_dict", "model", "module.").

    Raises:
        CheckpointError: the file cannot be read, or holds no state_dict.
    """
    try:
        content = _read(path)
    except Exception as error:  # a damaged pickle makes torch.load raise almost anything
        # torch's own text is a paragraph on weights_only=False, which nobody can set here
        pickled = "a pickled model rather than its state_dict, or no file of torch's"
        brief = pickled if isinstance(error, UnpicklingError) else _brief(error)
        raise CheckpointError(
            f"{path} cannot be read as weights ({brief}). Expected a state_dict "
            "in a .safetensors file, or one that torch.save wrote."
        ) from error
    for key in NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(value, Tensor) for value in content.values())
    ):
        kind = type(content).__name__
        raise CheckpointError(f"{path} holds no state_dict but a {kind}: save model.state_dict() instead.")
    wrapped = all(str(key).startswith("module.") for key in content)
    return {str(key).removeprefix("module.") if wrapped else str(key): value for key, value in content.items()}


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Raises CheckpointError unless names and shapes agree; counters of batches may be missing, as in old files."""
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in own]
    other = [key for key in own if key in state and own[key].shape != state[key].shape]
    problems = []
    if other:
        sizes = f"{other[0]} is {list(state[other[0]].shape)}, the model's {list(own[other[0]].shape)}"
        problems.append(f"{_count(other)} of another shape ({sizes})")
    if missing:
        problems.append(f"{_count(missing)} missing (first {missing[0]})")
    if unknown:
        problems.append(f"{_count(unknown)} unknown to the model (first {unknown[0]})")
    if problems:
        raise CheckpointError(
            f"{path} does not fit {name}: {', '.join(problems)}. Check the model's name and its number of classes."
        )


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} tensor{'s are' if len(names) > 1 else ' is'}"
