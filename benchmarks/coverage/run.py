"""Checks every model of torchvision and some of timm, and measures how much of each can change width.

`python -m benchmarks coverage` examines each model (models.py) in a process of its own (check.py), and writes
benchmarks/results/coverage.csv and docs/coverage.md. The row of a model goes to a cache as soon as it is there;
`--resume` leaves out the models in the cache. Exit status 1: a model failed a check.
"""

import argparse
import fnmatch
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID

from benchmarks.command import DOCS, RESULTS, ROOT, parser_of, verdict, write
from benchmarks.coverage.check import examine
from benchmarks.coverage.field import run as field
from benchmarks.coverage.models import Entry, entries
from benchmarks.coverage.page import SUMMARY, page, summary
from benchmarks.coverage.process import GIBIBYTE, Limits, columns_of
from benchmarks.coverage.row import Row, row_of
from benchmarks.table import progress_bar, terminal

TABLE = RESULTS / "coverage.csv"
DOCUMENT = DOCS / "coverage.md"
CACHE = ROOT / "build" / "coverage.jsonl"


def row(entry: Entry, limits: Limits, progress: Progress, task: TaskID) -> Row:
    """Examines one model in a process of its own. A process that dies or is killed gives a row with that failure."""
    values: dict[str, Any] = {"model": entry.title, "source": entry.source, "family": entry.family}
    values["input"] = "x".join(map(str, entry.shape))
    columns = columns_of(
        _examine, entry, limits, lambda step: progress.update(task, description=f"{entry.title}: {step}")
    )
    return row_of({**values, **columns})


def _examine(entry: Entry, connection: Connection, limits: Limits) -> None:
    examine(entry, connection.send, limits.memory, limits.seconds)
    connection.close()


def rows(chosen: Sequence[Entry], options: argparse.Namespace, progress: Progress) -> Iterator[Row]:
    """The rows of these models, in their order, each as soon as it is there."""
    task = progress.add_task("", total=len(chosen))
    with ThreadPoolExecutor(options.jobs) as pool:
        for one in pool.map(lambda entry: row(entry, _limits(entry, options), progress, task), chosen):
            progress.advance(task)
            yield one
    progress.update(task, description="done")


def _limits(entry: Entry, options: argparse.Namespace) -> Limits:
    return Limits(int(max(options.memory, entry.gibibytes) * GIBIBYTE), options.seconds)


def cached(path: Path) -> dict[str, Row]:
    """The rows in the cache by model; of several rows of a model the last."""
    if not path.exists():
        return {}
    known = [row_of(json.loads(line)) for line in path.read_text().splitlines()]
    return {one.model: one for one in known}


def append(one: Row, path: Path) -> None:
    """Adds a row to the cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(asdict(one)) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Examines the models that the options choose; 1 if a check failed on any of them, 2 if none matches, else 0."""
    options = _parser().parse_args(arguments)
    console = Console()
    if options.field:
        return field.main(options, console)
    cache = options.cache or CACHE
    every = list(entries())
    asked = [entry for entry in every if _asked(entry, options)]
    if not asked:
        console.print("No model matches. Names are those of torchvision, or timm:NAME.", markup=False)
        return 2
    if options.list:
        console.print("\n".join(f"{one.title}  {one.family}  {one.shape}" for one in asked), markup=False)
        return 0
    if len(asked) == len(every) and not options.resume:
        cache.unlink(missing_ok=True)
    known = cached(cache) if options.resume else {}
    with progress_bar(console) as progress:
        for one in rows([entry for entry in asked if entry.title not in known], options, progress):
            append(one, cache)
            for failure in one.failures:
                console.print(f"{one.model}: {failure}", style="red", markup=False, highlight=False)
    known = cached(cache)
    table = [known[entry.title] for entry in every if entry.title in known]
    shown = [known[entry.title] for entry in asked]
    console.print(terminal("Families", SUMMARY, summary(shown)))
    if len(table) == len(every):
        write({TABLE: table, DOCUMENT: page(table)}, console)
    else:
        console.print(f"{len(every) - len(table)} models are not examined yet: no file is written.")
    return verdict([one.sound for one in shown], "models hold", console)


def _asked(entry: Entry, options: argparse.Namespace) -> bool:
    named = any(fnmatch.fnmatch(entry.title, pattern) for pattern in options.only)
    return (named or not options.only) and (options.family is None or entry.family.lower() == options.family.lower())


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
