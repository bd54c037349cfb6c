"""The trainings of the demo in one process or in several, one thread each: layers as small as these gain by no more.

The processes are told to stop, and do so within an epoch or a measurement; none is killed, so that each folder holds
what its training can go on from. They also end by themselves where the process that began them is gone.
"""

import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, parent_process
from queue import Empty
from typing import Any

import torch

from nrfx.errors import NrfxError
from nrfx.experiment.demo.training import Moment, Stopped, Task, Trained, trained

PATIENCE = 0.2
"""Seconds between two looks at what the processes have told."""


def carried_out(
    tasks: Sequence[Task], jobs: int, tell: Callable[[Moment], None]
) -> Generator[tuple[Task, Trained], None, None]:
    """What came of each training, as it ends.

    Args:
        jobs: processes; with 1 all is done in this one.
        tell: called in this process with each moment of a training.

    Raises:
        NrfxError: a training failed, or its process is gone.
    """
    if jobs == 1:
        with _one_thread():
            yield from ((task, trained(task, tell)) for task in tasks)
        return
    context = get_context("spawn")
    moments, stop = context.Queue(), context.Event()
    pool = ProcessPoolExecutor(min(jobs, len(tasks)), context, _begin, (moments, stop))
    try:
        with _uninterrupted():
            running: dict[Future[Trained], Task] = {pool.submit(_in_process, task): task for task in tasks}
        while running:
            done, _ = wait(running, PATIENCE, FIRST_COMPLETED)
            for moment in _told(moments):
                tell(moment)
            yield from ((running.pop(future), future.result()) for future in done)
    except BrokenProcessPool as error:
        raise NrfxError(
            "A process of the demo is gone, perhaps for want of memory: go on with --resume, and with --jobs 1."
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the end, and for good in processes that begin meanwhile: their imports take seconds, before
    they can ignore it by themselves."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _told(moments: Any) -> Iterator[Moment]:
    try:
        while True:
            yield moments.get_nowait()
    except Empty:
        return


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# In a process of its own

_HERE: dict[str, Any] = {}
"""The queue and the event that the process was begun with."""


def _begin(moments: Any, stop: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: the first one says stop
    torch.set_num_threads(1)
    moments.cancel_join_thread()  # nobody reads what is told after the stop
    _HERE.update(moments=moments, stop=stop)


def _in_process(task: Task) -> Trained:
    if _HERE["stop"].is_set():
        raise Stopped
    return trained(task, partial(_tell, _HERE["moments"], _HERE["stop"]))


def _tell(moments: Any, stop: Any, moment: Moment) -> None:
    parent = parent_process()
    if stop.is_set() or (parent is not None and not parent.is_alive()):
        raise Stopped
    moments.put(moment)
