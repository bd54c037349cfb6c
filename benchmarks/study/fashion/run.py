"""Does it help? Every row against plain training on Fashion-MNIST, with paired intervals.

`python -m benchmarks study --data-root DIR` trains what is missing in benchmarks/results/fashion.csv, a line a run, and
writes docs/results.md; broken off, it goes on from the lines that are there. `--choose` trains what the settings were
chosen by: another network, other seeds, no look at the test images; `--rates` plain training and NR with four learning
rates, without a look as well; `--tuned` both again, each with the rate that was best for it. DIR is the folder of
Fashion-MNIST's files, such as /usr/share/datasets/fashion-mnist of Debian's package dataset-fashion-mnist.
Exit status 1: a run costs more than its budget.
"""

from argparse import Namespace
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from rich.console import Console

from benchmarks.command import DOCS, RESULTS, parser_of, write
from benchmarks.study.fashion import choices, rates
from benchmarks.study.fashion.cost import Cost, costs
from benchmarks.study.fashion.page import SEEDS, page
from benchmarks.study.fashion.plan import BUDGETS, NONE_SPARED, OF_FAMILY, WITHOUT_BUDGET, Line, Task
from benchmarks.study.fashion.runs import ROWS, kept, lines
from benchmarks.study.fashion.searches import budget_of
from benchmarks.study.fashion.tables import HEADINGS, by_row, rows
from benchmarks.table import kept_csv, terminal, write_csv

LINES, CHOICES, TUNED, COSTS, WIDE = (
    RESULTS / f"fashion{name}.csv" for name in ("", "_choices", "_tuned", "_costs", "_wide")
)
PAGE, PICTURE = DOCS / "results.md", DOCS / "results.png"
OF_TABLES = [row for row in ROWS if not row.endswith(NONE_SPARED)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what is missing, prints the tables, writes the page; 1 if a check failed, else 0."""
    parser = parser_of("study", __doc__, "--data-root /usr/share/datasets/fashion-mnist --families vgg --rows BL NR")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder of Fashion-MNIST's files")
    parser.add_argument("--families", nargs="+", choices=OF_FAMILY, default=["vgg"], metavar="NAME", help="(vgg)")
    parser.add_argument("--budgets", nargs="+", choices=BUDGETS, default=["params"], metavar="NAME", help="(params)")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=OF_TABLES, metavar="ROW", help="(all)")
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help=f"0 to N - 1 ({SEEDS})")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (1)")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--choose", action="store_true", help="train what the settings were chosen by")
    other.add_argument("--rates", action="store_true", help="train BL and NR with four learning rates")
    other.add_argument("--tuned", action="store_true", help="train both again, each with the rate found for it")
    other.add_argument("--cost", action="store_true", help="only time steps of a search and an event")
    other.add_argument("--page", action="store_true", help="only write the page, from the lines that are there")
    options = parser.parse_args(arguments)
    console = Console()
    if not options.page:
        if options.data_root is None:
            parser.error("--data-root is missing: the folder of Fashion-MNIST's files")
        if options.cost:
            write_csv(costs(options.families, options.data_root), COSTS)
            return 0
        path = CHOICES if options.choose or options.rates else TUNED if options.tuned else LINES
        tasks = _tasks(options)
        if options.tuned and not tasks:
            console.print("Nothing to train: a network is tuned once --rates has trained all rates from two seeds.")
        done = lines(tasks, path, options.data_root, options.jobs, console)
        if path == CHOICES:
            return 0
        _show(done.values(), console)
    found = [*kept(LINES).values()]
    tried, tuned, wide = ([*kept(path).values()] for path in (CHOICES, TUNED, WIDE))
    write({PAGE: page(found, tried, tuned, kept_csv(Cost, COSTS), PICTURE, wide)}, console)
    return 1 if any(_over(line) for line in (*found, *tuned)) else 0


def _tasks(options: Namespace) -> list[Task]:
    """The runs that are asked for; those of the study seed by seed, the others network by network."""
    if options.choose:
        return [*choices.all_tasks()]
    if options.rates:
        return [task for family in options.families for task in rates.rate_tasks(family).values()]
    if options.tuned:
        known, tried = kept(LINES), kept(CHOICES).values()
        own = [rates.tuned_tasks(tried, family, range(options.seeds)) for family in options.families]
        return [task for task in chain.from_iterable(own) if task.key not in known]
    return [
        Task(family, row, budget, seed, choices.chosen(family, budget, row))
        for seed in range(options.seeds)
        for family in options.families
        for row in options.rows
        for budget in (["params"] if row in WITHOUT_BUDGET else options.budgets)
    ]


def _show(done: Iterable[Line], console: Console) -> None:
    """A table in the terminal for each family and budget."""
    tables: dict[tuple[str, str], list[Line]] = {}
    for line in done:
        tables.setdefault((line.family, line.budget), []).append(line)
    for (family, budget), own in tables.items():
        console.print(terminal(f"{family}, {budget}", HEADINGS, rows(by_row(own))))


def _over(line: Line) -> bool:
    """Whether the network costs more than its budget: a share of what the family's network costs as it is built."""
    budget = budget_of(Task(line.family, line.row, line.budget, line.seed, OF_FAMILY[line.family]))
    return any(
        bound is not None and spent > bound
        for bound, spent in ((budget.params, line.params), (budget.flops, line.flops))
    )
