"""Does a rejuvenation meet the budgets of the paper's tables? Every column, for drawn and for given dead channels.

For each column that names a cost (NR-Params and NR-FLOPs of Table 2, 0.5 C of Table 4), and for Tables 1 and 3, whose
text says what is maintained, `nrfx.rejuvenate` rewrites the real network with channels that died at random, until the
utilization falls below the paper's trigger, and with channels that died by a rule. What comes out is counted without
nrfx. `python -m benchmarks budgets` prints the table and writes benchmarks/results/budgets.csv and docs/budgets.md.
Exit status 1: some budget was exceeded, or more than 0.5 % of it was left.
"""

import argparse
import copy
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

import nrfx
from benchmarks import count
from benchmarks.budgets_page import HEADINGS, document, lines
from benchmarks.networks import norms
from benchmarks.table import RESULTS, ROOT, progress_bar, terminal, write_csv
from benchmarks.timing import Environment
from nrfx.analysis.channels import Channels
from nrfx.analysis.liveness import liveness_of
from nrfx.analysis.spaces import channels_of
from nrfx.analysis.utilization import measure
from nrfx.choices import Scheme
from nrfx.models import NETWORKS, create
from nrfx.tracing import TracedModule

TABLE = RESULTS / "budgets.csv"
DOCUMENT = ROOT / "docs" / "budgets.md"
SLACK = 0.5
"""Percent of a budget that may be left over."""

SEEDS = (0, 1, 2)
BISECTIONS = 12
BETA = 0.1
"""Standard deviation of all betas: dead channels then emit constants, whose carriers cost something too."""

Measure = Literal["params", "flops"]


@dataclass(frozen=True)
class Column:
    """What a column of the paper asks for, and what it prints: the cost before and after, in millions or billions."""

    table: int
    network: str
    classes: int
    measure: Measure
    fraction: float
    trigger: float
    scheme: Scheme
    printed_before: float | None = None
    printed_after: float | None = None

    @property
    def paper_miss(self) -> float | None:
        """Percent by which the printed cost lies above the printed budget."""
        if self.printed_before is None or self.printed_after is None:
            return None
        return 100 * (self.printed_after / (self.fraction * self.printed_before) - 1)


TABLE_2 = (
    ("densenet121_postact", (7.92, 8.22), (2.83, 2.73)),
    ("vgg16_imagenet", (37.7, 36.4), (15.3, 15.3)),
    ("resnet18", (11.7, 11.9), (1.81, 1.73)),
    ("resnet34", (21.8, 21.9), (3.66, 3.56)),
    ("resnet50", (25.6, 26.4), (4.08, 3.99)),
    ("resnet101", (44.5, 46.6), (7.80, 7.51)),
)
TABLE_4 = (
    ("vgg19_cifar", (20.04, 9.99), (20.08, 10.04)),
    ("resnet164_cifar", (1.70, 0.88), (1.73, 0.92)),
    ("densenet100_cifar", (8.27, 4.12), (8.37, 4.31)),
)
MEASURES: tuple[Measure, Measure] = ("params", "flops")
COLUMNS = (
    Column(1, "vgg19_imagenet", 1000, "params", 1.0, 0.25, "attention"),
    *(
        Column(2, name, 1000, measure, 1.0, 0.5, "attention", *printed)
        for name, *pairs in TABLE_2
        for measure, printed in zip(MEASURES, pairs, strict=True)
    ),
    *(Column(3, name, 1000, "flops", 1.0, 0.5, "attention") for name in ("mobilenet_v1_050", "mobilenet_v1_025")),
    *(
        Column(4, name, classes, "params", 0.5, 0.25, "removed", *printed)
        for name, *pairs in TABLE_4
        for classes, printed in zip((10, 100), pairs, strict=True)
    ),
)


@dataclass(frozen=True)
class Row:
    """One rejuvenation.

    Attributes:
        dead: which channels were, "random N" with the seed or "K of 10 live".
        r: utilization before, in the measure of the budget.
        cost: of the result, counted without nrfx.
        miss: percent by which it lies above the budget; negative: below.
        agrees: whether nrfx's own count is the same, in both measures.
    """

    table: int
    network: str
    classes: int
    measure: str
    fraction: float
    scheme: str
    dead: str
    r: float
    alpha: float
    carriers: int
    budget: int
    cost: int
    miss: float
    paper_miss: float | None
    agrees: bool
    torch: str
    date: str
    cpu: str

    @property
    def passed(self) -> bool:
        """Whether the cost is as predicted, and within the budget by no more than half a percent."""
        return self.agrees and -SLACK <= self.miss <= 0


Kill = Callable[[TracedModule, Channels, Column], None]


def ruled(live_of: Callable[[int], int], gm: TracedModule, channels: Channels, column: Column) -> None:
    """Channel i of the k-th norm lives where (7i + 3k) mod 10 < live_of(k), as in tests/data/oracle_examples.json."""
    for k, (_, norm) in enumerate(norms(gm)):
        i = torch.arange(norm.num_features)
        _set(norm.weight, (7 * i + 3 * k) % 10 >= live_of(k))


def drawn(seed: int, gm: TracedModule, channels: Channels, column: Column) -> None:
    """A gamma dies with probability t * f, where each layer draws its f from uniform(0.5, 1.5), with the least t whose
    utilization lies below the trigger."""
    generator = torch.Generator().manual_seed(seed)
    when = [
        torch.rand(norm.num_features, generator=generator) / (0.5 + torch.rand(1, generator=generator))
        for _, norm in norms(gm)
    ]
    low, high = 0.0, 2.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        _at(when, gm, middle)
        low, high = (low, middle) if utilized(gm, channels, column.measure) < column.trigger else (middle, high)
    _at(when, gm, high)


def _at(when: Sequence[Tensor], gm: TracedModule, t: float) -> None:
    for (_, norm), times in zip(norms(gm), when, strict=True):
        _set(norm.weight, times < t)


@torch.no_grad()
def _set(gammas: Tensor, dead: Tensor) -> None:
    gammas.copy_(torch.where(dead, 0.0, 0.5))


def utilized(gm: TracedModule, channels: Channels, by: Measure) -> float:
    ratio: float = getattr(measure(gm, channels, liveness_of(gm, channels)), by).ratio
    return ratio


RANDOM: Mapping[str, Kill] = {f"random {seed}": partial(drawn, seed) for seed in SEEDS}
GIVEN: Mapping[float, Mapping[str, Kill]] = {
    0.5: {"6 of 10 live": partial(ruled, lambda _: 6), "2 to 8 of 10 live": partial(ruled, lambda k: 2 + (5 * k) % 7)},
    0.25: {"4 of 10 live": partial(ruled, lambda _: 4), "2 to 8 of 10 live": partial(ruled, lambda k: 2 + (5 * k) % 7)},
}
"""By the paper's trigger. The rules with 6, and with 2 to 8, are those of the oracle."""


def traced(network: str, classes: int) -> TracedModule:
    """The network with betas drawn from normal(0, 0.1)."""
    torch.manual_seed(0)
    model = create(network, num_classes=classes).eval()
    for _, norm in norms(model):
        torch.nn.init.normal_(norm.bias, 0, BETA)
    return nrfx.trace(model, torch.zeros(NETWORKS[network].shape))


def rows(column: Column, gm: TracedModule, channels: Channels) -> Iterator[Row]:
    """A row for each pattern of dead channels; sets the gammas of `gm` on the way."""
    budget = nrfx.Budget.relative(gm, **{column.measure: column.fraction})
    for dead, kill in {**RANDOM, **GIVEN[column.trigger]}.items():
        kill(gm, channels, column)
        generator = torch.Generator().manual_seed(0)
        result = nrfx.rejuvenate(gm, budget, scheme=column.scheme, generator=generator)
        yield row(column, budget, dead, result)
        del result
        gc.collect()


def row(column: Column, budget: nrfx.Budget, dead: str, result: nrfx.Rejuvenation) -> Row:
    module = copy.deepcopy(result.module).to("meta")
    image = torch.zeros(NETWORKS[column.network].shape, device="meta")
    counted = {"params": count.params(module), "flops": count.flops(module, image)}
    bound = getattr(budget, column.measure)
    return Row(
        table=column.table,
        network=column.network,
        classes=column.classes,
        measure=column.measure,
        fraction=column.fraction,
        scheme=column.scheme,
        dead=dead,
        r=getattr(result.before, column.measure).ratio,
        alpha=result.alpha,
        carriers=len(result.carriers),
        budget=bound,
        cost=counted[column.measure],
        miss=100 * (counted[column.measure] / bound - 1),
        paper_miss=column.paper_miss,
        agrees=counted == {"params": result.after.params.total, "flops": result.after.flops.total},
        **asdict(Environment.here()),
    )


def all_rows(columns: Sequence[Column], progress: Progress) -> Iterator[Row]:
    """The rows of these columns as they come; a network of several columns is traced once."""
    patterns = len(SEEDS) + 2
    task = progress.add_task("", total=patterns * len(columns))
    subjects = dict.fromkeys((column.network, column.classes) for column in columns)
    for network, classes in subjects:
        gm = traced(network, classes)
        channels = channels_of(gm)
        for column in columns:
            if (column.network, column.classes) == (network, classes):
                progress.update(task, description=f"{network}, {column.measure}")
                for each in rows(column, gm, channels):
                    yield each
                    progress.advance(task)
    progress.update(task, description="done")


def main(arguments: Sequence[str] | None = None) -> int:
    """Rejuvenates all, prints the table, writes both files after a full run; 1 if a budget was not met."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks budgets",
        description="Meet the budgets of the paper's tables. Only a full run writes files.",
        epilog="example: python -m benchmarks budgets --models resnet18 vgg19_cifar",
    )
    names = list(dict.fromkeys(column.network for column in COLUMNS))
    parser.add_argument("--models", nargs="+", choices=names, default=names, metavar="NAME")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console()
    columns = [column for column in COLUMNS if column.network in options.models]
    done: list[Row] = []
    with progress_bar(console) as progress:
        for each in all_rows(columns, progress):
            done.append(each)
            if not each.passed:
                console.print(
                    f"[red]{each.network}, {each.measure}, {each.dead}: {each.cost:,} of {each.budget:,}[/red]"
                )
    console.print(
        terminal(f"Cost above (+) or below (-) the budget: {Environment.here()}", HEADINGS, lines(done), left=4)
    )
    if set(options.models) == set(names):
        write_csv(done, TABLE)
        DOCUMENT.write_text(document(done))
        console.print(f"Written: {TABLE.relative_to(ROOT)}, {DOCUMENT.relative_to(ROOT)}")
    failed = sum(not each.passed for each in done)
    console.print(f"{len(done) - failed} of {len(done)} budgets met.")
    return 1 if failed else 0
