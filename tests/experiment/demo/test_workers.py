"""Trainings in several processes end as in one, and none goes on when the first is told to stop or fails."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from nrfx.errors import TrainingError, UsageError
from nrfx.experiment.demo import workers
from nrfx.experiment.demo.training import Moment, Stopped, Task, trained
from nrfx.experiment.demo.workers import _tell, _uninterrupted, carried_out
from tests.experiment.demo.runs import TINY
from tests.many import forks

TASKS = [Task(TINY, 0, "plain"), Task(TINY, 0, "nr")]


def test_two_processes_give_what_one_does_and_tell_the_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    moments: list[Moment] = []
    deaf = []

    class Pool(ProcessPoolExecutor):
        def _spawn_process(self) -> None:
            deaf.append(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
            super()._spawn_process()  # type: ignore[misc]

    monkeypatch.setattr(workers, "ProcessPoolExecutor", Pool)
    found = dict(carried_out(TASKS, 2, moments.append))
    assert {task: replace(run, seconds=0) for task, run in found.items()} == {
        task: replace(trained(task), seconds=0) for task in TASKS
    }
    assert {moment.task.row for moment in moments} == {"plain", "nr"}
    assert deaf == [True, True] and signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C is heard, also where the tests run in the background, which may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_ctrl_c_while_processes_begin_comes_afterwards_and_not_to_them() -> None:
    echo = "import signal, time; print('begun', flush=True); time.sleep(0.2); print('ended')"
    with pytest.raises(KeyboardInterrupt), _uninterrupted():
        child = subprocess.Popen([sys.executable, "-S", "-c", echo], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None and child.stdout.readline() == "begun\n"
        child.send_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert child.communicate()[0] == "ended\n"
    assert child.returncode == 0


def test_a_process_that_is_told_to_stop_begins_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Event()
    stop.set()
    monkeypatch.setattr(workers, "_HERE", {"stop": stop})
    with pytest.raises(Stopped):
        workers._in_process(TASKS[0])


def test_an_error_in_a_process_is_that_of_the_demo_and_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "get_context", lambda kind: forks())  # sooner there than those that are spawned
    endless = replace(TINY, config=replace(TINY.config, epochs=100_000))
    tasks = [Task(endless, 0, "plain"), Task(replace(TINY, config=replace(TINY.config, batch_size=5_000)), 1, "plain")]
    with pytest.raises((TrainingError, UsageError), match="batch"):
        list(carried_out(tasks, 2, lambda moment: None))


def test_what_is_told_to_stop_leaves_a_run_to_go_on_with(tmp_path: Path) -> None:
    stop, told = Event(), []

    class Queue:
        def put(self, moment: Moment) -> None:
            told.append(moment)
            if moment.error is not None:
                stop.set()

    task = replace(TASKS[0], out=tmp_path / "run")
    with pytest.raises(Stopped):
        trained(task, lambda moment: _tell(Queue(), stop, moment))
    assert [moment.epoch for moment in told if moment.error is not None] == [1]
    assert (tmp_path / "run" / "state.json").exists()
    assert replace(trained(task), seconds=0) == replace(trained(TASKS[0]), seconds=0)
