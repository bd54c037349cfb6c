"""Run folders that were killed, shared, edited, cut short or cannot be written: an error of nrfx names the file."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nrfx import files
from nrfx.cli.endings import Terminated, terminations
from nrfx.errors import CheckpointError, UsageError
from nrfx.experiment.loop import finished, train
from nrfx.experiment.record import Epoch, Folder, Silent, check_free, is_free
from tests.experiment.test_loop import dataset
from tests.experiment.test_record import CONFIG, begun, fresh, went_on, whole

# Killed

AFTER = (0, 2, 5, 9, 14, 25)

KILLED = """
import os, sys, torch
from pathlib import Path
import tests.experiment.test_record as t
from nrfx.experiment.loop import train
from tests.experiment.test_loop import dataset

torch.set_num_threads(1)  # as in conftest.py
calls = 0
def counted(kind, most):
    def wrapped(*given, **named):
        global calls
        if calls == most:
            os.kill(os.getpid(), 9)
        calls += 1
        return kind(*given, **named)
    return wrapped

for after in sys.argv[2:]:  # a process for each, for which the imports are done
    child = os.fork()
    if not child:
        for name in ("replace", "unlink", "mkdir", "open"):
            setattr(Path, name, counted(getattr(Path, name), int(after)))
        gm, budget = t.fresh()
        train(gm, dataset(), t.CONFIG, budget, Path(sys.argv[1]) / after)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run for each number of AFTER, which was killed after as many file operations."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-c", KILLED, str(folder), *map(str, AFTER)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["-9"] * len(AFTER), done.stderr
    return folder


@pytest.mark.parametrize("after", AFTER)
def test_a_run_that_was_killed_before_any_file_operation_ends_as_it_would_have(after: int, killed: Path) -> None:
    expected, left = whole()
    out = killed / str(after)
    if is_free(out):
        gm, budget = fresh()
        run = train(gm, dataset(), CONFIG, budget, out)
    elif (out / "state.json").exists():
        run = went_on(out)
    else:
        gm, budget = fresh()
        run = finished(gm, dataset(), CONFIG, budget, out)
    assert run.events == expected.events and run.test == expected.test
    epochs = ([replace(epoch, seconds=0) for epoch in each.epochs] for each in (run, expected))
    assert next(epochs) == next(epochs)
    numbers = expected.module.state_dict()
    assert all(torch.equal(value, numbers[name]) for name, value in run.module.state_dict().items())
    assert {path.name for path in out.iterdir()} == left.keys() == {"config.json", "log.jsonl", "model.safetensors"}


def test_a_run_that_is_over_is_read_back_as_it_was_returned(tmp_path: Path) -> None:
    config = replace(CONFIG, trigger=0.01)
    gm, budget = fresh()
    run = train(gm, dataset(), config, budget, tmp_path)
    gm, budget = fresh(seed=17)
    again = finished(gm, dataset(), config, budget, tmp_path)
    assert "without a rejuvenation" in run.note
    assert replace(again, module=run.module, seconds=run.seconds) == run


# Shared


def test_a_second_run_in_the_folder_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    begun(tmp_path, after=2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with Folder(tmp_path) as first:
        first._lock(tmp_path)
        with pytest.raises(UsageError, match=r"Another process trains in .*: wait until it ends, or choose another"):
            went_on(tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert len(went_on(tmp_path).epochs) == 4


def test_two_runs_that_begin_at_once_do_not_both_begin(tmp_path: Path) -> None:
    with Folder(tmp_path) as first:
        first._lock(tmp_path)
        gm, budget = fresh()
        with pytest.raises(UsageError, match="Another process trains in"):
            train(gm, dataset(), CONFIG, budget, tmp_path)
    assert not list(tmp_path.iterdir())


# Edited or cut short


def edited(change: dict[str, Any]) -> Callable[[Path], None]:
    def edit(out: Path) -> None:
        state = json.loads((out / "state.json").read_text())
        (out / "state.json").write_text(json.dumps({**state, **change}))

    return edit


def shortened(name: str) -> Callable[[Path], None]:
    def cut(out: Path) -> None:
        (path,) = out.glob(name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return cut


def without_last_lines(out: Path) -> None:
    lines = (out / "log.jsonl").read_text().splitlines(keepends=True)
    (out / "log.jsonl").write_text("".join(lines[:-2]))


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "text epoch": (edited({"epoch": "two"}), r"state\.json: epoch is 'two'; expected a whole number"),
    "other epoch": (edited({"epoch": 1}), r"state\.json: epoch is 1, and log\.jsonl has 2 epochs"),
    "no random state": (edited({"random": {}}), r"state\.json is not the state of a run: KeyError\('order'\)"),
    "random state that is none": (edited({"random": {"order": "zz"}}), r"state\.json is not the state of a run"),
    "other checkpoint": (edited({"checkpoint": "gone"}), r"There is no file .*gone"),
    "state cut short": (shortened("state.json"), r"state\.json cannot be read as JSON: EOF"),
    "checkpoint cut short": (
        shortened("checkpoint-*"),
        r"checkpoint-2\.safetensors is not a complete",
    ),
    "log cut short": (shortened("log.jsonl"), r"log\.jsonl.* at the last checkpoint it had 3"),
    "line lost": (without_last_lines, r"log\.jsonl has 2 lines, and at the last checkpoint it had 3"),
    "log gone": (lambda out: (out / "log.jsonl").unlink(), r"log\.jsonl cannot be read: .*No such file"),
    "log of bytes": (lambda out: (out / "log.jsonl").write_bytes(b"\xff\n" * 3), r"log\.jsonl cannot be read: 'utf-8'"),
    "log of text": (lambda out: (out / "log.jsonl").write_text("a\nb\nc\n"), r"log\.jsonl, line 1 cannot be read"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_files_that_do_not_belong_together_are_refused_by_name(fault: str, tmp_path: Path) -> None:
    begun(tmp_path, after=3)
    change, words = FAULTS[fault]
    change(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        went_on(tmp_path)


@pytest.mark.parametrize(("change", "words"), [
    ({"lr": 0.3}, r"config\.json: lr is 0\.3, and the run was begun with 0\.02"),
    ({"seed": 5}, r"config\.json: seed is 5, and the run was begun with 1"),
    ({"batch_size": 10}, r"config\.json: batch_size is 10, and the run was begun with 8"),
    ({"epochs": 9}, r"config\.json: epochs is 9, and the run was begun with 4"),
])  # fmt: skip
def test_other_settings_than_those_of_the_beginning_are_refused_by_name(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    begun(tmp_path, after=3)
    with pytest.raises(CheckpointError, match=words):
        went_on(tmp_path, replace(CONFIG, **change))
    assert len(went_on(tmp_path).epochs) == 4


def test_a_state_of_an_earlier_version_has_no_settings_to_compare(tmp_path: Path) -> None:
    begun(tmp_path, after=3)
    state = json.loads((tmp_path / "state.json").read_text())
    del state["config"], state["last_event"]
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert len(went_on(tmp_path).epochs) == 4


# Places that cannot be written


def unwritable(tmp_path: Path) -> Path:
    """A folder in which nothing can be made: root may write everywhere but where the kernel says no."""
    if os.geteuid() == 0:
        return Path("/proc/sys")
    tmp_path.chmod(0o500)
    return tmp_path


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    gm, budget = fresh()
    with pytest.raises(CheckpointError, match=r"run cannot be written \(.*\)\. Choose a place that is writable"):
        train(gm, dataset(), CONFIG, budget, unwritable(tmp_path) / "run")


def test_a_folder_below_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    gm, budget = fresh()
    with pytest.raises(CheckpointError, match=r"run cannot be written \(Not a directory\)"):
        train(gm, dataset(), CONFIG, budget, tmp_path / "file" / "run")
    with pytest.raises(UsageError, match="is a file"):
        check_free(tmp_path / "file")


class Fills(Silent):
    """A watcher behind whose second epoch no file can grow beyond some bytes."""

    def __init__(self, room: int, most: int) -> None:
        self.limits = room, most

    def trained(self, epoch: Epoch) -> None:
        if epoch.epoch == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)


@pytest.mark.parametrize("room", [0, 900])
def test_a_disk_that_is_full_ends_the_run_which_goes_on_when_there_is_room(room: int, tmp_path: Path) -> None:
    gm, budget = fresh()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(CheckpointError) as raised:
            train(gm, dataset(), CONFIG, budget, tmp_path, Fills(room, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "checkpoint-2.safetensors cannot be written (File too large)" in str(raised.value)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]
    assert went_on(tmp_path).test == whole()[0].test


def test_a_log_that_cannot_grow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"log\.jsonl cannot be written \(No space left on device\)"):
        Folder(tmp_path).line("epoch", {"epoch": 1})


def test_a_signal_while_a_file_is_written_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def interrupted(handle: int) -> None:
        signal.raise_signal(signal.SIGTERM)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(Terminated), terminations():
        files.write(tmp_path / "file", b"new")
    assert not list(tmp_path.iterdir())
