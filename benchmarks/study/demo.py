"""The demo over ten seeds: what Neural Rejuvenation wins in `nrfx demo`, with its interval.

`python -m benchmarks demo` trains what is missing in benchmarks/results/demo.csv, a line a run, and writes docs/demo.md
and docs/demo.svg, which is what the demo shows of seeds 0 to 2; broken off, it goes on from the lines that are there.
`--data fashion --data-root DIR` does the same for the demo on Fashion-MNIST. `--choose` trains what the setting was
chosen by: other seeds (1000 and up), and no look at the test images.
Exit status 1: a network has more params than it may.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.command import DOCS, RESULTS, parser_of, write
from benchmarks.study.demo_page import CHOICE_HEADINGS, HEADINGS, Line, choice_rows, page, pairs_of, picture, rows
from benchmarks.table import append_csv, kept_csv, progress_bar, read_csv, terminal
from benchmarks.timing import Environment
from nrfx.experiment.demo.setting import SETTINGS, Setting
from nrfx.experiment.demo.training import ROWS, Task, trained

LINES, CHOICES = RESULTS / "demo.csv", RESULTS / "demo_choices.csv"
PAGE, PICTURE = DOCS / "demo.md", DOCS / "demo.svg"
SEEDS, CHOOSING = range(10), range(1000, 1003)

_CHOSEN = replace(
    SETTINGS["digits"], validation=SETTINGS["digits"].test, test=SETTINGS["digits"].validation
)  # the choice is made on as many images as the test


VARIANTS: Mapping[str, Setting] = {
    f"lr {lr}": replace(_CHOSEN, config=replace(_CHOSEN.config, lr=lr)) for lr in (0.05, 0.1)
}
"""What the setting of the digits was chosen from, by name."""


DECIDING = (
    *("epochs", "batch_size", "lr", "momentum", "weight_decay", "shift", "warmup", "trigger", "interval", "search"),
    *(
        "delta_lambda",
        "delta_r",
        "max_events",
        "penalty",
        "weighted",
        "spare",
        "raise_lambda",
        "scheme",
        "rescale",
        "gamma_new",
    ),
    "cross",
)
"""The fields of the config by which a run is known again: new fields of RunConfig leave the lines that are there."""


@dataclass(frozen=True)
class Wanted:
    """A run: the name of its setting or variant, and its task. `test` says whether its test error is kept."""

    name: str
    task: Task
    test: bool

    @property
    def key(self) -> str:
        """By which a run is known again: all that decides its outcome."""
        setting = self.task.setting
        images = setting.widths, setting.side, setting.validation, setting.test, setting.count
        told = [self.name, self.task.seed, self.task.row, self.test, images]
        told += [(name, getattr(setting.config, name)) for name in DECIDING]
        return hashlib.sha256(repr(told).encode()).hexdigest()[:12]


def carried_out(wanted: Wanted) -> Line:
    """The line of a run."""
    run = asdict(trained(wanted.task))
    curve = " ".join(f"{step}:{error:.2f}" for step, error in run.pop("curve"))
    texts = {name: " ".join(map(str, run.pop(name))) for name in ("layers", "widths")}
    run |= {"test": run["test"] if wanted.test else None, "curve": curve, **texts, **asdict(Environment.here())}
    return Line(key=wanted.key, setting=wanted.name, **{name: run[name] for name in _names() - {"key", "setting"}})


def _names() -> set[str]:
    return {field.name for field in fields(Line)}


def lines(wanted: Sequence[Wanted], path: Path, console: Console) -> list[Line]:
    """The lines of the runs: those in the file, and the others, which are added to it as they end."""
    known = {line.key: line for line in kept_csv(Line, path)}
    with progress_bar(console) as progress:
        bar = progress.add_task("runs", total=len(wanted))
        for each in wanted:
            progress.update(bar, description=f"{each.name}, {each.task.row}, seed {each.task.seed}")
            if each.key not in known:
                known[each.key] = carried_out(each)
                append_csv(known[each.key], path)
            progress.advance(bar)
    return [known[each.key] for each in wanted]


def wanted(data: Sequence[str], seeds: Sequence[int], root: Path | None) -> Iterator[Wanted]:
    """The runs of the demo, seed by seed."""
    for name in data:
        for seed in seeds:
            for row in ROWS:
                yield Wanted(name, Task(SETTINGS[name], seed, row, root=root), test=True)  # type: ignore[index]


def tried(seeds: Sequence[int] = CHOOSING) -> Iterator[Wanted]:
    """The runs that the setting was chosen by."""
    for name, setting in VARIANTS.items():
        for seed in seeds:
            for row in ROWS:
                yield Wanted(name, Task(setting, seed, row), test=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what is missing, prints the table, writes the page and the picture; 1 if a check failed, else 0."""
    parser = parser_of("demo", __doc__, "--seeds 3")
    parser.add_argument("--data", nargs="+", choices=SETTINGS, default=["digits"], metavar="NAME", help="(digits)")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder of Fashion-MNIST's files")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), metavar="N", help=f"0 to N - 1 ({len(SEEDS)})")
    parser.add_argument("--choose", action="store_true", help="train what the setting was chosen by")
    parser.add_argument("--page", action="store_true", help="only write the page, from the lines that are there")
    options = parser.parse_args(arguments)
    console = Console()
    torch.set_num_threads(1)
    if options.choose:
        done = lines([*tried()], CHOICES, console)
        console.print(_short("validation error, digits", CHOICE_HEADINGS, choice_rows(done)))
        return 0
    if not options.page:
        done = lines([*wanted(options.data, range(options.seeds), options.data_root)], LINES, console)
        console.print(_short("test error", HEADINGS, rows(done)))
    found = read_csv(Line, LINES)
    write({PAGE: page(found, read_csv(Line, CHOICES), SEEDS), PICTURE: picture(found)}, console)
    return 1 if any(pair.nr.params > pair.plain.params for pair in pairs_of(found)) else 0


def _short(title: str, headings: Sequence[str], table: Iterable[Sequence[str]]) -> Table:
    """The first columns of a table of the page, for the terminal."""
    return terminal(title, headings[:6], ([cell.strip("*") for cell in row[:6]] for row in table))
