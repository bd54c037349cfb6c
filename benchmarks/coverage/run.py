"""Checks every model of torchvision and some of timm, and measures how much of each can change width.

`python -m benchmarks coverage` examines each model of a catalogue (vision, or field with `--field`) in a process of its
own, and writes a CSV of benchmarks/results/ and a page of docs/. The row of a model goes to a cache as soon as it is
there; `--resume` leaves out the models in the cache. The other rows of the CSV stay as they are, so that a few models
can be examined again, in an environment that has only their packages. Exit status 1: a model failed a check.
"""

import argparse
import fnmatch
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID

from benchmarks.command import parser_of, verdict, write
from benchmarks.coverage.catalogue import Catalogue
from benchmarks.coverage.field import FIELD
from benchmarks.coverage.model import Model
from benchmarks.coverage.process import CONTEXT, GIBIBYTE, Limits, columns_of
from benchmarks.coverage.row import Row, row_of
from benchmarks.coverage.vision import VISION
from benchmarks.table import progress_bar, read_csv, terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Examines the models that the options choose; 1 if a check failed on any of them, 2 if none matches, else 0."""
    options, console = _parser().parse_args(arguments), Console()
    catalogue = FIELD if options.field else VISION
    every = list(catalogue.models())
    installed = [model for model in every if model.installed]
    asked = [model for model in installed if _asked(model, options)]
    if not asked:
        console.print("No model matches. Names are those of torchvision, or PACKAGE:NAME; --list shows them.")
        return 2
    if options.list:
        lines = [f"{model.title}  {model.family}  {catalogue.shown(model)}" for model in asked]
        console.print("\n".join(lines), markup=False)
        return 0
    cache = options.cache or catalogue.cache
    if len(asked) == len(installed) and not options.resume:
        cache.unlink(missing_ok=True)
    done = cached(catalogue, every, cache) if options.resume else {}
    CONTEXT.set_forkserver_preload([catalogue.examination.__module__, *catalogue.preloaded])
    with progress_bar(console) as progress:
        left = families_first([model for model in asked if model.title not in done])
        for one in rows(catalogue, left, options, progress):
            append(one, cache)
            for failure in one.failures:
                console.print(f"{one.model}: {failure}", style="red", markup=False, highlight=False)
    done = kept(catalogue, every) | cached(catalogue, every, cache)
    shown = [done[model.title] for model in asked]
    console.print(terminal(catalogue.heading, catalogue.columns, catalogue.summary(shown)))
    table = [done[model.title] for model in every if model.title in done]
    publish(catalogue, table, len(every) - len(table), console)
    return verdict([one.sound for one in shown], "models hold", console)


def publish(catalogue: Catalogue, table: Sequence[Row], missing: int, console: Console) -> None:
    """Writes the CSV and the page of a catalogue, if it may lack as many rows as are missing."""
    if missing and catalogue.whole:
        console.print(f"{missing} models are not examined yet: no file is written.")
    else:
        write({catalogue.table: table, catalogue.document: catalogue.page(table, missing)}, console)


def families_first(models: Sequence[Model]) -> list[Model]:
    """One model of each family, then a second one of each, and so on: a run that is broken off has seen many kinds."""
    count: Counter[str] = Counter()
    turns = {}
    for model in models:
        turns[model.title] = count[model.family]
        count[model.family] += 1
    return sorted(models, key=lambda model: turns[model.title])


def rows(
    catalogue: Catalogue, models: Sequence[Model], options: argparse.Namespace, progress: Progress
) -> Iterator[Row]:
    """The rows of these models, each as soon as it is there."""
    task = progress.add_task("", total=len(models))
    with ThreadPoolExecutor(options.jobs) as pool:
        started = [pool.submit(row, catalogue, model, _limits(model, options), progress, task) for model in models]
        for done in as_completed(started):
            progress.advance(task)
            yield done.result()
    progress.update(task, description="done")


def row(catalogue: Catalogue, model: Model, limits: Limits, progress: Progress, task: TaskID) -> Row:
    """Examines one model in a process of its own. A process that dies or is killed gives a row with that failure."""

    def at(step: str) -> None:
        progress.update(task, description=f"{model.title}: {step}")

    return row_of(catalogue.row, {**_head(catalogue, model), **columns_of(catalogue.examination, model, limits, at)})


def _head(catalogue: Catalogue, model: Model) -> Mapping[str, Any]:
    """The columns that name the model."""
    shown = catalogue.shown(model)
    return {"model": model.title, "package": model.package, "family": model.family, "input": shown}


def _limits(model: Model, options: argparse.Namespace) -> Limits:
    return Limits(int(max(options.memory, model.gibibytes) * GIBIBYTE), options.seconds)


def kept(catalogue: Catalogue, models: Sequence[Model]) -> dict[str, Row]:
    """The rows in the CSV of these models."""
    rows = read_csv(catalogue.row, catalogue.table) if catalogue.table.exists() else []
    titles = {model.title for model in models}
    return {row.model: row for row in rows if row.model in titles}


def cached(catalogue: Catalogue, models: Sequence[Model], path: Path) -> dict[str, Row]:
    """The rows in the cache of these models, in their order; of several rows of a model the last."""
    lines = path.read_text().splitlines() if path.exists() else []
    known = {values["model"]: values for values in map(json.loads, lines)}
    return {
        model.title: row_of(catalogue.row, {**_head(catalogue, model), **known[model.title]})
        for model in models
        if model.title in known
    }


def append(one: Row, path: Path) -> None:
    """Adds a row to the cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(asdict(one)) + "\n")


def _asked(model: Model, options: argparse.Namespace) -> bool:
    named = any(fnmatch.fnmatch(model.title, pattern) for pattern in options.only)
    return (named or not options.only) and (options.family is None or model.family.lower() == options.family.lower())


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("coverage", __doc__, "--only 'resnet*' 'timm:vit*' --jobs 2")
    parser.add_argument("--only", nargs="+", default=[], metavar="PATTERN", help="models by name, * allowed")
    parser.add_argument("--family", help="one family, such as ResNet")
    parser.add_argument("--resume", action="store_true", help="leave out models that the cache has")
    parser.add_argument("--list", action="store_true", help="name the models and stop")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time, one thread each (1)")
    parser.add_argument("--seconds", type=float, default=900, help="CPU time for one model (900)")
    parser.add_argument("--memory", type=float, default=6, help="GiB for one model (6)")
    parser.add_argument("--cache", type=Path, help="rows so far (build/coverage.jsonl, or build/field.jsonl)")
    parser.add_argument("--field", action="store_true", help="models of other packages, each as small as it can be")
    return parser
