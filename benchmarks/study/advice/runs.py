"""Full runs of a setting: plain training and Neural Rejuvenation, in as many steps, each a line of a file."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console

import nrfx
from benchmarks.study.advice.settings import BUDGETS, SETTINGS, images
from benchmarks.table import append_csv, kept_csv, progress_bar
from benchmarks.timing import Environment
from nrfx.experiment.loop import train

ROWS = ("BL", "NR")


@dataclass(frozen=True)
class Full:
    """A full run. Errors in percent; `step`, `r` and `alpha` of its event are 0, 1 and 1 without one."""

    setting: str
    row: str
    seed: int
    params: int
    flops: int
    step: int
    r: float
    alpha: float
    validation: float
    test: float
    widths: str
    seconds: float
    torch: str
    date: str
    cpu: str

    @property
    def key(self) -> tuple[str, str, int]:
        """By which it is known again."""
        return self.setting, self.row, self.seed


def carried_out(name: str, row: str, seed: int, root: Path) -> Full:
    """The run of a setting from one seed."""
    setting, data = SETTINGS[name], images(SETTINGS[name].data, root)
    gm = nrfx.trace(setting.built(seed), torch.zeros(2, *data.train.shape))
    budget = nrfx.Budget.relative(gm, **BUDGETS[setting.budget])
    run = train(gm, data, setting.config(seed), budget if row == "NR" else None)
    event = run.events[0] if run.events else None
    return Full(
        setting=name,
        row=row,
        seed=seed,
        params=run.params,
        flops=run.flops,
        step=event.step if event else 0,
        r=event.r if event else 1.0,
        alpha=event.alpha if event else 1.0,
        validation=run.validation.error,
        test=run.test.error,
        widths=" ".join(str(len(p)) for _, p in run.module.named_parameters() if p.dim() == 4),
        seconds=run.seconds,
        **asdict(Environment.here()),
    )


def full_runs(names: Sequence[str], seeds: int, path: Path, root: Path, console: Console) -> None:
    """Carries out the runs of the settings that are not in the file, and adds each to it as it ends."""
    known = {line.key for line in kept_csv(Full, path)}
    wanted = [(name, row, seed) for seed in range(seeds) for name in names for row in ROWS]
    missing = [key for key in wanted if key not in known]
    with progress_bar(console) as progress:
        bar = progress.add_task("runs", total=len(wanted), completed=len(wanted) - len(missing))
        for name, row, seed in missing:
            progress.update(bar, description=f"{name}, {row}, seed {seed}")
            append_csv(carried_out(name, row, seed, root), path)
            progress.advance(bar)
