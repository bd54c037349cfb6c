# ruff: noqa: PLC0415  the packages of the extra take seconds to import, and may be missing
"""The two formats that a network is written in, and how a file of each is run again.

.onnx    ONNX, for onnxruntime and what else reads it
.pt2     a program of torch.export, for `torch.export.load`, AOTInductor and ExecuTorch
"""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nrfx.errors import ExportError

Run = Callable[[Sequence[Tensor]], list[Tensor]]
"""Runs a file on input tensors, on any device; gives the outputs on the CPU."""


@dataclass(frozen=True)
class Names:
    """What a file calls its inputs and outputs, in order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Format:
    """A format of files.

    Attributes:
        title: what it is called in sentences.
        needs: the packages without which no file can be written.
        runs_by: the package that runs a file.
        write: (program, file, names) -> the file, and perhaps others beside it.
        runner: file -> what runs it.
    """

    title: str
    needs: tuple[str, ...]
    runs_by: str
    write: Callable[[torch.export.ExportedProgram, Path, Names], None]
    runner: Callable[[Path], Run]

    def check_installed(self, path: Path) -> None:
        """Raises ExportError where a package is missing that the format needs."""
        missing = [package for package in self.needs if find_spec(package) is None]
        if missing:
            are = "are" if len(missing) > 1 else "is"
            raise ExportError(
                f"{path} needs {' and '.join(missing)}, which {are} not installed: pip install 'nrfx[export]'."
            )

    @property
    def can_run(self) -> bool:
        """Whether the package that runs a file is installed."""
        return find_spec(self.runs_by) is not None


def _write_onnx(program: torch.export.ExportedProgram, path: Path, names: Names) -> None:
    with quiet():
        written = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=names.inputs, output_names=names.outputs
        )
        assert written is not None
        written.save(path)


def _run_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        arrays = [x.cpu().numpy() for x in inputs]
        return [torch.from_numpy(y) for y in session.run(None, dict(zip(names, arrays, strict=True)))]

    return run


def _write_pt2(program: torch.export.ExportedProgram, path: Path, names: Names) -> None:
    del names  # a program is called by position
    with quiet():
        torch.export.save(program, path)


def _run_pt2(path: Path) -> Run:
    with quiet():
        module = torch.export.load(path).module()

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        outputs: Any = module(*inputs)
        return [x.detach().cpu() for x in (outputs if isinstance(outputs, tuple | list) else [outputs])]

    return run


FORMATS: Mapping[str, Format] = {
    ".onnx": Format("ONNX", ("onnx", "onnxscript"), "onnxruntime", _write_onnx, _run_onnx),
    ".pt2": Format("torch.export", (), "torch", _write_pt2, _run_pt2),
}
"""The format of each suffix."""


_EXPORT = ("torch.export", "torch._export", "torch.fx.experimental.symbolic_shapes")
"""Loggers of torch.export."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps to itself what torch and onnxscript tell of their own insides, in warnings, logs and prints."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "torch.onnx", "onnx_ir", *_EXPORT)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
