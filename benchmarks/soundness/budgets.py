"""Rejuvenates the networks of the paper's tables to the budgets there, and counts the cost of each result.

The columns are those that name a cost (NR-Params and NR-FLOPs of Table 2, 0.5 C of Table 4), and Tables 1 and 3, whose
text says which cost is maintained. For each column `nrfx.rejuvenate` rewrites the paper's network, once with channels
that died at random until the utilization fell below the paper's trigger, and once with channels that died by a rule.
The cost of the result is counted without nrfx. `python -m benchmarks budgets` prints the table and writes
benchmarks/results/budgets.csv and docs/budgets.md. Exit status 1: a budget was exceeded, more than 0.5 % of it was
left, or the cost is not the one that nrfx predicted.
"""

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
from benchmarks.command import DOCS, RESULTS, add_models, parser_of, verdict, write
from benchmarks.networks import norms
from benchmarks.soundness.budgets_page import HEADINGS, Row, document, lines
from benchmarks.table import progress_bar, terminal
from benchmarks.timing import Environment
from nrfx.analysis.channels import Channels
from nrfx.analysis.liveness import liveness_of
from nrfx.analysis.spaces import channels_of
from nrfx.analysis.utilization import measure
from nrfx.choices import Scheme
from nrfx.models import NETWORKS, create
from nrfx.tracing import TracedModule

TABLE = RESULTS / "budgets.csv"
DOCUMENT = DOCS / "budgets.md"
SEEDS = (0, 1, 2)
BISECTIONS = 12
BETA = 0.1
"""Standard deviation of all betas: dead channels then emit constants, whose carriers are a part of the cost."""

Measure = Literal["params", "flops"]


@dataclass(frozen=True)
class Column:
    """A column of the paper's tables: its network and budget, and the costs printed there, in millions or billions."""

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


Kill = Callable[[TracedModule, Channels, Column], None]


def ruled(live_of: Callable[[int], int], gm: TracedModule, channels: Channels, column: Column) -> None:
    """Channel i of the k-th norm lives where (7i + 3k) mod 10 < live_of(k), as in tests/data/oracle_examples.json."""
    for k, (_, norm) in enumerate(norms(gm)):
        i = torch.arange(norm.num_features)
        _set(norm.weight, (7 * i + 3 * k) % 10 >= live_of(k))


def drawn(seed: int, gm: TracedModule, channels: Channels, column: Column) -> None:
    """A gamma dies with probability t * f: each layer draws its f from uniform(0.5, 1.5), and t is the least number
    with which the utilization lies below the trigger.
    """
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
    """The utilization in one measure."""
    ratio: float = getattr(measure(gm, channels, liveness_of(gm, channels)), by).ratio
    return ratio


RANDOM: Mapping[str, Kill] = {f"random {seed}": partial(drawn, seed) for seed in SEEDS}
GIVEN: Mapping[float, Mapping[str, Kill]] = {
    0.5: {"6 of 10 live": partial(ruled, lambda _: 6), "2 to 8 of 10 live": partial(ruled, lambda k: 2 + (5 * k) % 7)},
    0.25: {"4 of 10 live": partial(ruled, lambda _: 4), "2 to 8 of 10 live": partial(ruled, lambda k: 2 + (5 * k) % 7)},
}
"""The rules for the networks of each trigger. Those with 6, and with 2 to 8, are in tests/data/oracle_examples.json."""


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
    """The row of one result, its cost counted on a copy without data."""
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
    """The rows of these columns, one after the other; a network of several columns is traced once."""
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
    """Rejuvenates all, prints the table, writes both files of a run over all; 1 if a budget was not met, else 0."""
    names = list(dict.fromkeys(column.network for column in COLUMNS))
    parser = parser_of("budgets", __doc__, "--models resnet18 vgg19_cifar")
    add_models(parser, names)
    options = parser.parse_args(arguments)
    console = Console()
    done: list[Row] = []
    with progress_bar(console) as progress:
        for each in all_rows([column for column in COLUMNS if column.network in options.models], progress):
            done.append(each)
            if not each.passed:
                missed = f"{each.network}, {each.measure}, {each.dead}: {each.cost:,} of {each.budget:,}"
                console.print(f"[red]{missed}[/red]")
    title = f"Cost above (+) or below (-) the budget: {Environment.here()}"
    console.print(terminal(title, HEADINGS, lines(done), left=4))
    if set(options.models) == set(names):
        write({TABLE: done, DOCUMENT: document(done)}, console)
    return verdict([each.passed for each in done], "budgets met", console)
