"""The examination of one model of the field: all columns of its row, step by step.

A refusal at the trace (a TraceError) is a result; every other error, of nrfx or not, is a failure of the row with the
name of its step, and the steps that need no result of it go on.
"""

import gc
import re
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import nrfx
from benchmarks import count
from benchmarks.coverage.dead import enliven, plant
from benchmarks.coverage.field.model import Model, Spec, drawn, in_batch
from benchmarks.coverage.shares import shares
from benchmarks.networks import calibrate, norms, without_dropout
from benchmarks.outputs import TOLERANCE, leaves
from benchmarks.timing import Environment
from nrfx.analysis.spaces import channels_of
from nrfx.choices import Residual, Scheme
from nrfx.errors import NrfxError, TraceError

SCHEMES: tuple[Scheme, ...] = ("attention", "dense", "removed")
RESIDUALS: tuple[Residual, ...] = ("live", "coupled", "fixed")
HELPFUL = 0.05
"""The network with scales is rewritten too where at least so much more of its params can change with them."""

Tell = Callable[[Mapping[str, Any]], None]
Inputs = tuple[Tensor, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Subject:
    """A model with dead channels, its traced form, and its inputs in both sizes; the two share their parameters."""

    model: nn.Module
    traced: nrfx.TracedModule
    inputs: Inputs
    others: Inputs


class Examination:
    """The steps for one model. Each sends its columns by `tell`; `failures` collects what went wrong."""

    def __init__(self, entry: Model, tell: Tell) -> None:
        self.entry, self.tell = entry, tell
        self.seed = sum(map(ord, entry.title))
        self.failures: list[str] = []
        self.started = time.process_time()

    def attempt(self, name: str, work: Callable[[], T]) -> T | None:
        """The result of a step; None where the step raises an error, which becomes a failure of the row."""
        self.tell({"step": name})
        gc.collect()
        try:
            return work()
        except Exception as error:
            self.fail(f"{name}: {type(error).__name__}: {brief(error)}")
            return None

    def fail(self, text: str) -> None:
        self.failures.append(text)
        self.tell({"failures": self.failures})

    def law(self, name: str, holds: bool, text: str) -> bool:
        if not holds:
            self.fail(f"{name}: {text}")
        return holds

    def run(self) -> None:
        """Runs all steps in their order, without those that need the result of a step that failed."""
        environment = Environment.here()
        self.tell({"torch": environment.torch, "date": environment.date})
        model = self.attempt("build", self.built)
        if model is not None:
            self.taken(model)
        self.tell({"seconds": time.process_time() - self.started})

    def built(self) -> nn.Module:
        """The model in eval mode without anything random, in float64 where it runs in it."""
        try:
            return self._built(torch.float64)
        except RuntimeError:  # it makes float32 tensors on its way
            return self._built(torch.float32)

    def _built(self, dtype: torch.dtype) -> nn.Module:
        torch.manual_seed(self.seed)
        model = self.entry.build().to(dtype).eval()
        without_dropout(model)
        enliven(model, torch.Generator().manual_seed(self.seed))
        outputs(model, drawn(self.entry.inputs, self.seed, dtype))  # some build tables at the first one
        self.tell({"dtype": str(dtype).removeprefix("torch."), "params": count.params(model)})
        return model

    def taken(self, model: nn.Module) -> None:
        """The steps behind the construction of the model."""
        dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
        inputs = drawn(self.entry.inputs, self.seed, dtype)
        second = self.second(model, dtype)
        self.tell({"second": shown(second)})
        traced = self.attempt("trace", lambda: self.traced(model, inputs))
        if traced is None:
            return
        subject = Subject(model, traced, inputs, drawn(second, self.seed + 1, dtype))
        self.attempt("second size", lambda: self.at_second_size("", subject, traced))
        self.attempt("counts", lambda: self.counts(subject))
        scaled = self.attempt("scales", lambda: self.scales(subject))
        if self.attempt("dead channels", lambda: self.dead(subject)):
            self.attempt("rewrite", lambda: self.rewrite(subject))
        if scaled is not None:
            self.attempt("rewrite with scales", lambda: self.rewrite_scaled(subject, scaled))

    def second(self, model: nn.Module, dtype: torch.dtype) -> tuple[Spec, ...]:
        """The second size that the model itself takes: its own, or another batch, or the first size."""
        for specs in (self.entry.others, in_batch(self.entry.inputs, 3)):
            try:
                outputs(model, drawn(specs, self.seed + 1, dtype))
            except Exception:  # whatever the model raises at a size that it does not take
                continue
            return specs
        return self.entry.inputs

    def traced(self, model: nn.Module, inputs: Inputs) -> nrfx.TracedModule | None:
        try:
            traced = nrfx.trace(model, inputs, partial=True).eval()
        except TraceError as error:
            self.tell({"form": "refused", "reason": brief(error)})
            return None
        facts = traced.facts
        paths = dict.fromkeys(part.path for part in facts.parts)
        inside = {p for path in paths for p in traced.get_submodule(path).parameters()} if paths else None
        total = max(count.params(model), 1)
        self.tell(
            {
                "form": "parts" if facts.parts else "whole",
                "reason": brief(facts.outside[0]) if facts.outside else "",
                "nodes": len(traced.graph.nodes),
                "parts": len(paths),
                "inside": 1.0 if inside is None else sum(p.numel() for p in inside) / total,
            }
        )
        return traced

    def at_second_size(self, name: str, subject: Subject, module: nn.Module) -> None:
        """Whether the module agrees with the model at the second size, or refuses it."""
        expected = outputs(subject.model, subject.others)
        try:
            difference = differing(expected, outputs(module, subject.others))
        except NrfxError as error:
            if not name:
                self.tell({"second_size": f"refused: {brief(error)}"})
            return
        close = self.law(f"second size{name}", difference <= tolerance(subject), f"outputs differ by {difference:.1e}")
        if not name:
            self.tell({"second_size": "equal" if close else "differs"})

    def counts(self, subject: Subject) -> None:
        usage = nrfx.utilization(subject.traced)
        params = count.params(subject.model)
        whole = not subject.traced.facts.parts
        self.tell({"params_equal": usage.params.total == params, "uncounted": len(usage.uncounted)})
        self.law("counts", usage.params.total == params, f"{usage.params.total:,} params, counted are {params:,}")
        if whole:
            flops = count.flops(subject.model, subject.inputs)
            self.tell({"flops": flops, "flops_equal": usage.flops.total == flops})
            named = f", uncounted: {usage.uncounted[0]}" if usage.uncounted else ""
            self.law("counts", usage.flops.total == flops, f"{usage.flops.total:,} flops, counted are {flops:,}{named}")

    def scales(self, subject: Subject) -> nrfx.TracedModule | None:
        """The network with inserted scales, where HELPFUL more of it can change with them; else None."""
        plain = shares(subject.model, channels_of(subject.traced))
        self.tell({"free": plain.mortal, "pins": tuple(map(brief, plain.pins))})
        scaled = nrfx.insert_scales(subject.traced)
        difference = differing(outputs(subject.model, subject.inputs), outputs(scaled, subject.inputs))
        self.law("scales", difference <= tolerance(subject), f"inserted, they change outputs by {difference:.1e}")
        share = shares(subject.model, channels_of(scaled)).mortal
        self.tell({"scaled": share})
        return scaled if share >= plain.mortal + HELPFUL else None

    def dead(self, subject: Subject) -> bool:
        """Puts half of the gammas to 0, in the model and so in its traced form; False if there are none."""
        channels = channels_of(subject.traced)
        dead = plant(subject.model, channels, torch.Generator().manual_seed(self.seed))
        self.tell({"dead": dead})
        calibrate(subject.model, lambda model: _with_batch_statistics(model, subject.inputs))
        return True

    def rewrite(self, subject: Subject) -> None:
        difference = self.rejuvenated("rewrite", subject, subject.traced, outputs(subject.model, subject.inputs))
        self.tell({"difference": difference})

    def rewrite_scaled(self, subject: Subject, scaled: nrfx.TracedModule) -> None:
        plant(scaled, channels_of(scaled), torch.Generator().manual_seed(self.seed))
        difference = self.rejuvenated("rewrite with scales", None, scaled, outputs(scaled, subject.inputs), subject)
        self.tell({"scaled_difference": difference})

    def rejuvenated(
        self,
        name: str,
        plain: Subject | None,
        traced: nrfx.TracedModule,
        expected: tuple[Tensor, ...],
        subject: Subject | None = None,
    ) -> float:
        """The difference of the outputs after a rewrite to 1.0x; checks the result. plain: the subject, if unscaled."""
        given = plain or subject
        assert given is not None
        budget = nrfx.Budget.relative(traced, params=1.0)
        result = nrfx.rejuvenate(
            traced,
            budget,
            scheme=SCHEMES[self.seed % 3],
            residual=RESIDUALS[self.seed // 3 % 3],
            generator=torch.Generator().manual_seed(self.seed),
        )
        difference = differing(expected, outputs(result.module, given.inputs))
        params = count.params(result.module)
        met = params <= count.params(traced) and result.after.params.total == params
        if plain is not None:
            self.tell({"changed": result.changed, "budget_met": met})
        self.law(name, difference <= tolerance(given), f"outputs differ by {difference:.1e}")
        self.law(name, met, f"{params:,} params, told {result.after.params.total:,}, budget {count.params(traced):,}")
        if result.changed and not traced.facts.parts:
            self.same_flops(name, traced, result, given.inputs)
        if plain is not None:
            self.attempt(
                "second size of the result", lambda: self.at_second_size(" of the result", plain, result.module)
            )
            self.attempt("save and load", lambda: self.reloaded(plain, result.module))
        else:
            folded = nrfx.fold_scales(result.module)
            changed = differing(outputs(result.module, given.inputs), outputs(folded, given.inputs))
            self.law(name, changed <= tolerance(given), f"outputs differ by {changed:.1e} once folded")
        return difference

    def same_flops(self, name: str, traced: nn.Module, result: nrfx.Rejuvenation, inputs: Inputs) -> None:
        """Whether the flops of the result are those that it tells, where those of the network before are."""
        try:
            before, after = count.flops(traced, inputs), count.flops(result.module, inputs)
        except NrfxError:  # one example is a size that the graph refuses
            return
        if result.before.flops.total == before:
            self.law(name, after == result.after.flops.total, f"{after:,} flops, told {result.after.flops.total:,}")

    def reloaded(self, subject: Subject, module: nrfx.TracedModule) -> None:
        """Whether the saved network, loaded into a fresh model, gives the same outputs."""
        torch.manual_seed(self.seed)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.safetensors"
            nrfx.save(path, module)
            fresh = self.entry.build().to(next(module.parameters()).dtype).eval()
            if module.facts.parts:  # a model in parts is loaded into one that is traced in parts
                fresh = nrfx.trace(fresh, subject.inputs, partial=True)
            loaded = nrfx.load(path, fresh)
        difference = differing(outputs(module, subject.inputs), outputs(loaded.eval(), subject.inputs))
        self.tell(
            {"loaded": self.law("save and load", difference <= tolerance(subject), f"differs by {difference:.1e}")}
        )


def _with_batch_statistics(model: nn.Module, inputs: Inputs) -> None:
    """A forward with the batch norms in train mode and all else in eval mode."""
    model.eval()
    for _, norm in norms(model):
        norm.train()
    torch.manual_seed(0)
    try:
        with torch.no_grad():
            model(*inputs)
    except ValueError:  # one value per channel in a batch norm: no statistics to take
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
    model.eval()


def outputs(module: nn.Module, inputs: Inputs) -> tuple[Tensor, ...]:
    """The tensors of the eval-mode output, with the random numbers of one seed."""
    torch.manual_seed(0)
    with torch.no_grad():
        return leaves(module.eval()(*(x.clone() for x in inputs)))


def differing(expected: tuple[Tensor, ...], actual: tuple[Tensor, ...]) -> float:
    """The largest difference, relative to the largest finite value; infinite where the outputs do not correspond."""
    if [leaf.shape for leaf in expected] != [leaf.shape for leaf in actual]:
        return float("inf")
    return max((_difference(a, b) for a, b in zip(expected, actual, strict=True) if a.numel()), default=0.0)


def _difference(a: Tensor, b: Tensor) -> float:
    if not (a.is_floating_point() or a.is_complex()):
        a, b = a.double(), b.double()
    gap = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs())
    if not bool(gap.any()):
        return 0.0
    scale = a.abs()[a.isfinite()].max() if bool(a.isfinite().any()) else 1.0
    return float(gap.max() / scale)


def tolerance(subject: Subject) -> float:
    return TOLERANCE[next(p.dtype for p in subject.model.parameters() if p.is_floating_point())]


def shown(specs: tuple[Spec, ...]) -> str:
    """The shapes, such as "2x3x64x64 2x16"."""
    return " ".join("x".join(map(str, spec.shape)) for spec in specs)


def brief(error: Exception | str) -> str:
    """The first two lines in one, for a cell of a table: files by their place in their package."""
    lines = str(error).strip().splitlines() or ["no message"]
    line = re.sub(r'(File )?"?/[^" ]*/site-packages/', "", " ".join(lines[:3]))
    return re.sub(r"\s+", " ", line).replace("; ", ", ").replace("|", "/")[:300]


def examine(entry: Model, tell: Tell, memory: int, seconds: float) -> None:
    """Examines one model on one thread.

    Args:
        tell: takes a mapping of some columns of the row, or {"step": name}.
        memory: bytes that this process may hold; an allocation beyond them fails.
        seconds: CPU time that this process may take; after it the system kills the process.
    """
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    gc.freeze()
    limit = int(time.process_time() + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    Examination(entry, tell).run()
