"""Rejuvenates ResNet-18 under every scheme, exports it, and runs the files in onnxruntime and torch.export.

`python -m benchmarks exports` prints the table and writes benchmarks/results/exports.csv. Each network has 40 % of its
gammas at 0 and the multiply-adds of before; its files are run at batches 1 and 5, and an instance of torchvision's own
class gets the new layers. Exit status 1: an output of a file is more than 1e-4 from the network's, relative to the
largest or to 1, or the class gives anything else than the network.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

import nrfx
from benchmarks.command import RESULTS, add_models, parser_of, verdict, write
from benchmarks.networks import NETWORKS, Network, dying
from benchmarks.table import terminal
from benchmarks.timing import Environment, seconds
from nrfx.deploy.export import format_of
from nrfx.tracing import TracedModule

TABLE = RESULTS / "exports.csv"
SCHEMES = ("compact", "dense", "attention", "removed")
BATCHES = (1, 5)
ROUNDING = 1e-4
HEADINGS = ("model", "scheme", "MB", "onnx", "onnx s", "pt2", "pt2 s", "own class", "ok")


@dataclass(frozen=True)
class Row:
    """One network under one scheme.

    Attributes:
        megabytes: of the ONNX file.
        onnx, pt2: the largest difference of an output of the file from the network's, relative to the largest or to 1.
        onnx_seconds, pt2_seconds: CPU seconds to write the file and to check it.
        own_class: the same difference, of the model's own class with the new layers.
    """

    model: str
    scheme: str
    megabytes: float
    onnx: float
    onnx_seconds: float
    pt2: float
    pt2_seconds: float
    own_class: float
    torch: str
    date: str
    cpu: str

    @property
    def passed(self) -> bool:
        """Whether all agree."""
        return max(self.onnx, self.pt2) <= ROUNDING and self.own_class == 0


def examine(name: str, network: Network, scheme: str, folder: Path, environment: Environment) -> Row:
    """Rewrites the network, exports it and runs the files."""
    model = dying(network, 0.1, dtype=torch.float32)
    gm = nrfx.trace(model, network.images(2, 0, torch.float32))
    result = (
        nrfx.compact(gm)
        if scheme == "compact"
        else nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, flops=1.0), scheme=scheme)  # type: ignore[arg-type]
    )
    module = result.module.eval()
    images = [network.images(batch, batch, torch.float32) for batch in BATCHES]
    found = {}
    for suffix in (".onnx", ".pt2"):
        path = folder / f"{name}-{scheme}{suffix}"
        taken = seconds(partial(nrfx.export, module, path))
        run = format_of(path).runner(path)
        found[suffix] = max(difference(module, x, run([x])[0]) for x in images), taken, path.stat().st_size / 1e6
    own = nrfx.apply(model, result)
    with torch.no_grad():
        same = max(difference(module, x, own(x)) for x in images)
    (onnx, onnx_seconds, megabytes), (pt2, pt2_seconds, _) = found[".onnx"], found[".pt2"]
    told = environment.torch, environment.date, environment.cpu
    return Row(name, scheme, megabytes, onnx, onnx_seconds, pt2, pt2_seconds, same, *told)


@torch.no_grad()
def difference(module: TracedModule, x: Tensor, found: Tensor) -> float:
    """The largest difference from the network's output, relative to the largest output or to 1."""
    expected = module(x)
    return float((expected - found).abs().max()) / max(float(expected.abs().max()), 1.0)


def main(arguments: Sequence[str]) -> int:
    """Runs the benchmark; returns the exit status."""
    parser = parser_of("exports", __doc__, "--models resnet18")
    add_models(parser, list(NETWORKS))
    parser.set_defaults(models=["resnet18"])
    options = parser.parse_args(arguments)
    console, environment = Console(), Environment.here()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            rows += [examine(name, NETWORKS[name], scheme, Path(folder), environment) for scheme in SCHEMES]
    console.print(terminal(f"Exports ({environment})", HEADINGS, map(_cells, rows), left=2))
    if options.models == ["resnet18"]:
        write({TABLE: rows}, console)
    return verdict([row.passed for row in rows], "networks agree with their files and their class", console)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        *(row.model, row.scheme, f"{row.megabytes:.1f}", f"{row.onnx:.1e}", f"{row.onnx_seconds:.1f}"),
        *(f"{row.pt2:.1e}", f"{row.pt2_seconds:.1f}", f"{row.own_class:.1e}", "yes" if row.passed else "NO"),
    )
