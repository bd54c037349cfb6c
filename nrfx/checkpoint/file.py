# ruff: noqa: PLC0415  a network that is never saved does not need safetensors
"""The safetensors file: written whole or not at all, and read back as a plan, tensors and what is not decoded yet."""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nrfx.checkpoint.plan import Plan
from nrfx.checkpoint.tensors import listed
from nrfx.errors import CheckpointError

VERSION = 1
_KEY = "nrfx"

Location = str | os.PathLike[str]


@dataclass(frozen=True)
class Stored:
    """A file that was read: the plan, the tensors (mapped from the file, not to be written to), the rest undecoded."""

    path: str
    plan: Plan
    tensors: Mapping[str, Tensor]
    optimizer: Any
    rejuvenator: Any

    @property
    def names(self) -> frozenset[str]:
        """First names and aliases of the network's parameters and buffers."""
        return frozenset(name for name in self.tensors if "/" not in name) | self.plan.aliases.keys()

    def tensor(self, name: str) -> Tensor:
        """The tensor of any of its names."""
        return self.tensors[self.plan.aliases.get(name, name)]

    def misfit(self, reason: str) -> CheckpointError:
        """The error for what does not fit this file."""
        return CheckpointError(f"{self.path} does not fit: {reason}")


def write(path: Location, content: bytes) -> None:
    """Replaces the file in one step, on the disk before it has its name; a CheckpointError leaves what was there."""
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


def serialized(tensors: Mapping[str, Tensor], content: str) -> bytes:
    """The bytes of a safetensors file with these tensors and, as its metadata, this JSON."""
    from safetensors import SafetensorError
    from safetensors.torch import save

    try:
        return save(_unshared(tensors), metadata={_KEY: content})
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


def read(path: Location) -> Stored:
    """What the file holds; a CheckpointError where it is not there, not whole, or not written by save."""
    from safetensors import SafetensorError, safe_open

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


def _parsed(path: str, content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Stored:
    if content["version"] > VERSION:
        raise CheckpointError(
            f"{path} has format version {content['version']}, and this nrfx reads up to {VERSION}: "
            "install a newer nrfx."
        )
    plan = Plan.from_json(content["plan"])
    if lost := set(plan.aliases.values()) - tensors.keys():
        raise ValueError(f"{listed(lost)} is tied to another name and missing")
    return Stored(path, plan, tensors, content["optimizer"], content["rejuvenator"])
