"""The examination of a model of torchvision or timm: times, and six rewrites of the whole model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import fx, nn

import nrfx
from benchmarks.coverage.check import SCHEMES, Examination, Inputs, Subject
from benchmarks.coverage.dead import calibrate_traced, plant
from benchmarks.coverage.model import drawn, in_batch
from benchmarks.coverage.page import worst
from benchmarks.coverage.shares import shares
from benchmarks.coverage.vision.row import RESIDUALS
from benchmarks.networks import calibrate
from benchmarks.outputs import LISTENS, backward, evaluated, relative, training_facts, without_gradient
from benchmarks.timing import median_seconds
from nrfx.analysis.spaces import channels_of
from nrfx.choices import Residual, Scheme

BUDGETS = ("1.0x", "middle")
REPEATS = 3


@dataclass(frozen=True)
class Training:
    """A model in train mode. trained: parameters that have a gradient. leaves: shapes of the outputs."""

    trained: frozenset[str]
    leaves: tuple[tuple[int, ...], ...]


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
    """The numbers of one rewrite. share: the part of the budget that is used, None where nothing changed."""

    setting: Setting
    difference: float
    alpha: float
    utilization: float
    share: float | None
    seconds: float
    holds: bool


class WholeExamination(Examination):
    """All columns of the row."""

    def examined(self, module: nn.Module, inputs: Inputs) -> None:
        traced = self.attempt("trace", lambda: nrfx.trace(module, inputs))
        if traced is None:
            return
        self.tell(nodes=len(traced.graph.nodes))
        self.attempt("counts", lambda: self.counts(module, traced, inputs))
        self.attempt("analysis time", lambda: self.analysis(module, traced))
        scaled = self.attempt("scales", lambda: self.scales(module, traced, inputs))
        subject = self.attempt("dead channels", lambda: self.dead(module, traced, scaled, inputs))
        if subject is not None:
            self.rewrites(*subject)

    def analysis(self, module: nn.Module, traced: nrfx.TracedModule) -> None:
        try:
            least = median_seconds(lambda: fx.symbolic_trace(module), REPEATS)
        except Exception:  # whatever a model's forward raises when it is traced; then there is no ratio
            return
        self.tell(analysis=median_seconds(lambda: nrfx.utilization(traced), REPEATS) / least)

    def dead(
        self, model: nn.Module, traced: nrfx.TracedModule, scaled: nrfx.TracedModule | None, inputs: Inputs
    ) -> tuple[Subject, Training]:
        """The network, with scales if there is one, with dead channels and calibrated statistics."""
        module, graph = (model, traced) if scaled is None else (scaled, scaled)
        channels = channels_of(graph)
        self.tell(scales=scaled is not None, pins=shares(model, channels).pins)
        training = Training(*training_facts(module, *inputs))
        dead = plant(module, channels, torch.Generator().manual_seed(self.seed))
        (several,) = self.others(4 * len(inputs[0]), 1, inputs)
        if scaled is None:
            calibrate(model, lambda model: model.train()(several))
        else:
            calibrate_traced(scaled, channels, several)
        subject = Subject.of(module, graph, inputs)
        listens = relative(subject.outputs, evaluated(module, *self.others(len(inputs[0]), 2, inputs)))
        self.tell(dead=dead, gammas=sum(layout.numel() for layout in channels.norms.values()), listens=listens)
        self.law("dead channels", listens > LISTENS, f"outputs change with the input by {listens:.1e} only")
        return subject, training

    def others(self, batch: int, turn: int, inputs: Inputs) -> Inputs:
        """Other images, as many as `batch`."""
        return drawn(in_batch(self.model.inputs, batch), self.seed + turn, inputs[0].dtype)

    def rewrites(self, before: Subject, training: Training) -> None:
        """Six rewrites: every residual setting with two budgets; the schemes take turns."""
        cases: list[Case] = []
        for index, (residual, budget) in enumerate(product(RESIDUALS, BUDGETS)):
            setting = Setting(residual, budget, SCHEMES[(index + self.seed) % len(SCHEMES)])
            case = self.attempt(setting.name, partial(self.case, before, training, setting))
            if case is not None:
                cases.append(case)
                self.tell(**columns(cases))
        self.attempt("rewrites", lambda: self.untouched(before))

    def untouched(self, before: Subject) -> None:
        difference = relative(before.outputs, evaluated(before.module, *before.inputs))
        self.law("rewrites", difference == 0, f"the original network was changed, its outputs by {difference:.1e}")

    def case(self, before: Subject, training: Training, setting: Setting) -> Case:
        usage = nrfx.utilization(before.traced, residual=setting.residual).params
        bound = usage.total if setting.budget == "1.0x" else (usage.live + usage.total) // 2
        done = self.rewritten(setting.name, before, setting.scheme, setting.residual, bound)
        result = done.result
        good = [
            done.holds,
            self.law(
                setting.name,
                result.changed or usage.live == usage.total,
                f"dead channels, but {' '.join(result.notes[:1])}",
            ),
            *self.trains(setting.name, before.inputs, training, result),
        ]
        return Case(
            setting,
            difference=done.difference,
            alpha=result.alpha,
            utilization=usage.live / usage.total,
            share=done.params / bound if result.changed else None,
            seconds=done.seconds,
            holds=all(good),
        )

    def trains(self, name: str, inputs: Inputs, training: Training, result: nrfx.Rejuvenation) -> list[bool]:
        leaves = backward(result.module, *inputs)
        lost = without_gradient(result, training.trained)
        result.module.zero_grad()
        return [
            self.law(name, leaves == training.leaves, f"train-mode outputs are {leaves}, before {training.leaves}"),
            self.law(name, not lost, f"{len(lost)} parameters have no finite gradient, such as {lost[:3]}"),
        ]


def columns(cases: Sequence[Case]) -> dict[str, Any]:
    """The columns of the row that sum up the rewrites so far."""
    values: dict[str, Any] = {}
    for residual in RESIDUALS:
        own = [case for case in cases if case.setting.residual == residual]
        if own:
            values[f"difference_{residual}"] = worst(*(case.difference for case in own))
            values[f"r_{residual}"] = own[0].utilization
        for case in own:
            if case.setting.budget == "1.0x":
                values[f"alpha_{residual}"] = case.alpha
    return values | {
        "share": min((case.share for case in cases if case.share is not None), default=None),
        "cases": sum(case.holds for case in cases),
        "idle": sum(case.share is None for case in cases),
        "seconds_rewrite": sum(case.seconds for case in cases) / len(cases),
    }
