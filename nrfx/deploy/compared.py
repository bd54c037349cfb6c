"""A file of an exported network, compared with the network: on the traced sizes and on others that are free."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nrfx.deploy.formats import Format, Run
from nrfx.errors import ExportError, TraceError
from nrfx.nests import tensors_of
from nrfx.rewrite.other_sizes import other_sizes
from nrfx.tracing import TracedModule
from nrfx.tracing.recording.draws import drawing_from

TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest difference of an output, relative to its largest value or to 1 if that is smaller; 1e-4 for other dtypes."""


class Comparison(NamedTuple):
    """How a file agrees with its network; the fields are those of `Exported`."""

    difference: float | None = None
    compared: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


UNCHECKED = Comparison(notes=("The file was not compared with the network: check=False.",))


def outputs_of(traced: TracedModule, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """The tensors of the network's result, by path. It is in eval mode, and draws start from one state."""
    args, kwargs = traced.facts.call([x.clone() for x in inputs])
    with torch.no_grad(), drawing_from(seed=0):
        return tensors_of(traced(*args, **kwargs))


def compared(
    kind: Format, file: Path, traced: TracedModule, inputs: Sequence[Tensor], free: Sequence[Tensor], path: Path
) -> Comparison:
    """Runs the file and the network on the inputs and on others whose sizes are free in the file.

    Args:
        free: what stands for each input in the program; a free size is a symbol.
        path: where the file will be, for messages.

    Raises:
        ExportError: an output differs, or the file does not run on the inputs or on another batch.
    """
    if not kind.can_run:
        return Comparison(notes=(f"Not compared with the network: {kind.runs_by} is not installed.",))
    if kind.runs_by != "torch" and any(x.dtype is torch.bfloat16 for x in inputs):
        return Comparison(notes=("Not compared with the network: numpy, which hands over inputs, has no bfloat16.",))
    run = _loaded(kind, file, path)
    found: list[tuple[str, float]] = []
    refused: list[str] = []
    for size, given in ((_shapes(inputs), inputs), *_others(inputs, free)):
        try:
            expected = outputs_of(traced, given)
        except (*_REFUSALS, TraceError):
            continue  # the network does not take this size either
        try:
            actual = run(given)
        except Exception as error:  # onnxruntime raises classes of its own
            first = (str(error).strip().splitlines() or ["no message"])[0]
            if _is_batch(inputs, given):
                raise ExportError(f"{path} does not run on {size}, where the network does: {first}") from error
            refused.append(f"{size}: {first}")
            continue
        found.append((size, _difference(expected, actual, f"{path}, on {size}")))
    lines = tuple(f"the file and the network on {size}: {difference:.1e}" for size, difference in found)
    return Comparison(max(difference for _, difference in found), lines, tuple(refused))


_REFUSALS = (RuntimeError, TypeError, ValueError, LookupError, AssertionError, AttributeError, ArithmeticError)
"""What a network raises for inputs that it does not take."""


def _loaded(kind: Format, file: Path, path: Path) -> Run:
    try:
        return kind.runner(file)
    except Exception as error:  # each format raises classes of its own
        first = (str(error).strip().splitlines() or ["no message"])[0]
        raise ExportError(
            f"{path}: {kind.runs_by} cannot load the file ({first}). Nothing was written; check=False writes it "
            "all the same."
        ) from error


def _shapes(inputs: Sequence[Tensor]) -> str:
    return ", ".join(str(list(x.shape)) for x in inputs)


def is_number(size: Any) -> bool:
    """Whether a size in an exported program is one number."""
    if isinstance(size, int):
        return True
    from torch.fx.experimental.symbolic_shapes import is_concrete_int  # noqa: PLC0415  half a second, and loaded by now

    return bool(is_concrete_int(size))


def _others(inputs: Sequence[Tensor], free: Sequence[Tensor]) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """(shapes, inputs) of other sizes, as far as those that change are free."""
    for size, (args, _) in other_sizes((tuple(inputs), {})):
        changed = [
            is_number(free[index].shape[dim])
            for index, (old, new) in enumerate(zip(inputs, args, strict=True))
            for dim in range(old.dim())
            if old.shape[dim] != new.shape[dim]
        ]
        if changed and not any(changed):
            yield size, args


def _is_batch(inputs: Sequence[Tensor], given: Sequence[Tensor]) -> bool:
    """Whether nothing but the batch differs."""
    return all(old.shape[1:] == new.shape[1:] for old, new in zip(inputs, given, strict=True))


def _difference(expected: dict[str, Tensor], actual: Sequence[Tensor], place: str) -> float:
    if len(expected) != len(actual):
        raise ExportError(f"{place}: it gives {len(actual)} tensors, and the network {len(expected)}.")
    return max((_of_one(name, x, y, place) for (name, x), y in zip(expected.items(), actual, strict=True)), default=0.0)


def _of_one(name: str, expected: Tensor, actual: Any, place: str) -> float:
    expected = expected.detach().cpu()
    if expected.shape != actual.shape:
        raise ExportError(f"{place}: {name} is {list(actual.shape)}, and in the network {list(expected.shape)}.")
    if not expected.numel():
        return 0.0
    kind = torch.complex128 if expected.is_complex() else torch.float64
    same = expected.to(kind), actual.detach().to(kind)
    scale = max(float(same[0].abs().max()), 1.0)
    difference = float((same[0] - same[1]).abs().max()) / scale
    tolerance = TOLERANCE.get(expected.dtype, 1e-4)
    if not difference <= tolerance:  # so that NaN fails
        raise ExportError(
            f"{place}: {name} differs from the network's by {difference:.2e}, relative to its largest value or to 1; "
            f"rounding explains {tolerance:.0e}. Nothing was written."
        )
    return difference
