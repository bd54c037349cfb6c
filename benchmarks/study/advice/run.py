"""What `nrfx advise` says of a network, and what full runs then did: plainly and with Neural Rejuvenation.

`python -m benchmarks advice --data-root DIR` trains what is missing in benchmarks/results/advice_runs.csv, asks for the
advice that is missing in advice.csv, and writes the tables of docs/advise.md; broken off, it goes on from the lines
that are there. DIR is the folder of Fashion-MNIST's files. Exit status 1: a run costs more than its budget.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from rich.console import Console

import nrfx
from benchmarks.command import RESULTS, parser_of, write
from benchmarks.study.advice.advised import Advised, all_advised
from benchmarks.study.advice.page import HEADINGS, PAGE, compared, narrow, page, rows
from benchmarks.study.advice.runs import Full, full_runs
from benchmarks.study.advice.settings import BUDGETS, SETTINGS, SHAPES
from benchmarks.table import kept_csv, terminal

RUNS, ADVICE = RESULTS / "advice_runs.csv", RESULTS / "advice.csv"
SEEDS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains and asks for what is missing, prints the table, writes the page; 1 if a check failed, else 0."""
    parser = parser_of("advice", __doc__, "--data-root /usr/share/datasets/fashion-mnist")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder of Fashion-MNIST's files")
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help=f"0 to N - 1, of full runs ({SEEDS})")
    parser.add_argument("--page", action="store_true", help="only write the page, from the lines that are there")
    options = parser.parse_args(arguments)
    console = Console()
    if not options.page:
        if options.data_root is None:
            parser.error("--data-root is missing: the folder of Fashion-MNIST's files")
        full_runs([*SETTINGS], options.seeds, RUNS, options.data_root, console)
        all_advised(ADVICE, options.data_root, console)
    runs = kept_csv(Full, RUNS)
    settings = compared({line.setting: line for line in kept_csv(Advised, ADVICE)}, runs)
    console.print(terminal("Advice and full runs", narrow(HEADINGS), map(narrow, rows(settings))))
    write({PAGE: page(settings)}, console)
    return 1 if any(_over(run) for run in runs) else 0


def _over(run: Full) -> bool:
    """Whether a network costs more than the one that it was at first, in a measure that is bounded."""
    budget = _budget(run.setting)
    return run.params > (budget.params or run.params) or run.flops > (budget.flops or run.flops)


@cache
def _budget(name: str) -> nrfx.Budget:
    setting = SETTINGS[name]
    gm = nrfx.trace(setting.built(0), torch.zeros(2, *SHAPES[setting.data]))
    return nrfx.Budget.relative(gm, **BUDGETS[setting.budget])
