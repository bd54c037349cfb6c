"""Trains every row of the paper's Table 1 on the handwritten digits, ten seeds each.

A seed decides the split of the images, the initial weights, the order of the images and the new weights, and is the
same for every row. `python -m benchmarks digits` trains all rows and writes benchmarks/results/digits.csv and
docs/results.md; each run is kept in build/digits.jsonl as it ends, and `--resume` goes on from there. `--choose` trains
NR-CA-BR with several delta_lambda on other seeds, shows the validation part alone, and writes
benchmarks/results/digits_choice.csv, from which delta_lambda was chosen.
Exit status 1: a run has more params than the baseline, or the baseline's error is 3 % or less.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from statistics import mean

import torch
from rich.console import Console

from benchmarks.study.digits_page import CHOICE_HEADINGS, CHOICES, HEADINGS, Choice, error_rows, write_page
from benchmarks.study.digits_run import SETTINGS, Trained, trained
from benchmarks.table import RESULTS, ROOT, progress_bar, terminal, write_csv
from nrfx.experiment.recipe import RECIPES

TABLE = RESULTS / "digits.csv"
PAGE = ROOT / "docs" / "results.md"
KEPT = ROOT / "build" / "digits.jsonl"
SEEDS = 10
CHOOSING = range(1000, 1003)
"""Seeds that delta_lambda was chosen on: none of them is in the study."""

DELTA_LAMBDAS = (5e-4, 1e-3, 2e-3, 4e-3)
LEAST_ERROR = 3.0
"""Percent: a baseline at or below it leaves no room to be better."""


def choose(console: Console, row: str = "NR-CA-BR") -> list[Choice]:
    """Prints what each delta_lambda does on the seeds for choosing; the test part stays out of it."""
    choices = []
    with progress_bar(console) as progress:
        task = progress.add_task("choosing", total=len(DELTA_LAMBDAS) * len(CHOOSING))
        for delta in DELTA_LAMBDAS:
            runs = []
            for seed in CHOOSING:
                runs.append(trained(row, seed, replace(SETTINGS, delta_lambda=delta)))
                progress.advance(task)
            choices.append(Choice.of(delta, runs))
    seeds = f"{row} on seeds {CHOOSING.start} to {CHOOSING.stop - 1}"
    console.print(terminal(seeds, CHOICE_HEADINGS, (choice.cells() for choice in choices)))
    return choices


def kept() -> dict[tuple[str, int], Trained]:
    """The runs of an earlier call."""
    if not KEPT.is_file():
        return {}
    names = {field.name for field in fields(Trained)}
    found = [json.loads(line) for line in KEPT.read_text().splitlines()]
    runs = [Trained(**values) for values in found if values.keys() == names]
    return {(run.row, run.seed): run for run in runs}


def study(
    rows: Sequence[str], seeds: int, done: Mapping[tuple[str, int], Trained], console: Console
) -> Iterator[Trained]:
    """All runs, seed by seed, so that a study that is broken off has as many of each row."""
    wanted = [(row, seed) for seed in range(seeds) for row in rows]
    KEPT.parent.mkdir(exist_ok=True)
    with progress_bar(console) as progress:
        task = progress.add_task("digits", total=len(wanted))
        for row, seed in wanted:
            progress.update(task, description=f"{row}, seed {seed}")
            run = done.get((row, seed))
            if run is None:
                run = trained(row, seed)
                with KEPT.open("a") as file:
                    file.write(json.dumps(asdict(run)) + "\n")
            yield run
            progress.advance(task)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, prints the table, and writes the CSV and the page of a study of all rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks digits", description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="ROW", help="(all)")
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help=f"0 to N - 1 ({SEEDS})")
    parser.add_argument("--resume", action="store_true", help="keep the runs of an earlier call that was broken off")
    parser.add_argument("--choose", action="store_true", help="compare values of delta_lambda on validation images")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console()
    if options.choose:
        write_csv(choose(console), CHOICES)
        console.print(f"Written: {CHOICES.relative_to(ROOT)}")
        return 0
    if not options.resume:
        KEPT.unlink(missing_ok=True)
    runs = list(study(options.rows, options.seeds, kept(), console))
    console.print(terminal("Table 1 on the digits: mean and 95 % interval", HEADINGS, error_rows(runs)))
    if set(options.rows) == set(RECIPES) and options.seeds >= SEEDS:
        write_csv(runs, TABLE)
        write_page(runs, SETTINGS, PAGE)
        console.print(f"Written: {TABLE.relative_to(ROOT)}, {PAGE.relative_to(ROOT)}")
    return 1 if _fails(runs) else 0


def _fails(runs: Sequence[Trained]) -> bool:
    """Whether a run is over the params of the baseline of its seed, or the baseline is saturated."""
    baselines = {run.seed: run for run in runs if run.row == "BL"}
    over = any(run.seed in baselines and run.params > baselines[run.seed].params for run in runs)
    return over or bool(baselines and mean(run.test_error for run in baselines.values()) <= LEAST_ERROR)
