"""Runs the examination of the models of the field, each in a process of its own, and keeps their rows."""

import argparse
import fnmatch
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

from rich.console import Console

from benchmarks.command import DOCS, RESULTS, ROOT, verdict, write
from benchmarks.coverage.field import models
from benchmarks.coverage.field.check import examine, shown
from benchmarks.coverage.field.model import Model
from benchmarks.coverage.field.page import SUMMARY, page, summary
from benchmarks.coverage.field.row import Row, row_of
from benchmarks.coverage.process import CONTEXT, GIBIBYTE, Limits, columns_of
from benchmarks.table import progress_bar, terminal

TABLE = RESULTS / "field.csv"
DOCUMENT = DOCS / "field.md"
CACHE = ROOT / "build" / "field.jsonl"

PRELOADED = (
    *("timm", "transformers.modeling_utils", "transformers.models.bert.modeling_bert", "segmentation_models_pytorch"),
    *("ultralytics.nn.tasks", "monai.networks.nets", "diffusers.models.modeling_utils", "asteroid.models", "spandrel"),
    "benchmarks.coverage.field.warm",
)
"""Imported once for all processes, where installed: to import them takes longer than to examine a small model."""


def row(title: str, limits: Limits, known: dict[str, Model]) -> Row:
    """Examines one model in a process of its own. A process that dies or is killed gives a row with that failure."""
    model = known[title]
    values = {"model": title, "package": model.package, "family": model.family, "input": shown(model.inputs)}
    return row_of(values | dict(columns_of(_examine, title, limits, lambda step: None)))


def _examine(title: str, connection: Connection, limits: Limits) -> None:
    model = next(model for model in models() if model.title == title)
    examine(model, connection.send, limits.memory, limits.seconds)
    connection.close()


def families_first(titles: Sequence[str], known: dict[str, Model]) -> list[str]:
    """One model of each family, then a second one of each, and so on: a run that is broken off has seen many kinds."""
    count: Counter[str] = Counter()
    turns = {}
    for title in titles:
        turns[title] = count[known[title].family]
        count[known[title].family] += 1
    return sorted(titles, key=turns.__getitem__)


def cached(path: Path) -> dict[str, Row]:
    """The rows in the cache by model; of several rows of a model the last."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {one.model: one for one in (row_of(json.loads(line)) for line in lines)}


def rows(
    chosen: Sequence[str], known: dict[str, Model], limits: Limits, cache: Path, console: Console
) -> Iterator[Row]:
    """The rows of these models, in their order; each is in the cache when it is there."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    with progress_bar(console) as progress:
        task = progress.add_task("", total=len(chosen))
        for title in chosen:
            progress.update(task, description=title)
            one = row(title, limits, known)
            with cache.open("a") as file:
                file.write(json.dumps(asdict(one)) + "\n")
            progress.advance(task)
            yield one


def main(options: argparse.Namespace, console: Console) -> int:
    """Examines the models that the options choose; 1 if a check failed on any of them, 2 if none matches, else 0."""
    known = {model.title: model for model in models()}
    asked = [title for title in known if not options.only or any(fnmatch.fnmatch(title, p) for p in options.only)]
    if not asked:
        console.print("No model matches. Names are PACKAGE:NAME; --list shows them.", markup=False)
        return 2
    if options.list:
        lines = [f"{title}  {known[title].family}  {shown(known[title].inputs)}" for title in asked]
        console.print("\n".join(lines), markup=False)
        return 0
    cache = options.cache or CACHE
    done = cached(cache) if options.resume else {}
    CONTEXT.set_forkserver_preload(["benchmarks.coverage.field.check", *PRELOADED])
    limits = Limits(int(options.memory * GIBIBYTE), options.seconds)
    left = families_first([title for title in asked if title not in done], known)
    for one in rows(left, known, limits, cache, console):
        for failure in one.failures:
            console.print(f"{one.model}: {failure}", style="red", markup=False, highlight=False)
    done = cached(cache)
    table = [done[title] for title in known if title in done]
    shown_rows = [done[title] for title in asked]
    console.print(terminal("Packages", SUMMARY, summary(shown_rows)))
    write({TABLE: table, DOCUMENT: page(table, len(known))}, console)
    return verdict([one.sound for one in shown_rows], "models hold", console)
