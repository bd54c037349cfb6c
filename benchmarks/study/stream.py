"""Trains an MLP without norms on a stream of tasks: plain, and with units that are recycled or reallocated.

Each task is the handwritten digits with the pixels in an order of its own. Every image is seen once; the error is that
of the network before it is trained on the image. A seed decides the orders of pixels and images and all weights, and is
the same for every arm. `python -m benchmarks stream` runs all arms, writes benchmarks/results/stream.csv, and puts the
table and the plot into docs/liveness.md; each run is kept in build/stream.jsonl as it ends, and `--resume` goes on from
there. It has no check: the exit status is 0.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from time import process_time
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from sklearn.datasets import load_digits
from torch import Tensor, nn

import nrfx
from benchmarks.command import ROOT, parser_of, write
from benchmarks.study.stream_page import BLOCK, HEADINGS, PAGE, TABLE, Streamed, lines, page, plot
from benchmarks.table import progress_bar, terminal
from benchmarks.timing import Environment

KEPT = ROOT / "build" / "stream.jsonl"
SEEDS, TASKS, IMAGES, BATCH = 10, 40, 1024, 16
WIDTH, LR = 64, 0.2
INTERVAL = 4 * IMAGES // BATCH
"""Steps between two measurements: four tasks."""

RECENT = 16
"""So many of the latest batches does a criterion look at."""


@dataclass(frozen=True)
class Arm:
    """A criterion as a function of the latest batches, and the options of the Rejuvenator."""

    criterion: Any
    options: Mapping[str, Any]


_IN_PLACE = {"scheme": "dense", "reallocate": False}
ARMS: Mapping[str, Arm | None] = {
    "plain": None,
    "ReDo": Arm(lambda recent: nrfx.liveness.Activation(recent, tau=0.1), _IN_PLACE),
    "utility": Arm(lambda recent: nrfx.liveness.Utility(recent, tau=1.0, most=0.05), _IN_PLACE),
    "NR": Arm(lambda recent: nrfx.liveness.Activation(recent, tau=0.1), {"scheme": "dense"}),
}
"""ReDo resets dormant units; utility resets the three least useful units of each layer, as Continual Backprop does; NR
drops dormant units and makes all layers wider by one factor."""


def network() -> nn.Sequential:
    """Two hidden layers without norms."""
    return nn.Sequential(
        *(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10)),
    )


def tasks(seed: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The images and labels of each task, [IMAGES, 64] in [0, 1]."""
    given = load_digits()
    images, labels = torch.tensor(given.data, dtype=torch.float32) / 16, torch.tensor(given.target)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        pixels, order = (torch.randperm(size, generator=generator) for size in (64, len(images)))
        yield images[order[:IMAGES]][:, pixels], labels[order[:IMAGES]]


def streamed(name: str, seed: int, count: int = TASKS) -> Streamed:
    """One arm on one stream."""
    torch.manual_seed(seed)
    start = process_time()
    gm = nrfx.trace(network(), torch.zeros(2, 64))
    optimizer = torch.optim.SGD(gm.parameters(), lr=LR)
    recent: deque[Tensor] = deque(maxlen=RECENT)
    events: list[nrfx.Event] = []
    arm = ARMS[name]
    if arm is not None:
        nrfx.Rejuvenator(
            gm,
            optimizer,
            nrfx.Budget.relative(gm, params=1.0),
            trigger=1.0,
            interval=INTERVAL,
            max_events=None,
            on_event=events.append,
            liveness=arm.criterion(lambda: list(recent)),
            generator=torch.Generator().manual_seed(seed),
            check=False,
            **arm.options,
        ).attach()
    wrong = [_trained(gm, optimizer, x, y, recent) for x, y in tasks(seed, count)]
    blocks = [sum(wrong[at : at + BLOCK]) / BLOCK for at in range(0, count, BLOCK)]
    return Streamed(
        arm=name,
        seed=seed,
        errors=" ".join(f"{error:.2f}" for error in blocks),
        dormant=_dormant(gm, list(recent)),
        events=len(events),
        params=sum(parameter.numel() for parameter in gm.parameters()),
        seconds=round(process_time() - start, 1),
        **asdict(Environment.here()),
    )


def _trained(
    gm: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, recent: deque[Tensor]
) -> float:
    """Trains on a task, and returns the error in percent, of each batch before it is trained on."""
    wrong = 0
    for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        out = gm(x)
        wrong += int((out.argmax(1) != y).sum())
        recent.append(x)
        optimizer.zero_grad()
        F.cross_entropy(out, y).backward()
        optimizer.step()
    return 100 * wrong / len(images)


def _dormant(gm: Any, batches: Sequence[Tensor]) -> float:
    """The percentage of hidden units that are dormant at the end, at tau = 0.1."""
    rows = nrfx.utilization(gm, liveness=nrfx.liveness.Activation(batches, tau=0.1)).rows[:-1]
    return round(100 * (1 - sum(row.out_live for row in rows) / sum(row.out for row in rows)), 1)


def kept() -> dict[tuple[str, int], Streamed]:
    """The runs of an earlier call, by arm and seed, whose columns are those of today."""
    if not KEPT.is_file():
        return {}
    names = {field.name for field in fields(Streamed)}
    found = [json.loads(line) for line in KEPT.read_text().splitlines()]
    runs = [Streamed(**values) for values in found if values.keys() == names]
    return {(run.arm, run.seed): run for run in runs}


def study(seeds: int, done: Mapping[tuple[str, int], Streamed], console: Console) -> Iterator[Streamed]:
    """All runs, seed by seed, so that a study that is broken off has the same seeds for each arm."""
    wanted = [(arm, seed) for seed in range(seeds) for arm in ARMS]
    KEPT.parent.mkdir(exist_ok=True)
    with progress_bar(console) as progress:
        task = progress.add_task("stream", total=len(wanted))
        for arm, seed in wanted:
            progress.update(task, description=f"{arm}, seed {seed}")
            run = done.get((arm, seed))
            if run is None:
                run = streamed(arm, seed)
                with KEPT.open("a") as file:
                    file.write(json.dumps(asdict(run)) + "\n")
            yield run
            progress.advance(task)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the study, prints the table, writes CSV, plot and table of a study with the defaults; returns 0."""
    parser = parser_of("stream", __doc__, "--seeds 2")
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help=f"0 to N - 1, 2 or more ({SEEDS})")
    parser.add_argument("--resume", action="store_true", help="keep the runs of an earlier call that was broken off")
    options = parser.parse_args(arguments)
    console = Console()
    if not options.resume:
        KEPT.unlink(missing_ok=True)
    runs = list(study(options.seeds, kept(), console))
    console.print(terminal("Error on the stream: mean and 95 % interval", HEADINGS, lines(runs)))
    if options.seeds >= SEEDS:
        write({TABLE: runs, PAGE: page(runs)}, console)
        plot(runs)
    return 0
