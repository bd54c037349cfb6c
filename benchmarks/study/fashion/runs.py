"""Carries runs out, several at a time, and keeps each as it ends, so that a study can be broken off and go on."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.study.fashion import others, searches
from benchmarks.study.fashion.loop import error, images
from benchmarks.study.fashion.plan import Curve, Line, Task
from benchmarks.table import append_csv, kept_csv, progress_bar
from benchmarks.timing import Environment
from nrfx.analysis.utilization import utilization
from nrfx.experiment.data import Dataset

ROWS = {**others.ROWS, **searches.ROWS}
"""Row -> how it is trained."""


def carried_out(task: Task, root: Path) -> Line:
    """The run of a task, on one thread."""
    torch.set_num_threads(1)
    return run(task, images(root))


def run(task: Task, data: Dataset) -> Line:
    """The run of a task on these images, on their device."""
    started, curve = time.perf_counter(), Curve()
    found = ROWS[task.row](task, data, curve)
    cost = utilization(found.module)
    widths = (len(p) for name, p in found.module.named_parameters() if p.dim() == 4)
    return Line(
        key=task.key,
        family=task.family,
        row=task.row,
        budget=task.budget,
        seed=task.seed,
        settings=json.dumps(task.settings.changed(), sort_keys=True),
        params=cost.params.total,
        flops=cost.flops.total,
        event=found.event,
        events=found.events,
        r=found.r,
        lam=found.lam,
        alpha=found.alpha,
        steps=found.steps,
        validation=error(found.module, data.validation),
        test=error(found.module, data.test) if task.test else None,
        curve=str(curve),
        widths=" ".join(map(str, widths)),
        seconds=time.perf_counter() - started,
        **asdict(Environment.here()),
    )


def kept(path: Path) -> dict[str, Line]:
    """The lines of a file by the keys of their tasks; {} where there is no file."""
    return {line.key: line for line in kept_csv(Line, path)}


def lines(tasks: Sequence[Task], path: Path, root: Path, jobs: int, console: Console) -> Mapping[str, Line]:
    """The lines of the tasks by their keys: those in the file, and the others, which are added as they end."""
    known = kept(path)
    missing = [task for task in tasks if task.key not in known]
    path.parent.mkdir(exist_ok=True)
    with progress_bar(console) as progress:
        bar = progress.add_task("runs", total=len(tasks), completed=len(tasks) - len(missing))
        for line in _ended(missing, root, jobs):
            append_csv(line, path)
            known[line.key] = line
            progress.update(bar, description=f"{line.family}, {line.row}, seed {line.seed}")
            progress.advance(bar)
    return {task.key: known[task.key] for task in tasks}


def _ended(tasks: Sequence[Task], root: Path, jobs: int) -> Iterator[Line]:
    """The line of each task, as it ends."""
    if jobs == 1:
        yield from (carried_out(task, root) for task in tasks)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for future in as_completed([pool.submit(carried_out, task, root) for task in tasks]):
            yield future.result()
