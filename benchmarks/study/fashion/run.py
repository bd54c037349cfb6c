"""Does it help? Every row against plain training on Fashion-MNIST, with paired intervals.

`python -m benchmarks study --data-root DIR` trains what is missing in benchmarks/results/fashion.csv, a line a run, and
writes docs/fashion.md; broken off, it goes on from the lines that are there. `--choose` trains what settings were chosen
by, on another network and other seeds, without a look at the test images. DIR is the folder of Fashion-MNIST's files,
such as /usr/share/datasets/fashion-mnist of Debian's package dataset-fashion-mnist.
Exit status 1: a run costs more than its budget.
"""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.command import RESULTS, parser_of
from benchmarks.study.fashion import choices
from benchmarks.study.fashion.plan import BUDGETS, OF_FAMILY, Task
from benchmarks.study.fashion.runs import ROWS, lines

LINES, CHOICES = RESULTS / "fashion.csv", RESULTS / "fashion_choices.csv"
SEEDS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("study", __doc__, "--data-root /usr/share/datasets/fashion-mnist --families vgg --rows BL NR")
    parser.add_argument("--data-root", type=Path, required=True, metavar="DIR", help="folder of Fashion-MNIST's files")
    parser.add_argument("--families", nargs="+", choices=OF_FAMILY, default=["vgg"], metavar="NAME", help="(vgg)")
    parser.add_argument("--budgets", nargs="+", choices=BUDGETS, default=["params"], metavar="NAME", help="(params)")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help="(all)")
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help=f"0 to N - 1 ({SEEDS})")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (1)")
    parser.add_argument("--choose", action="store_true", help="train what the settings were chosen by")
    parser.add_argument("--rates", action="store_true", help="train BL and NR with three learning rates")
    options = parser.parse_args(arguments)
    console = Console()
    if options.choose or options.rates:
        wanted = [*choices.tasks().values()] if options.choose else []
        if options.rates:
            wanted += [task for family in options.families for task in choices.rate_tasks(family).values()]
        lines(wanted, CHOICES, options.data_root, options.jobs, console)
        return 0
    tasks = [
        Task(family, row, budget, seed, OF_FAMILY[family])
        for seed in range(options.seeds)
        for family in options.families
        for budget in options.budgets
        for row in options.rows
    ]
    lines(tasks, LINES, options.data_root, options.jobs, console)
    return 0
