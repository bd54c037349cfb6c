"""A network written to a file that runs without nrfx, and checked against the network before the file is there.

torch.export records the network in eval mode on its example inputs, with the batch free; cross layers are plain
operations there, whatever kernels run them otherwise. From this program the file is made (formats.py). The file is
written in a folder of its own, run on drawn inputs of the traced and of other sizes, and moved to its place only if it
gives what the network gives.

Not handled: custom operators of the user's own in ONNX, boxes whose code depends on values, and models traced in parts.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from nrfx.choices import Free
from nrfx.deploy.compared import UNCHECKED, compared, is_number, outputs_of
from nrfx.deploy.formats import FORMATS, Format, Names, quiet
from nrfx.errors import ExportError, TraceError
from nrfx.nests import tensors_of
from nrfx.rewrite.compare import evaluating
from nrfx.rewrite.drawn import drawn
from nrfx.tracing import PartialModule, TracedModule, as_traced
from nrfx.tracing.graph.module import as_parameters
from nrfx.tracing.graph.walk import Contents


@dataclass(frozen=True)
class Exported:
    """A file that `nrfx.export` wrote, and what is known of it.

    Attributes:
        path: the file. Weights of 2 GB and more lie beside it, in a file of the same name with `.data` behind.
        format: "ONNX" or "torch.export".
        inputs: name, shape and dtype of each input; what is free has a name instead of a number.
        outputs: the names of the outputs.
        difference: the largest difference from the network, on all inputs that were compared; None where none were.
        compared: a line for each comparison.
        refused: a line for each size that the network takes and the file does not.
        notes: sentences on what was not done.

    >>> import nrfx, tempfile
    >>> gm = nrfx.trace(nn.Linear(3, 2), torch.zeros(1, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     exported = nrfx.export(gm, f"{folder}/net.pt2")
    >>> exported.format, exported.outputs, exported.difference
    ('torch.export', ('output',), 0.0)
    """

    path: Path
    format: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    difference: float | None
    compared: tuple[str, ...]
    refused: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.path} ({self.format})", *(f"  in   {line}" for line in self.inputs)]
        lines += [f"  out  {', '.join(self.outputs)}", *(f"  {line}" for line in self.compared)]
        lines += [f"  Not taken by the file: {line}" for line in self.refused]
        return "\n".join([*lines, *self.notes])


def export(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    free: Free = "batch",
    check: bool = True,
    example_inputs: Any = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Exported:
    """Writes the network in eval mode as ONNX (`.onnx`) or as a program of torch.export (`.pt2`).

    The file takes the tensors of the call in order (`module.inputs`) and gives the tensors of the result in order. It
    is there only if it agrees with the network, to 1e-4, on the traced batch and on two others. A file of that name is
    replaced. ONNX needs the extra: `pip install 'nrfx[export]'`.

    Args:
        module: what `nrfx.trace`, a rewrite or `nrfx.load` gave; or any module, with example_inputs. It is not changed.
        path: the file; its folder must exist.
        free: which sizes other inputs may have. "batch": the first, of all inputs that share it; "sizes": also each
            height, width and length that the network leaves free; "none": nothing.
        check: run the file and compare. ONNX is run by onnxruntime; without it a note says that nothing was compared.
        example_inputs, kwargs: the arguments of a call, for a module that is not traced.

    Raises:
        ExportError: an unknown suffix, no such folder, a missing package, a call that cannot be exported, or a file
            that differs from the network. No file was written.

    >>> import nrfx, tempfile
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> gm = nrfx.trace(net, torch.zeros(1, 3, 4, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     exported = nrfx.export(gm, f"{folder}/net.pt2")
    ...     again = torch.export.load(exported.path).module()
    >>> exported.inputs, again(torch.zeros(5, 3, 4, 4)).shape
    (('input [batch, 3, 4, 4] float32',), torch.Size([5, 4, 4, 4]))
    """
    if not isinstance(path, str | os.PathLike):
        raise ExportError(f"The path is {path!r}; expected the name of a file, NAME.onnx or NAME.pt2.")
    place = Path(path)
    kind = format_of(place)
    _check_free(free)
    traced = as_traced(module, example_inputs, kwargs)
    with evaluating(traced), torch.no_grad():
        network, inputs = _Network(traced), _example(traced)
        named = _input_names(traced)
        names = Names(named, _output_names(tuple(outputs_of(traced, inputs)), named))
        program = _program(network, inputs, free, place)
        with _folder_beside(place) as folder:
            file = folder / place.name
            _write(kind, program, file, names, place)
            found = compared(kind, file, traced, inputs, _placeholders(program), place) if check else UNCHECKED
            for each in sorted(folder.iterdir(), key=lambda each: each == file):  # what it refers to comes first
                os.replace(each, place.parent / each.name)
    return Exported(place, kind.title, _shown(named, program), names.outputs, *found)


def format_of(path: Path) -> Format:
    """The format of a file by its suffix, where it can be written.

    Raises:
        ExportError: an unknown suffix, a folder of that name, no folder to write into, or a missing package.
    """
    kind = FORMATS.get(path.suffix)
    if kind is None:
        has = f"{path.suffix!r} is unknown" if path.suffix else "there is no suffix"
        raise ExportError(f"{path}: {has}. Write NAME.onnx for ONNX, or NAME.pt2 for torch.export.")
    if path.is_dir():
        raise ExportError(f"{path} is a folder; expected the name of a file.")
    if not path.parent.is_dir():
        raise ExportError(f"{path} cannot be written: there is no folder {path.parent}.")
    if not os.access(path.parent, os.W_OK):
        raise ExportError(f"{path} cannot be written: permission denied in {path.parent.absolute()}.")
    kind.check_installed(path)
    return kind


def _check_free(free: str) -> None:
    if free not in get_args(Free):
        raise ExportError(f"free is {free!r}; expected one of {', '.join(map(repr, get_args(Free)))}.")


class _Network(nn.Module):
    """The network as a function of tensors that gives tensors; what it registers has the names of the network."""

    def __init__(self, traced: TracedModule) -> None:
        super().__init__()
        own = {key: vars(traced)[key] for key in ("_modules", "_parameters", "_buffers", "training")}
        self.__dict__.update(own, _nrfx_traced=(traced,))

    def forward(self, *tensors: Tensor) -> Any:
        (traced,) = self.__dict__["_nrfx_traced"]
        args, kwargs = traced.facts.call(tensors)
        found = tuple(tensors_of(traced(*args, **kwargs)).values())
        return found[0] if len(found) == 1 else found


def _input_names(traced: TracedModule) -> tuple[str, ...]:
    inputs = [node for node in traced.graphs["eval"].nodes if node.op == "placeholder"]
    # the name of a node is another one where Python has a function of that name (`input`)
    names = tuple(str(node.target) if str(node.target).isidentifier() else node.name for node in inputs)
    # parts of a model have graphs of their own, and the whole has none
    return names if len(names) == len(traced.inputs) else tuple(f"x{index}" for index in range(len(traced.inputs)))


def _output_names(paths: Sequence[str], inputs: Sequence[str]) -> tuple[str, ...]:
    """Names without brackets, none of them twice and none of an input.

    >>> _output_names(["['logits']", "[1][0]", "x"], ["x"])
    ('logits', 'output_1_0', 'output_x')
    """
    names: list[str] = []
    for path in paths:
        name = "_".join(re.findall(r"\w+", path)) or "output"
        while name in (*inputs, *names) or not name.isidentifier():
            name = f"output_{name}"
        names.append(name)
    return tuple(names)


def _example(traced: TracedModule) -> tuple[Tensor, ...]:
    """Drawn inputs of the traced sizes."""
    device = next((tensor.device for tensor in (*traced.parameters(), *traced.buffers())), torch.device("cpu"))
    return tuple(drawn(as_parameters(Contents.of(traced), traced.inputs), device))


def _batch(inputs: Sequence[Tensor]) -> int | None:
    """The size of the batch: the first of the input with the most dims; None where no input has two."""
    largest = max(inputs, key=Tensor.dim, default=None)
    return largest.shape[0] if largest is not None and largest.dim() > 1 else None


def _program(network: _Network, inputs: Sequence[Tensor], free: Free, path: Path) -> torch.export.ExportedProgram:
    """The network as torch.export records it.

    Raises:
        ExportError: torch.export refuses the network, or a size that shall be free is fixed in it.
    """
    batch = None if free == "none" else _batch(inputs)
    if batch == 1:  # torch.export takes a size of one for a constant
        inputs = tuple(torch.cat([x, x]) if x.dim() and x.shape[0] == 1 else x for x in inputs)
    dims = [_free_dims(x, 2 if batch == 1 else batch, free) for x in inputs]
    try:
        with quiet():
            return torch.export.export(network, tuple(inputs), dynamic_shapes={"tensors": tuple(dims)})
    except Exception as error:  # torch.export raises of many kinds; the sentence says where the network stops
        raise ExportError(f"{path}: {_refusal(network, free, error)} Nothing was written.") from error


@cache
def _dim_of_examples() -> Any:
    """Made when asked for: it loads sympy, half a second."""
    return torch.export.Dim("batch")


def _free_dims(x: Tensor, batch: int | None, free: Free) -> dict[int, Any]:
    if free == "none" or not x.dim():
        return {}
    dims: dict[int, Any] = {}
    if free == "sizes":
        dims = dict.fromkeys(range(1, x.dim()), torch.export.Dim.AUTO)
    return {0: _dim_of_examples(), **dims} if x.shape[0] == batch else dims


def _refusal(network: _Network, free: Free, error: Exception) -> str:
    """What torch.export found, with the boxes of the graph, which it most often stumbles over."""
    (traced,) = network.__dict__["_nrfx_traced"]
    if isinstance(traced, PartialModule):
        return f"the model was traced in parts, whose code torch.export cannot record ({told(error)}). Export a part."
    boxes = [node for node in traced.graphs["eval"].nodes if "opaque" in node.meta]
    if boxes:
        named = ", ".join(f"{node.name} ({getattr(node.target, '__qualname__', node.target)})" for node in boxes[:3])
        many = "are opaque calls" if len(boxes) > 1 else "is an opaque call"
        return f"{named} {many}, which torch.export cannot record ({told(error)}). Export what is before it."
    if isinstance(error, TraceError) or "batch" in str(error):
        return (
            f"the network fixes a size that shall be free ({told(error)}). free='none' writes it for this size alone."
        )
    return f"torch.export cannot record the network ({told(error)})."


def told(error: BaseException) -> str:
    """The kind of an error and the first line that says something, of the error that caused all others.

    torch.export lists sizes that were found fixed in lines that begin with a dash.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    dashed = [line.lstrip("- ") for line in lines if line.startswith("- ")]
    return f"{type(error).__name__}: {(dashed or lines or ['no message'])[0].partition('. ')[0].rstrip('.')}"


def _write(kind: Format, program: torch.export.ExportedProgram, file: Path, names: Names, path: Path) -> None:
    try:
        kind.write(program, file, names)
    except Exception as error:  # the exporter raises of many kinds, for operations that the format does not have
        raise ExportError(
            f"{path}: {kind.title} cannot hold the network ({told(error)}). Nothing was written."
        ) from error


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """A folder on the same disk, from which a file moves in one step; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        yield Path(folder)


def _shown(names: Sequence[str], program: torch.export.ExportedProgram) -> tuple[str, ...]:
    """Name, shape and dtype of each input."""
    lines = []
    for name, x in zip(names, _placeholders(program), strict=True):
        sizes = [_size(size, name, dim) for dim, size in enumerate(x.shape)]
        lines.append(f"{name} [{', '.join(sizes)}] {str(x.dtype).removeprefix('torch.')}")
    return tuple(lines)


def _size(size: Any, name: str, dim: int) -> str:
    if is_number(size):
        return str(int(size))
    return "batch" if dim == 0 else f"{name}_{dim}"


def _placeholders(program: torch.export.ExportedProgram) -> list[Tensor]:
    """What stands for each input in the program; a free size is a symbol."""
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    return [values[name] for name in program.graph_signature.user_inputs if isinstance(name, str)]
