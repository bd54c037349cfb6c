"""The advice on a setting, as the line of a file."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console

import nrfx
from benchmarks.study.advice.settings import BUDGETS, SETTINGS, images
from benchmarks.table import append_csv, kept_csv, progress_bar
from benchmarks.timing import Environment
from nrfx.experiment.advise import advise
from nrfx.plan.advice import Gain
from nrfx.tracing import TracedModule

FIRST_SEED, STEPS = 100, 300
"""Seeds and steps of the advice: two seeds that no full run has, and about a quarter of its steps."""


@dataclass(frozen=True)
class Advised:
    """What `nrfx advise` said. Values of the seeds stand one behind the other.

    Attributes:
        steps, r: of the search when the plan within the budget of the setting was made, and the r of that plan.
        threshold: of gammas that count as dead in the plan.
        alpha, widths: of the plan; the widths of one seed are joined by dashes.
        reshape, steadiness: see nrfx/plan/advice.py.
        change: of the loss in the trial, in percent; below 0 the planned network learns better.
        plain_error, planned_error: validation error of the trial, in percent.
        gain, reason: the verdict.
    """

    setting: str
    budget: str
    steps: str
    r: str
    threshold: str
    alpha: str
    widths: str
    reshape: float
    steadiness: float
    change: float
    plain_error: str
    planned_error: str
    gain: Gain
    reason: str
    seconds: float
    torch: str
    date: str
    cpu: str


def advised(name: str, root: Path) -> Advised:
    """The advice on a setting."""
    started, setting = time.perf_counter(), SETTINGS[name]
    data = images(setting.data, root)

    def build(seed: int) -> TracedModule:
        return nrfx.trace(setting.built(seed), torch.zeros(2, *data.train.shape))

    budget = nrfx.Budget.relative(build(FIRST_SEED), **BUDGETS[setting.budget])
    advice = advise(build, data, setting.config(FIRST_SEED), budget, steps=STEPS)
    prospect, trial = advice.prospect, advice.trial
    assert prospect is not None and trial is not None, "within what it costs now every network can be planned"
    return Advised(
        setting=name,
        budget=setting.budget,
        steps=_told(prospect.steps),
        r=_told(prospect.r),
        threshold=_told(prospect.threshold),
        alpha=_told(prospect.alpha),
        widths=" ".join("-".join(map(str, widths)) for widths in zip(*prospect.widths.values(), strict=True)),
        reshape=advice.reshape(prospect),
        steadiness=advice.steadiness(prospect) or 0.0,
        change=100 * trial.change,
        plain_error=_told(trial.plain_error),
        planned_error=_told(trial.planned_error),
        gain=advice.verdict.gain,
        reason=advice.verdict.reason,
        seconds=time.perf_counter() - started,
        **asdict(Environment.here()),
    )


def _told(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def all_advised(path: Path, root: Path, console: Console) -> None:
    """Asks for the advice that is not in the file, and adds it as it comes."""
    known = {line.setting for line in kept_csv(Advised, path)}
    with progress_bar(console) as progress:
        bar = progress.add_task("advice", total=len(SETTINGS), completed=len(known))
        for name in SETTINGS:
            if name not in known:
                progress.update(bar, description=f"advice on {name}")
                append_csv(advised(name, root), path)
                progress.advance(bar)
