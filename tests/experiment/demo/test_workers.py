"""Trainings in several processes end as in one, and none goes on when the first is told to stop or fails."""

from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from nrfx.errors import TrainingError, UsageError
from nrfx.experiment.demo import workers
from nrfx.experiment.demo.training import Moment, Stopped, Task, trained
from nrfx.experiment.demo.workers import _tell, carried_out
from tests.experiment.demo.runs import TINY
from tests.many import forks

TASKS = [Task(TINY, 0, "plain"), Task(TINY, 0, "nr")]


def test_two_processes_give_what_one_does_and_tell_the_moments() -> None:
    moments: list[Moment] = []
    found = dict(carried_out(TASKS, 2, moments.append))
    assert {task: replace(run, seconds=0) for task, run in found.items()} == {
        task: replace(trained(task), seconds=0) for task in TASKS
    }
    assert {moment.task.row for moment in moments} == {"plain", "nr"}


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
