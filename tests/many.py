"""Several processes of torch.distributed (gloo) in a test: what a function returns or raises in each.

The server that the processes are forked from imports torch once for all tests.
"""

import multiprocessing
import multiprocessing.context
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # DistributedDataParallel asks for it
import torch.distributed as dist

import tests.training.small_loop  # noqa: F401

SECONDS = 120


def forks() -> multiprocessing.context.ForkServerContext:
    """Processes for which the imports are done."""
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload([__name__])
    return start


def in_processes(work: Callable[..., Any], *args: Any, count: int = 2) -> list[Any]:
    """What `work(rank, *args)` returns in each of the processes; of an error its class and text.

    Args:
        work: a function at the top of a module; what it returns can be pickled.
    """
    start = forks()
    with tempfile.TemporaryDirectory() as folder:
        ends, started = [], []
        for rank in range(count):
            here, there = start.Pipe(duplex=False)
            one = start.Process(target=_begin, args=(there, work, rank, count, str(Path(folder) / "store"), args))
            one.start()
            there.close()
            ends.append(here)
            started.append(one)
        try:
            return [pickle.loads(end.recv_bytes()) if end.poll(SECONDS) else "hangs" for end in ends]
        finally:
            for one in started:
                one.join(1)
                one.kill()


def _begin(end: Connection, work: Callable[..., Any], rank: int, count: int, store: str, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=timedelta(seconds=60)
    )
    torch.manual_seed(rank)  # so that what is drawn differs
    try:
        end.send_bytes(pickle.dumps(work(rank, *args)))
    except BaseException as error:
        place = "".join(traceback.format_tb(error.__traceback__)[-3:])
        end.send_bytes(pickle.dumps(f"{type(error).__name__}: {error}\n{place}"))
    end.close()
    dist.destroy_process_group()
