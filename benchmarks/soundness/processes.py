"""Trains a small network in several processes through three events, and compares it with one process.

Under DistributedDataParallel and fully_shard: the weights of all processes must be the same, and where no norm looks at
a whole batch those of one process with the same batches, to 1e-5. Then one process differs (in its interval, budget,
weights, steps), fails in an event or leaves: all others must raise a TrainingError within 30 s. `python -m benchmarks
processes` prints the table and writes benchmarks/results/processes.csv (a minute or two on an idle machine). Exit
status 1: one of these does not hold.
"""

import multiprocessing
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.distributed as dist
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer

import nrfx
from benchmarks.command import RESULTS, parser_of, verdict, write
from benchmarks.table import terminal
from benchmarks.timing import Environment

TABLE = RESULTS / "processes.csv"
SHAPE, BATCH, EVENTS, INTERVAL = (3, 12, 12), 16, 3, 3
NEAR, SOON = 1e-5, 30.0
HANGS = 120.0


@dataclass(frozen=True)
class Row:
    """A training in several processes, or an error in one of them.

    Attributes:
        same: in all processes: weights bit by bit, or a TrainingError in all that are still there.
        difference: the largest of a weight to the training in one process; None where there is none to compare with.
        seconds: of the step that ends with the error, in the process that waits longest; None where there is none.
    """

    case: str
    processes: int
    events: int
    same: bool
    difference: float | None
    seconds: float | None
    torch: str
    date: str
    cpu: str

    @property
    def holds(self) -> bool:
        near = self.difference is None or self.difference <= NEAR
        return self.same and near and (self.seconds is None or self.seconds <= SOON)


@dataclass(frozen=True)
class Case:
    """How a training is set up: norms, wrapper, optimizer, and what the last process does otherwise."""

    name: str
    wrapper: str
    norm: Callable[[int], nn.Module]
    optimizer: Callable[[Any], Optimizer]
    other: str = ""


def single(width: int) -> nn.Module:
    """A group norm of one channel a group: a batch can be shared."""
    return nn.GroupNorm(width, width)


def sgd(parameters: Any) -> Optimizer:
    return SGD(parameters, lr=0.05, momentum=0.9)


def adamw(parameters: Any) -> Optimizer:
    return AdamW(parameters, lr=0.002, eps=1e-4)


CASES = (
    Case("DistributedDataParallel, given", "ddp", single, sgd),
    Case("DistributedDataParallel, made by somebody else, AdamW", "behind", single, adamw),
    Case("DistributedDataParallel, batch norms", "ddp", nn.BatchNorm2d, sgd),
    Case("fully_shard on the network", "fsdp", single, adamw),
    Case("fully_shard on layers and the network", "layers", single, sgd),
    *(
        Case(f"one process has {what}", "ddp", single, sgd, other)
        for other, what in {
            "interval": "another interval",
            "budget": "another budget",
            "steps": "made more steps",
        }.items()
    ),
    Case("one process has other weights, no wrapper", "", single, sgd, "weights"),
    Case("one process fails in an event", "ddp", single, sgd, "fails"),
    Case("one process leaves before a measurement", "", single, sgd, "leaves"),
)


def network(norm: Callable[[int], nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)

    def block(i: int, o: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 3, padding=1, bias=False), norm(o), nn.ReLU()]

    tail = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 8))
    return nn.Sequential(*block(3, 16), *block(16, 24), *block(24, 16), *tail)


@torch.no_grad()
def kill(gm: nn.Module) -> None:
    """Sets half of all gammas to 0, in every process those that lie there."""
    for path in ("1", "4", "7"):
        gamma: Tensor = gm.get_parameter(f"{path}.weight")
        keeps = (torch.arange(gamma.numel()) >= gamma.numel() // 2 + 1).float()
        if isinstance(gamma, DTensor):
            keeps = keeps.chunk(dist.get_world_size())[dist.get_rank()]
            gamma = gamma._local_tensor
        gamma.mul_(keeps)


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(BATCH, *SHAPE, generator=generator), torch.randint(8, (BATCH,), generator=generator)


def wrapped(case: Case, gm: nn.Module) -> nn.Module:
    if case.wrapper in ("fsdp", "layers"):
        for path in ("0", "3", "6", "11") if case.wrapper == "layers" else ():
            fully_shard(gm.get_submodule(path))
        fully_shard(gm)
        return gm
    return DistributedDataParallel(gm) if case.wrapper == "ddp" else gm


_step_began = 0.0


class Broken(list[Any]):
    """Batches that cannot be read."""

    def __iter__(self) -> Iterator[Any]:
        raise OSError("the disk is full")


def trained(rank: int, count: int, case: Case) -> tuple[int, list[Tensor]]:
    """Three events and the steps between them; (events, weights)."""
    odd = case.other if rank == count - 1 else ""
    gm = nrfx.trace(network(case.norm, seed=odd == "weights"), torch.zeros(2, *SHAPE))
    budget = nrfx.Budget.relative(gm, params=0.9 if odd == "budget" else 1.0)
    model = wrapped(case, gm) if count > 1 else gm
    optimizer = case.optimizer(gm.parameters())
    nr = nrfx.Rejuvenator(
        *(model, optimizer, budget),
        interval=INTERVAL + (odd == "interval"),
        max_events=EVENTS,
        calibration=Broken() if odd == "fails" else None if not case.other else [batch(0)[0]],
        generator=torch.Generator().manual_seed(rank),
    ).attach()
    model = DistributedDataParallel(gm) if case.wrapper == "behind" and count > 1 else model
    if odd == "steps":
        nr.load_state_dict({**nr.state_dict(), "steps": 1})
    for step in range(1, EVENTS * INTERVAL + 3):
        _note_step()
        if step % INTERVAL == 0:
            kill(gm)
        if odd == "leaves" and step == INTERVAL:
            break
        x, y = (part.chunk(count)[rank] for part in batch(0 if case.other == "leaves" else step))
        if case.other == "leaves":  # the same steps in all, so that nothing else differs
            x, y = (part.chunk(count)[0] for part in batch(step))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return nr.events, [_whole(each) for each in gm.parameters()]


def _note_step() -> None:
    global _step_began  # noqa: PLW0603  an error leaves `trained`, and this stays
    _step_began = time.perf_counter()


def _whole(parameter: Tensor) -> Tensor:
    full: Any = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
    return full.detach().clone()  # type: ignore[no-any-return]


def in_processes(count: int, case: Case) -> list[tuple[str, float, Any]]:
    """(error, seconds of the last step, what came of it) of a training in each of the processes."""
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload([__name__])
    with tempfile.TemporaryDirectory() as folder:
        ends: list[Connection] = []
        started = []
        for rank in range(count):
            here, there = start.Pipe(duplex=False)
            one = start.Process(target=_begin, args=(there, rank, count, Path(folder) / "store", case))
            one.start()
            there.close()
            ends.append(here)
            started.append(one)
        found = [pickle.loads(end.recv_bytes()) if end.poll(HANGS) else ("hangs", HANGS, None) for end in ends]
        for one in started:
            one.join(5)
            one.kill()
    return found


def _begin(end: Connection, rank: int, count: int, store: Path, case: Case) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=timedelta(seconds=HANGS)
    )
    dist.barrier()
    error, result = "", None
    try:
        result = trained(rank, count, case)
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    end.send_bytes(pickle.dumps((error, time.perf_counter() - _step_began, result)))
    dist.destroy_process_group()


def row(count: int, case: Case, alone: Mapping[Case, list[Tensor]], console: Console) -> Row:
    """A training in so many processes, compared."""
    found = in_processes(count, case)
    environment = asdict(Environment.here())
    if case.other:
        staying = found[:-1] if case.other in ("leaves", "fails") else found
        console.print(f"{case.name}: {found[0][0]}", highlight=False, markup=False)
        told = all(error.startswith("TrainingError") for error, _, _ in staying)
        return Row(case.name, count, 0, told, None, round(max(each[1] for each in staying), 1), **environment)
    if errors := [error for error, _, _ in found if error]:
        console.print(f"{case.name}: {errors[0]}", highlight=False, markup=False)
        return Row(case.name, count, 0, False, None, None, **environment)
    (events, first), *others = (result for _, _, result in found)
    same = events == EVENTS and all(torch.equal(a, b) for _, other in others for a, b in zip(first, other, strict=True))
    difference = None
    if case in alone:
        pairs = zip(first, alone[case], strict=True)
        difference = max(float((a - b).abs().max()) for a, b in pairs)
    return Row(case.name, count, events, same, difference, None, **environment)


HEADINGS = ("case", "events", "same in all", "difference to one process", "seconds to the error")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all cases, prints the table, writes the CSV of a run with the defaults; 1 if something does not hold."""
    parser = parser_of("processes", __doc__, "--processes 2")
    parser.add_argument("--processes", type=int, default=4, metavar="N", help="of each training (4)")
    options = parser.parse_args(arguments)
    console = Console()
    alone = {case: trained(0, 1, case)[1] for case in CASES if case.norm is single and not case.other}
    rows = [row(options.processes, case, alone, console) for case in CASES]
    cells = [
        (
            *(each.case, str(each.events), "yes" if each.same else "no"),
            "" if each.difference is None else f"{each.difference:.1e}",
            "" if each.seconds is None else f"{each.seconds:.1f}",
        )
        for each in rows
    ]
    console.print(terminal(f"{options.processes} processes: {Environment.here()}", HEADINGS, cells))
    if options == parser.parse_args([]):
        write({TABLE: rows}, console)
    return verdict([each.holds for each in rows], "cases hold", console)
