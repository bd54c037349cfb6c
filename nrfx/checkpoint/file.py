# ruff: noqa: PLC0415  a network that is never saved does not need safetensors
"""The safetensors file: its bytes, and what is read back: a plan, tensors and what is not decoded yet."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from nrfx.checkpoint.digests import Digests, bytes_of
from nrfx.checkpoint.encoding import is_place, tensors_named
from nrfx.checkpoint.plan import Plan
from nrfx.checkpoint.tensors import listed
from nrfx.errors import CheckpointError
from nrfx.files import Location, parsed

VERSION = 1
_KEY, _DIGESTS = "nrfx", "digests"


@dataclass(frozen=True)
class Versioned:
    """What the metadata of every version begin with."""

    format: Literal["nrfx"]
    version: int


@dataclass(frozen=True)
class Content(Versioned):
    """The JSON of version 1. What an optimizer, a Rejuvenator and the user keep is encoded, see encoding.py."""

    plan: Plan
    optimizer: Mapping[str, Any] | list[Any] | None  # a list where there are several
    rejuvenator: Mapping[str, Any] | None
    extra: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Stored:
    """A file that was read: the plan, the tensors (mapped from the file, not to be written to), the rest undecoded."""

    path: str
    plan: Plan
    tensors: Mapping[str, Tensor]
    optimizer: Any
    rejuvenator: Any
    extra: Any = None

    @property
    def names(self) -> frozenset[str]:
        """First names and aliases of the network's parameters and buffers."""
        return frozenset(name for name in self.tensors if not is_place(name)) | self.plan.aliases.keys()

    def tensor(self, name: str) -> Tensor:
        """The tensor of any of its names."""
        return self.tensors[self.plan.aliases.get(name, name)]

    def check_named(self) -> None:
        """Raises a CheckpointError for a tensor that belongs to no part of the file."""
        named = {name for part in (self.optimizer, self.rejuvenator, self.extra) for name in tensors_named(part)}
        if nameless := {name for name in self.tensors if is_place(name)} - named:
            raise self.misfit(f"nothing in it says what these tensors are: {listed(nameless)}.")

    def misfit(self, reason: str) -> CheckpointError:
        """The error for what does not fit this file."""
        return CheckpointError(f"{self.path} does not fit: {reason}")


def serialized(tensors: Mapping[str, Tensor], content: str) -> list[bytes | memoryview]:
    """The pieces of a safetensors file with these tensors and, as its metadata, this JSON.

    The numbers are not copied: safetensors itself would keep the whole file in memory, twice.
    """
    # the widest numbers first, as safetensors has them, so that each begins at a multiple of its width
    whole = dict(sorted(_unshared(tensors).items(), key=lambda item: (-item[1].element_size(), item[0])))
    kinds = _names_of(tensor.dtype for tensor in whole.values())
    header: dict[str, Any] = {"__metadata__": {_DIGESTS: Digests.of(content, whole).to_json(), _KEY: content}}
    end = 0
    for name, tensor in whole.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": kinds[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return [len(text).to_bytes(8, "little"), text, *map(bytes_of, whole.values())]


def _names_of(dtypes: Iterable[torch.dtype]) -> dict[torch.dtype, str]:
    """What a safetensors file calls these dtypes: asked of the library, by a file of empty tensors."""
    from safetensors import SafetensorError
    from safetensors.torch import save

    dtypes = tuple(dtypes)
    empty = {str(dtype): torch.empty(0, dtype=dtype) for dtype in dtypes}
    try:
        data = save(empty)
    except (KeyError, ValueError, NotImplementedError, SafetensorError) as error:
        raise CheckpointError(f"A tensor cannot be written to a safetensors file: {error}") from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    packed = next((dtype for dtype in dtypes if str(dtype).endswith("_x2")), None)
    if packed is not None:  # two numbers a byte, which a file of safetensors counts otherwise than torch
        raise CheckpointError(f"A tensor of {packed} cannot be written: convert it to a dtype of whole bytes first.")
    return {tensor.dtype: header[name]["dtype"] for name, tensor in empty.items()}


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, no two in one storage."""
    whole, storages = {}, set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        storage = value.untyped_storage()
        if storage.nbytes() != value.nbytes or storage.data_ptr() in storages:
            value = value.clone()
        storages.add(value.untyped_storage().data_ptr())
        whole[name] = value
    return whole


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
    about = f"The metadata of {place}"
    if unknown := metadata.keys() - {_KEY, _DIGESTS}:
        raise CheckpointError(f"{about}: {listed(unknown)} is unknown. Known are {_KEY}, {_DIGESTS}.")
    version = parsed(Versioned, metadata[_KEY], about, CheckpointError, extra="ignore").version
    if version != VERSION:
        newer = ": install a newer nrfx" if version > VERSION else ""
        raise CheckpointError(f"{place} has format version {version}, and this nrfx reads up to {VERSION}{newer}.")
    if _DIGESTS in metadata:  # earlier versions wrote none
        digests = parsed(Digests, metadata[_DIGESTS], f"The digests of {place}", CheckpointError)
        digests.check(place, metadata[_KEY], tensors)
    content = parsed(Content, metadata[_KEY], about, CheckpointError)
    if lost := set(content.plan.aliases.values()) - tensors.keys():
        raise CheckpointError(f"{about}: {listed(lost)} is tied to another name, and the file does not hold it.")
    return Stored(place, content.plan, tensors, content.optimizer, content.rejuvenator, content.extra)
