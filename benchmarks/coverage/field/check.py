"""The examination of a model of the field: two sizes, one rewrite, saved and loaded.

A refusal at the trace (a TraceError) is a result; every other error, of nrfx or not, is a failure of the row.
"""

import contextlib
import tempfile
from pathlib import Path

import torch
from torch import nn

import nrfx
from benchmarks import count
from benchmarks.coverage.check import SCHEMES, Examination, Inputs, Rewritten, Subject, brief, dtype_of
from benchmarks.coverage.dead import plant
from benchmarks.coverage.model import Spec, drawn, in_batch, shapes
from benchmarks.networks import calibrate, norms
from benchmarks.outputs import evaluated, relative
from nrfx.analysis.spaces import channels_of
from nrfx.choices import Residual
from nrfx.errors import NrfxError, TraceError

RESIDUALS: tuple[Residual, ...] = ("live", "coupled", "fixed")


class FieldExamination(Examination):
    """All columns of the row."""

    def examined(self, module: nn.Module, inputs: Inputs) -> None:
        second = self.second(module)
        self.tell(second=shapes(second))
        traced = self.attempt("trace", lambda: self.traced(module, inputs))
        if traced is None:
            return
        others = drawn(second, self.seed + 1, dtype_of(module))
        said = self.attempt("second size", lambda: self.at_second_size("second size", module, traced, others))
        self.tell(second_size=said or "")
        self.attempt("counts", lambda: self.counts(module, traced, inputs))
        scaled = self.attempt("scales", lambda: self.scales(module, traced, inputs))
        before = self.attempt("dead channels", lambda: self.dead(module, traced, inputs))
        if before is not None:
            self.attempt("rewrite", lambda: self.rewrite(before, others))
        if scaled is not None:
            self.attempt("rewrite with scales", lambda: self.rewrite_scaled(scaled, inputs))

    def second(self, module: nn.Module) -> tuple[Spec, ...]:
        """The second size that the model itself takes: its own, or another batch, or the first size."""
        for specs in (self.model.others, in_batch(self.model.inputs, 3)):
            try:
                evaluated(module, *drawn(specs, self.seed + 1, dtype_of(module)))
            except Exception:  # whatever the model raises at a size that it does not take
                continue
            return specs
        return self.model.inputs

    def traced(self, module: nn.Module, inputs: Inputs) -> nrfx.TracedModule | None:
        try:
            traced = nrfx.trace(module, inputs, partial=True).eval()
        except TraceError as error:
            self.tell(form="refused", reason=brief(error))
            return None
        facts = traced.facts
        paths = dict.fromkeys(part.path for part in facts.parts)
        inside = {p for path in paths for p in traced.get_submodule(path).parameters()}
        share = sum(p.numel() for p in inside) / max(count.params(module), 1)
        self.tell(
            form="parts" if paths else "whole",
            reason=brief(facts.outside[0]) if facts.outside else "",
            nodes=len(traced.graph.nodes),
            parts=len(paths),
            inside=share if paths else 1.0,
        )
        return traced

    def at_second_size(self, name: str, model: nn.Module, module: nn.Module, others: Inputs) -> str:
        """Whether the module agrees with the model at the second size: "equal", "differs", or "refused: why"."""
        expected = evaluated(model, *others)
        try:
            actual = evaluated(module, *others)
        except NrfxError as error:
            return f"refused: {brief(error)}"
        return "equal" if self.close(name, relative(expected, actual), dtype_of(model)) else "differs"

    def dead(self, module: nn.Module, traced: nrfx.TracedModule, inputs: Inputs) -> Subject:
        """The model with half of the gammas at 0, and its traced form, which has the same parameters."""
        self.tell(dead=plant(module, channels_of(traced), torch.Generator().manual_seed(self.seed)))
        calibrate(module, lambda module: _with_batch_statistics(module, inputs))
        return Subject.of(module, traced, inputs)

    def rewrite(self, before: Subject, others: Inputs) -> None:
        done = self.to_its_size("rewrite", before)
        result = done.result
        met = done.params == result.after.params.total <= count.params(before.module)
        self.tell(difference=done.difference, changed=result.changed, budget_met=met)
        name = "second size of the result"
        self.attempt(name, lambda: self.at_second_size(name, before.module, result.module, others))
        self.attempt("save and load", lambda: self.reloaded(before, result.module))

    def rewrite_scaled(self, scaled: nrfx.TracedModule, inputs: Inputs) -> None:
        plant(scaled, channels_of(scaled), torch.Generator().manual_seed(self.seed))
        done = self.to_its_size("rewrite with scales", Subject.of(scaled, scaled, inputs))
        self.tell(scaled_difference=done.difference)

    def to_its_size(self, name: str, before: Subject) -> Rewritten:
        scheme, residual = SCHEMES[self.seed % 3], RESIDUALS[self.seed // 3 % 3]
        return self.rewritten(name, before, scheme, residual, count.params(before.module))

    def reloaded(self, before: Subject, module: nrfx.TracedModule) -> None:
        """Whether the saved network, loaded into a fresh model, gives the same outputs."""
        torch.manual_seed(self.seed)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.safetensors"
            nrfx.save(path, module)
            fresh = self.model.build().to(next(module.parameters()).dtype).eval()
            if module.facts.parts:  # a model in parts is loaded into one that is traced in parts
                fresh = nrfx.trace(fresh, before.inputs, partial=True)
            loaded = nrfx.load(path, fresh)
        difference = relative(evaluated(module, *before.inputs), evaluated(loaded, *before.inputs))
        self.tell(loaded=self.close("save and load", difference, dtype_of(before.module)))


def _with_batch_statistics(module: nn.Module, inputs: Inputs) -> None:
    """A forward with the batch norms in train mode and all else in eval mode."""
    module.eval()
    for _, norm in norms(module):
        norm.train()
    torch.manual_seed(0)
    with contextlib.suppress(ValueError):  # one value per channel in a batch norm: no statistics to take
        module(*(x.clone() for x in inputs))
    module.eval()
