# ruff: noqa: PLC0415  safetensors is not always needed
"""The weights of a model from whatever file a training script left: FILE, or FILE:KEY with the path of an entry.

    files      .safetensors, what torch.save wrote, what `nrfx.save` wrote; nothing is unpickled but tensors, plain
               values, argparse.Namespace and numbers of numpy
    entries    a state dict at the top or at any key of it ("model", "ema", "state_dict_ema"), up to three deep
    prefixes   what wrappers put before all names ("module.", "_orig_mod.", "model."), found by the model's own names

What fits the model by its names is taken. Where several do, none is: an error lists their keys.
"""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from nrfx.checkpoint.entry import network_of, read_entry
from nrfx.checkpoint.tensors import listed
from nrfx.errors import CheckpointError
from nrfx.tracing.graph.stated import KEY as PLAN

DEPTH = 3
"""How deep state dicts are looked for."""

WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "backbone.")
"""What wrappers put before all names, taken off to say what does not fit."""


@dataclass(frozen=True)
class Candidate:
    """Tensors of a file by name. path: their key in it, "" at the top; prefix: what stands before the model's names."""

    path: str
    prefix: str
    tensors: Mapping[str, Tensor]
    others: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What chooses it: its path and prefix, joined by dots."""
        return ".".join(filter(None, (self.path, self.prefix.rstrip("."))))


def with_weights(module: nn.Module, weights: str, name: str) -> tuple[nn.Module, tuple[str, ...]]:
    """The module with the weights of a file, and what was chosen, left out or converted, in sentences.

    A file of `nrfx.save`, or a state dict of a rewritten network, gives a new module.

    Args:
        weights: FILE, or FILE:KEY. KEY is the path of an entry, its keys joined by dots; a prefix of names may follow.
        name: of the model, for errors.

    Raises:
        CheckpointError: the file cannot be read, fits in no way or in several, or does not fit the model.
    """
    path, key = _split(weights)
    if _is_own(path):
        if key:
            raise CheckpointError(f"{path} was written by nrfx.save and holds one network: leave out {f':{key}'!r}.")
        from nrfx.checkpoint import load

        return load(path, module), ()
    chosen = _chosen(_content(path), module.state_dict(), path, key, name)
    said = _said(chosen, path)
    if PLAN in chosen.tensors:
        place = f"{path}{f':{chosen.key}' if chosen.key else ''}"
        statement = read_entry(chosen.tensors[PLAN], place)
        tensors = {other: tensor for other, tensor in chosen.tensors.items() if other != PLAN}
        return network_of(statement, tensors, module, place), (*said, "It is of a rewritten network, which was built.")
    _check_fit(module.state_dict(), chosen.tensors, path, name)
    module.load_state_dict(chosen.tensors, strict=False)
    return module, (*said, *_converted(module, chosen.tensors))


def _is_own(path: Path) -> bool:
    """Whether `nrfx.save` wrote the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return any(key.startswith("nrfx") for key in file.metadata() or ())
    except (SafetensorError, OSError):
        return False


def _split(weights: str) -> tuple[Path, str]:
    """(file, key)"""
    whole = Path(weights)
    if whole.is_file():
        return whole, ""
    if whole.is_dir():
        raise CheckpointError(f"{weights} is a folder; expected a file of weights in it.")
    name, colon, key = weights.rpartition(":")
    if colon and Path(name).is_file():
        return Path(name), key
    raise CheckpointError(f"{weights}: there is no such file.")


# Reading


def _content(path: Path) -> Any:
    if path.suffix == ".json":
        raise _not_weights(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals(list(_allowed())):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle makes torch.load raise almost anything
        raise CheckpointError(f"{path} cannot be read as weights ({_reason(error)}).{_EXPECTED}") from error


_EXPECTED = (
    " Expected a state_dict in a .safetensors file, or one that torch.save wrote: torch.save(model.state_dict(), path)."
)


def _allowed() -> Iterator[Any]:
    """What may be unpickled beside tensors: the arguments of a script, and numbers of numpy."""
    yield argparse.Namespace
    with suppress(ImportError):
        import numpy as np
        from numpy._core.multiarray import scalar

        yield from (np.dtype, scalar, (scalar, "numpy.core.multiarray.scalar"))
        yield from {type(np.dtype(code)) for code in "?bBhHiIlLqQefdg"}


def _reason(error: Exception) -> str:
    """What stands against the file; torch's own text is a paragraph on weights_only=False, which nobody can set."""
    if not isinstance(error, UnpicklingError):
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    of = f", for it holds objects of {named[1]}" if named else ""
    return f"a pickled model rather than its state_dict{of}; or no file of torch's"


def _not_weights(path: Path) -> CheckpointError:
    import json

    with suppress(OSError, ValueError, AttributeError, KeyError, TypeError):
        shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        return CheckpointError(
            f"{path} is the index of weights in {len(shards)} files ({listed(shards)}), which are not put together "
            "here: load them in Python and save one state_dict."
        )
    return CheckpointError(f"{path} is JSON and holds no weights.{_EXPECTED}")


# Choosing


def _candidates(content: Any, path: str = "", depth: int = DEPTH) -> Iterator[Candidate]:
    """Every mapping with tensors, from the outside in."""
    if not isinstance(content, Mapping):
        return
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield Candidate(path, "", tensors)
    if depth:
        for key, value in content.items():
            yield from _candidates(value, f"{path}.{key}" if path else str(key), depth - 1)


def _chosen(content: Any, own: Mapping[str, Tensor], path: Path, key: str, name: str) -> Candidate:
    """The one state dict that fits the model by its names; where none does, the only one there is."""
    candidates = list(_candidates(content))
    if not candidates:
        raise _none(path, content)
    fitting = [fitted for one in candidates for fitted in _fitted(one, own)]
    if key:
        fitting = [one for one in fitting if one.key == key] or [one for one in fitting if one.path == key]
        candidates = [one for one in candidates if one.path == key] or [one for one in fitting if one.key == key]
        if not candidates:
            known = [one.key for one in _candidates(content) if one.key]
            raise CheckpointError(f"{path} has no weights at {key!r}. {_keys(known)}")
    if len(fitting) == 1:
        return fitting[0]
    if len(fitting) > 1:
        raise _several(path, fitting)
    nearest = max(candidates, key=lambda one: _overlap(one, own))
    _check_fit(own, _bare(nearest, own), path, name)
    raise AssertionError("what fits in no way was found to fit")


def _keys(known: Sequence[str]) -> str:
    return f"Its state dicts are at {', '.join(known)}." if known else "Its state dict is at the top: give no key."


def _several(path: Path, candidates: Sequence[Candidate]) -> CheckpointError:
    keys = [f"{path}:{one.key}" if one.key else f"{path} (its top)" for one in candidates]
    return CheckpointError(f"{path} holds {len(keys)} state dicts that may be meant. Choose one: {', '.join(keys)}.")


def _none(path: Path, content: Any) -> CheckpointError:
    kind = type(content).__name__
    return CheckpointError(f"{path} holds no state_dict but a {kind}: save model.state_dict() instead.")


def _fitted(one: Candidate, own: Mapping[str, Tensor]) -> list[Candidate]:
    """The candidate without the prefix with which it has all names of the model; several where several do."""
    marks = [key.removesuffix(PLAN) for key in one.tensors if key == PLAN or key.endswith(f".{PLAN}")]
    if marks:
        return [_without(one, prefix) for prefix in marks]
    needed = [key for key in own if not key.endswith("num_batches_tracked")] or list(own)
    if not needed:
        return []
    first = needed[0]
    prefixes = [key.removesuffix(first) for key in one.tensors if key == first or key.endswith(f".{first}")]
    fitting = [prefix for prefix in prefixes if all(prefix + key in one.tensors for key in needed)]
    return [_without(one, prefix) for prefix in ([""] if "" in fitting else fitting)]


def _without(one: Candidate, prefix: str) -> Candidate:
    inside = {key.removeprefix(prefix): value for key, value in one.tensors.items() if key.startswith(prefix)}
    others = tuple(key for key in one.tensors if not key.startswith(prefix))
    return Candidate(one.path, prefix, inside, others)


def _bare(one: Candidate, own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors without what wrappers put before all names, as far as that brings names of the model."""
    tensors = dict(one.tensors)
    while not own.keys() & tensors.keys():
        prefix = next((one for one in WRAPPERS if all(key.startswith(one) for key in tensors)), None)
        if prefix is None:
            return one.tensors
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors


def _overlap(one: Candidate, own: Mapping[str, Tensor]) -> int:
    return len(own.keys() & _bare(one, own).keys())


# What is said


def _said(chosen: Candidate, path: Path) -> tuple[str, ...]:
    parts = []
    if chosen.path:
        parts.append(f"{chosen.path!r} was taken")
    if chosen.prefix:
        parts.append(f"{chosen.prefix!r} was taken off before the names")
    if chosen.others:
        parts.append(f"{listed(chosen.others)} left out")
    return (f"Of {path}, {'; '.join(parts)}.",) if parts else ()


def _converted(module: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    own = module.state_dict()
    changes = sorted(
        {
            f"{_named(tensor)} to {_named(own[key])}"
            for key, tensor in tensors.items()
            if key in own and own[key].dtype != tensor.dtype
        }
    )
    return (f"Its numbers were converted from {', '.join(changes)}.",) if changes else ()


def _named(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


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
