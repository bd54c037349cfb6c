"""Trains every row of the paper's Table 1 on the handwritten digits, ten seeds each.

A seed decides the split of the images, the initial weights, the order of the images and the new weights, and is the
same for every row. `python -m benchmarks digits` trains all rows and writes benchmarks/results/digits.csv and
docs/digits.md; each run is kept in build/digits.jsonl as it ends, and `--resume` goes on from there. `--choose` trains
NR-CA-BR with several delta_lambda on other seeds, shows the validation part alone, and writes
benchmarks/results/digits_choice.csv, from which delta_lambda was chosen.
Exit status 1: a run has more params than the baseline, or the baseline's error is 3 % or less.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from statistics import mean

from rich.console import Console

from benchmarks.command import DOCS, RESULTS, ROOT, parser_of, write
from benchmarks.study.digits_page import CHOICE_HEADINGS, CHOICES, HEADINGS, Choice, error_rows, page
from benchmarks.study.digits_run import SETTINGS, Trained, trained
from benchmarks.table import progress_bar, terminal
from nrfx.experiment.recipe import RECIPES

TABLE = RESULTS / "digits.csv"
PAGE = DOCS / "digits.md"
KEPT = ROOT / "build" / "digits.jsonl"
SEEDS = 10
CHOOSING = range(1000, 1003)
"""The seeds for the choice of delta_lambda: none of them is in the study."""

DELTA_LAMBDAS = (5e-4, 1e-3, 2e-3, 4e-3)
LEAST_ERROR = 3.0
"""Percent: a baseline with this error or less leaves the other rows no room for improvement."""


def choose(console: Console, row: str = "NR-CA-BR") -> list[Choice]:
    """Prints the means for each delta_lambda over the seeds for choosing; no test error is among them."""
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
    """The runs of an earlier call, by row and seed, whose columns are those of today."""
    if not KEPT.is_file():
        return {}
    names = {field.name for field in fields(Trained)}
    lines = [json.loads(line) for line in KEPT.read_text().splitlines()]
    runs = [Trained(**values) for values in lines if values.keys() == names]
    return {(run.row, run.seed): run for run in runs}


def study(
    rows: Sequence[str], seeds: int, done: Mapping[tuple[str, int], Trained], console: Console
) -> Iterator[Trained]:
    """All runs, seed by seed, so that a study that is broken off has the same seeds for each row."""
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
    """Trains, prints the table, writes both files of a study of all rows; 1 if a check failed, else 0."""
    parser = parser_of("digits", __doc__, "--rows BL NR-CA-BR --seeds 3")
    parser.add_argument("--rows", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="ROW", help="(all)")
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help=f"0 to N - 1 ({SEEDS})")
    parser.add_argument("--resume", action="store_true", help="keep the runs of an earlier call that was broken off")
    parser.add_argument("--choose", action="store_true", help="compare values of delta_lambda on validation images")
    options = parser.parse_args(arguments)
    console = Console()
    if options.choose:
        write({CHOICES: choose(console)}, console)
        return 0
    if not options.resume:
        KEPT.unlink(missing_ok=True)
    runs = list(study(options.rows, options.seeds, kept(), console))
    console.print(terminal("Table 1 on the digits: mean and 95 % interval", HEADINGS, error_rows(runs)))
    if set(options.rows) == set(RECIPES) and options.seeds >= SEEDS:
        write({TABLE: runs, PAGE: page(runs, SETTINGS)}, console)
    return 1 if _fails(runs) else 0


def _fails(runs: Sequence[Trained]) -> bool:
    """Whether a run has more params than the baseline of its seed, or the error of the baseline is too small."""
    baselines = {run.seed: run for run in runs if run.row == "BL"}
    over = any(run.seed in baselines and run.params > baselines[run.seed].params for run in runs)
    return over or bool(baselines and mean(run.test_error for run in baselines.values()) <= LEAST_ERROR)
