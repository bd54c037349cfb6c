"""Ways out of nrfx that do not exist."""

import torch
from torch import nn

import nrfx
from nrfx.errors import ExportError, RewriteError, TraceError
from tests import zoo
from tests.mistakes.broken import plain, traced
from tests.mistakes.row import on_disk, row

DEPLOY = {
    "exported to a suffix that is unknown": on_disk(
        traced, lambda gm, folder: nrfx.export(gm, folder / "net.tflite"), ExportError,
        "net.tflite: '.tflite' is unknown", "NAME.onnx", "NAME.pt2",
    ),
    "exported into a folder that is not there": on_disk(
        traced, lambda gm, folder: nrfx.export(gm, folder / "no" / "net.pt2"), ExportError, "there is no folder"
    ),
    "exported to no path": row(traced, lambda gm: nrfx.export(gm, None), ExportError, "The path is None", "NAME.onnx"),
    "exported without having been traced": on_disk(
        plain, lambda m, folder: nrfx.export(m, folder / "net.pt2"), TraceError, "Sequential is not traced",
        "pass example_inputs=",
    ),
    "applied to another model": row(
        zoo.resnet, lambda m: nrfx.apply(m, nrfx.compact(traced())), RewriteError, "not of this ResNet",
        "the model none", "Nothing was changed",
    ),
    "applied without a result": row(
        plain, lambda m: nrfx.apply(m, m), RewriteError, "it got a Sequential", "nrfx.rejuvenate or nrfx.compact"
    ),
    "applied to the traced module": row(
        traced, lambda gm: nrfx.apply(gm, nrfx.compact(gm)), RewriteError, "the model's own class", "result.module"
    ),
    "applied with inputs that do not fit": row(
        plain, lambda m: nrfx.apply(m, nrfx.compact(traced(m)), torch.zeros(2, 4, 16, 16)), RewriteError,
        "does not run on the inputs", "Nothing was changed",
    ),
    "a plain graph of a model whose layer has a name of graphs": row(
        lambda: nrfx.trace(_Named(), torch.zeros(2, 4)), nrfx.plain, ExportError, "'graph'", "Rename"
    ),
}  # fmt: skip


class _Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.graph = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.graph(x)
        return y
