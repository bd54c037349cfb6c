"""The examination of one model: all columns of its row, step by step, in a process of its own.

A step that fails adds its name and its error to the failures of the row; the steps that need no result of it go on.
Each step sends its columns to the parent process, so that a process that dies leaves the columns of the steps before.
"""

import gc
import re
import resource
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import isnan
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

import nrfx
from benchmarks import count
from benchmarks.coverage.dead import calibrate_traced, enliven, plant
from benchmarks.coverage.models import Entry
from benchmarks.coverage.row import RESIDUALS
from benchmarks.coverage.shares import shares
from benchmarks.networks import calibrate, without_dropout
from benchmarks.outputs import LISTENS, TOLERANCE, backward, evaluated, relative, training_facts, without_gradient
from benchmarks.timing import Environment, median_seconds
from nrfx.analysis.channels import Channels
from nrfx.analysis.spaces import channels_of
from nrfx.choices import Residual, Scheme

BUDGETS = ("1.0x", "middle")
SCHEMES: tuple[Scheme, ...] = ("attention", "dense", "removed")
HELPFUL = 0.05
"""Inserted scales are used where at least so much more of the layer params can change with them."""

LARGE = 200_000_000
"""Models with more params than this are checked in float32: memory must hold about eight copies of a model."""

Tell = Callable[[Mapping[str, Any]], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Subject:
    """A model with dead channels, and the facts that the checks compare with, found without nrfx.

    outputs: eval outputs on the images. trained: parameters that have a gradient in train mode. leaves: shapes of the
    train-mode outputs.
    """

    model: nn.Module
    images: Tensor
    outputs: tuple[Tensor, ...]
    trained: frozenset[str]
    leaves: tuple[tuple[int, ...], ...]

    @property
    def scaled(self) -> bool:
        """Whether the model is the traced network with inserted scales, not the plain one."""
        return isinstance(self.model, nrfx.TracedModule)

    @property
    def tolerance(self) -> float:
        return TOLERANCE[self.images.dtype]


class Examination:
    """The steps for one model. Each sends its columns by `tell`; `failures` collects what went wrong."""

    def __init__(self, entry: Entry, tell: Tell, repeats: int = 3) -> None:
        self.entry, self.send, self.repeats = entry, tell, repeats
        self.seed = sum(map(ord, entry.title))
        self.failures: list[str] = []
        self.flops_equal = False
        self.started = time.process_time()

    def tell(self, **values: Any) -> None:
        self.send(values)

    def attempt(self, name: str, work: Callable[[], T]) -> T | None:
        """The result of a step; None where the step raises an error, which becomes a failure of the row."""
        self.tell(step=name)
        gc.collect()  # graphs refer to their modules in circles; without it old networks stay in memory
        try:
            return work()
        except Exception as error:
            self.fail(f"{name}: {type(error).__name__}: {_brief(error)}")
            return None

    def fail(self, text: str) -> None:
        self.failures.append(text)
        self.tell(failures=self.failures)

    def law(self, name: str, holds: bool, text: str) -> bool:
        if not holds:
            self.fail(f"{name}: {text}")
        return holds

    def run(self) -> None:
        """Runs all steps in their order, without those that need the result of a step that failed."""
        before = self.prepared()
        if before is not None:
            self.rewrites(before)
        self.tell(seconds=time.process_time() - self.started)

    def prepared(self) -> Subject | None:
        """All steps before the rewrites; None if the model cannot be built, traced or given dead channels."""
        model = self.attempt("build", self.built)
        if model is None:
            return None
        images = self.entry.images(self.entry.batch, self.seed, next(model.parameters()).dtype)
        traced = self.attempt("trace", lambda: nrfx.trace(model, images))
        if traced is None:
            return None
        self.tell(traced=True, nodes=len(traced.graph.nodes))
        channels = self.attempt("channels", lambda: channels_of(traced))
        if channels is None:
            return None
        self.attempt("counts", lambda: self.counts(model, traced, images))
        self.attempt("analysis time", lambda: self.analysis(model, traced))
        self.attempt("shares", lambda: self.shares(model, channels))
        scaled = self.attempt("scales", lambda: self.scaled(model, traced, channels, images))
        return self.attempt("dead channels", lambda: self.subject(scaled or model, images, channels))

    def built(self) -> nn.Module:
        """The model in eval mode, without anything random in train mode, in float64 where memory allows."""
        torch.manual_seed(self.seed)
        model = self.entry.build().eval()
        without_dropout(model)
        enliven(model, torch.Generator().manual_seed(self.seed))
        params, environment = count.params(model), Environment.here()
        dtype = torch.float64 if params < LARGE else torch.float32
        self.tell(built=True, params=params, dtype=str(dtype).removeprefix("torch."))
        self.tell(torch=environment.torch, date=environment.date)
        model = model.to(dtype)
        with torch.no_grad():
            model(self.entry.images(1, self.seed, dtype))  # some build their tables of positions at the first one
        return model

    def counts(self, model: nn.Module, traced: nrfx.TracedModule, images: Tensor) -> None:
        usage = nrfx.utilization(traced)
        params, flops = count.params(model), count.flops(model, images)
        self.flops_equal = usage.flops.total == flops
        self.tell(
            flops=flops,
            params_equal=usage.params.total == params,
            flops_equal=usage.flops.total == flops,
            uncounted=len(usage.uncounted),
        )
        self.law("counts", usage.params.total == params, f"{usage.params.total:,} params, counted are {params:,}")
        first = f"; uncounted: {usage.uncounted[0]}" if usage.uncounted else ""
        self.law("counts", usage.flops.total == flops, f"{usage.flops.total:,} flops, counted are {flops:,}{first}")

    def analysis(self, model: nn.Module, traced: nrfx.TracedModule) -> None:
        try:
            least = median_seconds(lambda: fx.symbolic_trace(model), self.repeats)
        except Exception:  # whatever a model's forward raises when it is traced; then there is no ratio
            return
        self.tell(analysis=median_seconds(lambda: nrfx.utilization(traced), self.repeats) / least)

    def shares(self, model: nn.Module, channels: Channels) -> None:
        plain = shares(model, channels)
        self.tell(free=plain.free, mortal=plain.mortal, pins=plain.pins, scales=False)

    def scaled(
        self, model: nn.Module, traced: nrfx.TracedModule, channels: Channels, images: Tensor
    ) -> nrfx.TracedModule | None:
        """The network with inserted scales, where HELPFUL more of it can change with them; else None."""
        scaled = nrfx.insert_scales(traced)
        plain, other = shares(model, channels), shares(model, channels_of(scaled))
        self.tell(scaled=other.mortal)
        if other.mortal < plain.mortal + HELPFUL:
            return None
        self.tell(scales=True, pins=other.pins)
        difference = relative(evaluated(model, images), evaluated(scaled, images))
        self.law("scales", difference <= TOLERANCE[images.dtype], f"inserted, they change outputs by {difference:.1e}")
        return scaled

    def subject(self, model: nn.Module, images: Tensor, plain: Channels) -> Subject:
        """The network with dead channels and calibrated statistics. plain: the channels without inserted scales."""
        channels = channels_of(model) if isinstance(model, nrfx.TracedModule) else plain
        trained, leaves = training_facts(model, images)
        dead = plant(model, channels, torch.Generator().manual_seed(self.seed))
        several = self.entry.images(4 * self.entry.batch, self.seed + 1, images.dtype)
        if isinstance(model, nrfx.TracedModule):
            calibrate_traced(model, channels, several)
        else:
            calibrate(model, lambda model: model.train()(several))
        outputs = evaluated(model, images)
        others = evaluated(model, self.entry.images(self.entry.batch, self.seed + 2, images.dtype))
        listens = relative(outputs, others)
        self.tell(dead=dead, gammas=sum(layout.numel() for layout in channels.norms.values()), listens=listens)
        self.law("dead channels", listens > LISTENS, f"outputs change with the input by {listens:.1e} only")
        return Subject(model, images, outputs, trained, leaves)

    def rewrites(self, before: Subject) -> None:
        """Six rewrites: every residual setting with two budgets; the schemes take turns."""
        traced = self.attempt("trace with dead channels", lambda: self.retraced(before))
        if traced is not None:
            self.cases(before, traced)
        self.attempt("rewrites", lambda: self.untouched(before))

    def cases(self, before: Subject, traced: nrfx.TracedModule) -> None:
        done: list[Case] = []
        for index, (residual, budget) in enumerate(product(RESIDUALS, BUDGETS)):
            setting = Setting(residual, budget, SCHEMES[(index + self.seed) % len(SCHEMES)])
            case = self.attempt(setting.name, partial(self.rewrite, before, traced, setting))
            if case is not None:
                done.append(case)
                self.tell(**_columns(done))

    def retraced(self, before: Subject) -> nrfx.TracedModule:
        model = before.model
        return model if isinstance(model, nrfx.TracedModule) else nrfx.trace(model, before.images)

    def untouched(self, before: Subject) -> None:
        difference = relative(before.outputs, evaluated(before.model, before.images))
        self.law("rewrites", difference == 0, f"the original network was changed, its outputs by {difference:.1e}")

    def rewrite(self, before: Subject, traced: nrfx.TracedModule, setting: "Setting") -> "Case":
        usage = nrfx.utilization(traced, residual=setting.residual)
        live, total = usage.params.live, usage.params.total
        bound = total if setting.budget == "1.0x" else (live + total) // 2
        started = time.process_time()
        result = nrfx.rejuvenate(
            traced,
            nrfx.Budget(params=bound),
            scheme=setting.scheme,
            residual=setting.residual,
            generator=torch.Generator().manual_seed(self.seed),
        )
        seconds = time.process_time() - started
        difference = relative(before.outputs, evaluated(result.module, before.images))
        counted = (count.params(result.module), *self.flops_of(result.module, before.images))
        told = (result.after.params.total, result.after.flops.total)[: len(counted)]
        good = [
            self.law(setting.name, difference <= before.tolerance, f"outputs differ by {difference:.1e}"),
            self.law(setting.name, counted == told, f"(params, flops) are {counted}, result.after says {told}"),
            self.law(setting.name, counted[0] <= bound, f"{counted[0]:,} params exceed the budget of {bound:,}"),
            self.law(setting.name, result.changed or live == total, f"dead channels, but {' '.join(result.notes[:1])}"),
            *self.trains(setting.name, before, result),
            *self.folds(setting.name, before, result),
        ]
        return Case(
            setting,
            difference=difference,
            alpha=result.alpha,
            utilization=live / total,
            share=counted[0] / bound if result.changed else None,
            seconds=seconds,
            holds=all(good),
        )

    def flops_of(self, module: nn.Module, images: Tensor) -> tuple[int, ...]:
        """The flops; empty where nrfx miscounts the flops of the model before, which is one failure of the row."""
        return (count.flops(module, images),) if self.flops_equal else ()

    def trains(self, name: str, before: Subject, result: nrfx.Rejuvenation) -> list[bool]:
        leaves = backward(result.module, before.images)
        lost = without_gradient(result, before.trained)
        result.module.zero_grad()
        return [
            self.law(name, leaves == before.leaves, f"train-mode outputs are {leaves}, before {before.leaves}"),
            self.law(name, not lost, f"{len(lost)} parameters have no finite gradient, such as {lost[:3]}"),
        ]

    def folds(self, name: str, before: Subject, result: nrfx.Rejuvenation) -> list[bool]:
        """Whether folding the inserted scales keeps the outputs.

        The outputs are computed again, for `trains` has moved the running statistics.
        """
        if not before.scaled:
            return []
        expected = evaluated(result.module, before.images)
        difference = relative(expected, evaluated(nrfx.fold_scales(result.module), before.images))
        return [self.law(name, difference <= before.tolerance, f"outputs differ by {difference:.1e} once folded")]


@dataclass(frozen=True)
class Setting:
    """The options of one rewrite."""

    residual: Residual
    budget: str
    scheme: Scheme

    @property
    def name(self) -> str:
        return f"{self.residual}, {self.budget}, {self.scheme}"


@dataclass(frozen=True)
class Case:
    """The result of one rewrite. share: the part of the budget that is used, None where nothing changed."""

    setting: Setting
    difference: float
    alpha: float
    utilization: float
    share: float | None
    seconds: float
    holds: bool


def _columns(cases: list[Case]) -> dict[str, Any]:
    """The columns of the row that sum up the rewrites so far."""
    values: dict[str, Any] = {}
    for residual in RESIDUALS:
        own = [case for case in cases if case.setting.residual == residual]
        if own:
            differences = [case.difference for case in own]
            values[f"difference_{residual}"] = float("nan") if any(map(isnan, differences)) else max(differences)
            values[f"r_{residual}"] = own[0].utilization
        for case in own:
            if case.setting.budget == "1.0x":
                values[f"alpha_{residual}"] = case.alpha
    shares_used = [case.share for case in cases if case.share is not None]
    return values | {
        "share": min(shares_used, default=None),
        "cases": sum(case.holds for case in cases),
        "idle": sum(case.share is None for case in cases),
        "seconds_rewrite": sum(case.seconds for case in cases) / len(cases),
    }


def _brief(error: Exception) -> str:
    """The first line, for a cell of a table: files by their place in their package."""
    lines = str(error).strip().splitlines() or ["no message"]
    line = re.sub(r'"[^"]*/site-packages/', '"', lines[0])
    return re.sub(r"\s+", " ", line).replace("; ", ", ")[:300]


def examine(entry: Entry, tell: Tell, memory: int, seconds: float) -> None:
    """Examines one model on one thread.

    Args:
        tell: takes a mapping of some columns of the row, or {"step": name}.
        memory: bytes that this process may hold; an allocation beyond them fails.
        seconds: CPU time that this process may take; after it the system kills the process.
    """
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    gc.freeze()  # collecting garbage need not look at what was imported
    limit = int(time.process_time() + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    Examination(entry, tell).run()
