"""The examination of one model: the columns of its row, step by step, and the checks that every catalogue makes.

A step that fails adds its name and its error to the failures of the row; the steps that need no result of it go on.
Each step sends its columns to the parent process, so that a process that dies leaves the columns of the steps before.
"""

import gc
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import nrfx
from benchmarks import count
from benchmarks.coverage.dead import enliven
from benchmarks.coverage.model import Model, drawn
from benchmarks.coverage.shares import shares
from benchmarks.networks import without_dropout
from benchmarks.outputs import TOLERANCE, evaluated, relative
from benchmarks.timing import Environment
from nrfx.analysis.spaces import channels_of
from nrfx.choices import Residual, Scheme
from nrfx.errors import NrfxError

SCHEMES: tuple[Scheme, ...] = ("attention", "dense", "removed")
HELPFUL = 0.05
"""Inserted scales are used where at least so much more of the params of layers can change with them."""

LARGE = 200_000_000
"""Models with more params than this are checked in float32: memory must hold about eight copies of a model."""

Inputs = tuple[Tensor, ...]
Tell = Callable[[dict[str, Any]], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Subject:
    """A network with dead channels, and its eval outputs before any rewrite, computed without nrfx where it is plain.

    module: the model, or the traced network with inserted scales. flops_equal: whether nrfx counts its flops right.
    """

    module: nn.Module
    traced: nrfx.TracedModule
    inputs: Inputs
    outputs: tuple[Tensor, ...]
    flops_equal: bool

    @property
    def scaled(self) -> bool:
        """Whether the network has inserted scales."""
        return isinstance(self.module, nrfx.TracedModule)

    @classmethod
    def of(cls, module: nn.Module, traced: nrfx.TracedModule, inputs: Inputs) -> "Subject":
        return cls(module, traced, inputs, evaluated(module, *inputs), _counts_flops(traced, inputs))


@dataclass(frozen=True)
class Rewritten:
    """A rewrite. difference: of the eval outputs. params: as counted. seconds: CPU time. holds: all checks."""

    result: nrfx.Rejuvenation
    difference: float
    params: int
    seconds: float
    holds: bool


class Examination:
    """The steps for one model. Each sends its columns by `tell`; `failures` collects what went wrong."""

    def __init__(self, model: Model, tell: Tell) -> None:
        self.model, self.send = model, tell
        self.seed = sum(map(ord, model.title))
        self.failures: list[str] = []

    def tell(self, **columns: Any) -> None:
        self.send(columns)

    def attempt(self, name: str, work: Callable[[], T]) -> T | None:
        """The result of a step; None where the step raises an error, which becomes a failure of the row."""
        self.tell(step=name)
        gc.collect()  # graphs refer to their modules in circles; without it old networks stay in memory
        try:
            return work()
        except Exception as error:  # whatever a model of a package raises
            self.fail(f"{name}: {type(error).__name__}: {brief(error)}")
            return None

    def fail(self, text: str) -> None:
        self.failures.append(text)
        self.tell(failures=self.failures)

    def law(self, name: str, holds: bool, text: str) -> bool:
        if not holds:
            self.fail(f"{name}: {text}")
        return holds

    def close(self, name: str, difference: float, dtype: torch.dtype, when: str = "") -> bool:
        """Whether outputs agree to rounding."""
        return self.law(name, difference <= TOLERANCE[dtype], f"outputs differ by {difference:.1e}{when}")

    def run(self) -> None:
        """Runs all steps in their order, without those that need the result of a step that failed."""
        started, here = time.process_time(), Environment.here()
        self.tell(torch=here.torch, date=here.date)
        module = self.attempt("build", self.built)
        if module is not None:
            self.examined(module, self.drawn(dtype_of(module)))
        self.tell(seconds=time.process_time() - started)

    def examined(self, module: nn.Module, inputs: Inputs) -> None:
        """The steps behind the construction of the model."""
        raise NotImplementedError

    def drawn(self, dtype: torch.dtype) -> Inputs:
        return drawn(self.model.inputs, self.seed, dtype)

    def built(self) -> nn.Module:
        """The model in eval mode without anything random in train mode, in float64 where it and the memory allow."""
        try:
            return self._built(torch.float64)
        except RuntimeError:  # it makes float32 tensors on its way
            return self._built(torch.float32)

    def _built(self, dtype: torch.dtype) -> nn.Module:
        torch.manual_seed(self.seed)
        module = self.model.build().eval()
        params = count.params(module)
        dtype = dtype if params < LARGE else torch.float32
        module = module.to(dtype)
        without_dropout(module)
        enliven(module, torch.Generator().manual_seed(self.seed))
        evaluated(module, *self.drawn(dtype))  # some build their tables of positions at the first forward
        self.tell(params=params, dtype=str(dtype).removeprefix("torch."))
        return module

    def counts(self, module: nn.Module, traced: nrfx.TracedModule, inputs: Inputs) -> None:
        """Compares what nrfx counts with what is counted without it; flops where the model is one graph."""
        usage, params = nrfx.utilization(traced), count.params(module)
        self.tell(params_equal=usage.params.total == params, uncounted=len(usage.uncounted))
        self.law("counts", usage.params.total == params, f"{usage.params.total:,} params, counted are {params:,}")
        if not traced.facts.parts:
            flops = count.flops(module, inputs)
            if any("multiplied with each other" in note for note in usage.notes):  # one example is no measure then
                flops = count.flops_of_batch(module, inputs) // len(inputs[0])
            self.tell(flops=flops, flops_equal=usage.flops.total == flops)
            first = f", uncounted: {usage.uncounted[0]}" if usage.uncounted else ""
            self.law("counts", usage.flops.total == flops, f"{usage.flops.total:,} flops, counted are {flops:,}{first}")

    def scales(self, module: nn.Module, traced: nrfx.TracedModule, inputs: Inputs) -> nrfx.TracedModule | None:
        """The network with inserted scales, where HELPFUL more of it can change with them; else None."""
        plain = shares(module, channels_of(traced))
        self.tell(free=plain.free, mortal=plain.mortal, pins=tuple(map(brief, plain.pins)))
        scaled = nrfx.insert_scales(traced)
        difference = relative(evaluated(module, *inputs), evaluated(scaled, *inputs))
        self.close("scales", difference, dtype_of(module), " with scales inserted")
        other = shares(module, channels_of(scaled))
        self.tell(scaled=other.mortal)
        return scaled if other.mortal >= plain.mortal + HELPFUL else None

    def rewritten(self, name: str, before: Subject, scheme: Scheme, residual: Residual, bound: int) -> Rewritten:
        """The network rewritten to at most `bound` params: outputs, counts and budget are checked."""
        failed, started = len(self.failures), time.process_time()
        result = nrfx.rejuvenate(
            before.traced,
            nrfx.Budget(params=bound),
            scheme=scheme,
            residual=residual,
            generator=torch.Generator().manual_seed(self.seed),
        )
        seconds = time.process_time() - started
        after, dtype = evaluated(result.module, *before.inputs), dtype_of(before.module)
        difference = relative(before.outputs, after)
        self.close(name, difference, dtype)
        params, told = count.params(result.module), result.after.params.total
        self.law(name, params == told, f"{params:,} params, result.after says {told:,}")
        self.law(name, params <= bound, f"{params:,} params exceed the budget of {bound:,}")
        if before.flops_equal:
            flops, told = count.flops(result.module, before.inputs), result.after.flops.total
            self.law(name, flops == told, f"{flops:,} flops, result.after says {told:,}")
        if before.scaled:
            folded = evaluated(nrfx.fold_scales(result.module), *before.inputs)
            self.close(name, relative(after, folded), dtype, " once folded")
        return Rewritten(result, difference, params, seconds, len(self.failures) == failed)


def _counts_flops(traced: nrfx.TracedModule, inputs: Inputs) -> bool:
    if traced.facts.parts:
        return False
    try:
        return count.flops(traced, inputs) == nrfx.utilization(traced).flops.total
    except NrfxError:  # one example is a size that the graph refuses
        return False


def dtype_of(module: nn.Module) -> torch.dtype:
    return next(p.dtype for p in module.parameters() if p.is_floating_point())


def brief(error: Exception | str) -> str:
    """The first three lines in one, for a cell of a table: files by their place in their package."""
    lines = str(error).strip().splitlines() or ["no message"]
    line = re.sub(r'(File )?"?/[^" ]*/site-packages/', "", " ".join(lines[:3]))
    return re.sub(r"\s+", " ", line).replace("; ", ", ").replace("|", "/")[:300]
