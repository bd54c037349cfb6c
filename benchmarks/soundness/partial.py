"""Rewrites torchvision's detection, optical flow and quantizable models, in parts where needed.

`python -m benchmarks partial` prints the table and writes benchmarks/results/partial.csv. Each model is built without
weights, in float64 (RAFT, which computes positions in float32, in that), with 40 % of its gammas at 0, traced with
partial=True on one example, and rejuvenated to 1.0x of its params. Of a quantizable model the float form is rewritten;
the trace of its quantized form must raise an error that says so. Exit status 1: a model failed a check.
"""

import argparse
import copy
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torchvision import models

import nrfx
from benchmarks.command import RESULTS, add_models, parser_of, verdict, write
from benchmarks.networks import norms, with_dead_channels
from benchmarks.outputs import TOLERANCE, finite, leaves
from benchmarks.table import terminal
from benchmarks.timing import Environment
from nrfx.errors import NrfxError, TraceError
from nrfx.rewrite.compare import reference
from nrfx.tracing import TracedModule

TABLE = RESULTS / "partial.csv"
HEADINGS = (
    *("model", "form", "parts", "share", "live", "after", "difference"),
    *("traced", "outputs", "trains", "trace s", "ok"),
)


@dataclass(frozen=True)
class Case:
    """How to build a model, its inputs for a seed, and the targets that its train-mode forward takes besides.

    quantized: builds the quantized form, of which a trace must raise an error; None where there is no such form.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[int], Any]
    targets: Callable[[], Any] | None = None
    quantized: Callable[[], nn.Module] | None = None
    dtype: torch.dtype = torch.float64


@dataclass(frozen=True)
class Row:
    """The results for one model.

    Attributes:
        form: "parts", "whole", or "refused".
        parts: the submodules that are graphs.
        share: of the params, those inside of parts.
        params_exact: the report counts every parameter once.
        live, after: params utilization before and after.
        difference: the largest of any output of any part, relative to the largest value of that output.
        traced_equal: the outputs of the traced model are exactly those of the model.
        outputs_equal: those of the rewritten model are so to rounding, up to the order of detections with equal scores.
        trains: a train-mode forward and backward of the result gave finite gradients.
        refuses_quantized: a trace of the quantized form raises a TraceError that says so.
    """

    model: str
    form: str
    dtype: str = ""
    parts: tuple[str, ...] = ()
    share: float = 0.0
    params_exact: bool = False
    live: float = 0.0
    after: float = 0.0
    changed: bool = False
    difference: float = 0.0
    traced_equal: bool = False
    outputs_equal: bool = False
    trains: bool = False
    refuses_quantized: bool | None = None
    trace_seconds: float = 0.0
    note: str = ""
    torch: str = ""
    date: str = ""

    @property
    def passed(self) -> bool:
        """Whether every check held."""
        close = self.difference <= TOLERANCE[getattr(torch, self.dtype or "float64")]
        sound = self.params_exact and close and self.traced_equal and self.outputs_equal and self.trains
        return sound and self.form != "refused" and self.refuses_quantized is not False


def _images(count: int, height: int, width: int, seed: int) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _detection(name: str) -> Case:
    small: dict[str, Any] = {} if name.startswith("ssd") else {"min_size": 96, "max_size": 128}
    if "rcnn" in name:
        small["box_detections_per_img"] = 4

    def build() -> nn.Module:
        model: nn.Module = models.get_model(name, weights=None, weights_backbone=None, num_classes=5, **small)
        return model

    def targets() -> Any:
        target: dict[str, Tensor] = {
            "boxes": torch.tensor([[5.0, 5.0, 60.0, 60.0]], dtype=torch.float64),
            "labels": torch.ones(1, dtype=torch.int64),
        }
        if name.startswith("maskrcnn"):
            target["masks"] = torch.ones(1, 96, 120, dtype=torch.uint8)
        if name.startswith("keypointrcnn"):
            target["keypoints"] = torch.ones(1, 17, 3)
        return [target, dict(target)]

    return Case(build, lambda seed: ([*_images(2 if seed else 1, 96, 120, seed)],), targets)


def _flow(name: str) -> Case:
    def inputs(seed: int) -> tuple[Tensor, Tensor]:
        one, two = _images(2, 128, 128, seed).float().unsqueeze(1)
        return one, two

    return Case(lambda: models.get_model(name, weights=None), inputs, dtype=torch.float32)


def _quantizable(name: str) -> Case:
    options: dict[str, Any] = {"weights": None}
    if name.endswith(("googlenet", "inception_v3")):
        options["init_weights"] = False
    side = 299 if name.endswith("inception_v3") else 96

    return Case(
        lambda: models.get_model(name, quantize=False, **options),
        lambda seed: (_images(4 if seed else 1, side, side, seed),),
        quantized=lambda: models.get_model(name, quantize=True, **options),
    )


CASES: Mapping[str, Case] = {
    **{name: _detection(name) for name in models.list_models(models.detection)},
    **{name: _flow(name) for name in models.list_models(models.optical_flow)},
    **{name: _quantizable(name) for name in models.list_models(models.quantization)},
}


def checked(name: str, case: Case) -> Row:
    """The row of one model."""
    torch.manual_seed(0)

    def run(model: nn.Module, turn: int) -> None:
        model.eval()
        for _, norm in norms(model):
            norm.train()
        model(*case.inputs(turn))

    model = with_dead_channels(case.build().to(case.dtype), run, beta=0.1)
    started = time.perf_counter()
    try:
        gm = nrfx.trace(model, case.inputs(0), partial=True).eval()
    except NrfxError as error:
        return Row(name, "refused", note=str(error))
    row = replace(
        _analysed(name, model, gm, time.perf_counter() - started), dtype=str(case.dtype).removeprefix("torch.")
    )
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))
    given = case.inputs(0)
    return replace(
        row,
        after=result.after.params.ratio,
        changed=result.changed,
        difference=nrfx.verify(gm, result, given),
        traced_equal=_same_outputs(model, gm, given, exactly=True),
        outputs_equal=_same_outputs(reference(gm, result), result.module, given),
        trains=_trains(result.module, case),
        refuses_quantized=_refuses(case),
        note="" if result.changed else result.notes[0],
    )


def _analysed(name: str, model: nn.Module, gm: TracedModule, seconds: float) -> Row:
    paths = tuple(dict.fromkeys(part.path for part in gm.facts.parts))
    used = nrfx.utilization(gm)
    total = sum(parameter.numel() for parameter in model.parameters())
    inside = {p for path in paths for p in gm.get_submodule(path).parameters()} if paths else set(gm.parameters())
    return Row(
        *(name, "parts" if paths else "whole"),
        parts=paths,
        share=sum(parameter.numel() for parameter in inside) / total,
        params_exact=used.params.total == total,
        live=used.params.ratio,
        trace_seconds=seconds,
    )


def _same_outputs(before: nn.Module, after: nn.Module, inputs: Any, exactly: bool = False) -> bool:
    alike = torch.equal if exactly else _close
    with torch.no_grad():
        pair = [tree_leaves(_ordered(module.eval()(*inputs))) for module in (before, after)]
    return len(pair[0]) == len(pair[1]) and all(alike(a, b) for a, b in zip(*pair, strict=True))


def _close(a: Tensor, b: Tensor) -> bool:
    scale = float(a.double().abs().max()) if a.numel() else 0.0
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), 0, scale * TOLERANCE.get(a.dtype, 0.0))


def _ordered(output: Any) -> Any:
    """Detections in an order that rounding does not change: by their rounded scores, then by their boxes."""
    if not (isinstance(output, list) and output and isinstance(output[0], dict) and "boxes" in output[0]):
        return output
    return [_by_score(detections) for detections in output]


def _by_score(detections: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys = torch.cat([detections["scores"][:, None], detections["boxes"]], 1).round(decimals=6).tolist()
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return {name: value[order] for name, value in detections.items()}


def _trains(module: nn.Module, case: Case) -> bool:
    twin = copy.deepcopy(module).train()
    inputs = case.inputs(1)
    outputs = twin(*inputs, case.targets()) if case.targets is not None else twin(*inputs)
    torch.stack([value.double().sum() for value in leaves(outputs)]).sum().backward()
    gradients = [parameter.grad for parameter in twin.parameters() if parameter.grad is not None]
    return bool(gradients) and all(map(finite, gradients))


def _refuses(case: Case) -> bool | None:
    if case.quantized is None:
        return None
    with _quiet():
        try:
            model = case.quantized()
        except RuntimeError:  # no backend for quantized operations on this machine
            return None
    inputs = tree_map(lambda x: x.float(), case.inputs(0))
    try:
        nrfx.trace(model, inputs, partial=True)
    except TraceError as error:
        return "is quantized: trace the float model" in str(error)
    return False


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks each model, prints the table, writes the CSV of a run over all; 1 if a check failed, else 0."""
    options = _parser().parse_args(arguments)
    console, environment = Console(), Environment.here()
    rows = [
        replace(checked(name, CASES[name]), torch=environment.torch, date=environment.date)
        for name in track(options.models, "partial", console=console)
    ]
    console.print(terminal("Models in parts", HEADINGS, [_line(row) for row in rows], left=2))
    if list(options.models) == list(CASES):
        write({TABLE: rows}, console)
    return verdict([row.passed for row in rows], "models hold", console)


def _line(row: Row) -> tuple[str, ...]:
    numbers = (f"{row.share:.0%}", f"{row.live:.1%}", f"{row.after:.1%}", f"{row.difference:.0e}")
    answers = tuple("yes" if answer else "no" for answer in (row.traced_equal, row.outputs_equal, row.trains))
    passed = "yes" if row.passed else "NO"
    return (row.model, row.form, str(len(row.parts)), *numbers, *answers, f"{row.trace_seconds:.1f}", passed)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("partial", __doc__, "--models fcos_resnet50_fpn")
    add_models(parser, list(CASES))
    return parser
