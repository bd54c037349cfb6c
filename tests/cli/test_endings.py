"""Commands that a signal ends: the terminal, the exit status, and what the run's folder then holds."""

import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nrfx.cli.commands import COMMANDS, main
from nrfx.cli.endings import Terminated, terminations
from tests.cli.running import refused

HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"
TRAIN = ["train", "nrfx.experiment.networks:digits_net", "--epochs", "500", "--batch", "200", "--out", "run"]


def in_a_terminal(arguments: list[str], folder: Path, until: bytes, number: int) -> tuple[bytes, int]:
    """What a command printed on a terminal, to which the signal was sent once `until` was there, and its status."""
    main_end, its_end = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path)}
    # a suite that runs in the background ignores SIGINT, and Python then leaves it so
    code = (
        "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "runpy.run_module('nrfx', run_name='__main__', alter_sys=True)"
    )
    command = [sys.executable, "-c", code, *arguments]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdin=its_end, stdout=its_end, stderr=its_end)
    os.close(its_end)
    said, sent, end = b"", False, time.monotonic() + 120
    while time.monotonic() < end:
        if select.select([main_end], [], [], 0.2)[0]:
            try:
                said += os.read(main_end, 65536)
            except OSError:  # the process has closed its end
                break
        if not sent and until in said and (folder / "run" / "state.json").exists():
            process.send_signal(number)
            sent = True
    os.close(main_end)
    return said, process.wait(30)


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGTERM, 143, b"terminated"), (signal.SIGINT, 130, b"interrupted")]
)
def test_a_signal_ends_a_run_with_the_cursor_back_and_a_checkpoint(
    number: int, status: int, word: bytes, tmp_path: Path
) -> None:
    said, ended = in_a_terminal(TRAIN, tmp_path, b" 2/500", number)
    assert ended == status
    assert said.count(HIDE) >= 1 and said.rindex(SHOW) > said.rindex(HIDE)
    assert b"nrfx: " + word + b" (nrfx train --resume run goes on from the last epoch that ended)" in b" ".join(
        said.split()
    )
    assert b"Traceback" not in said
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.json", "log.jsonl", "state.json"} < names and not any(name.endswith(".tmp") for name in names)
    assert [name for name in names if name.startswith("checkpoint-")]


def test_handlers_are_put_back_and_threads_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), terminations():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before is signal.SIG_DFL
    inside = []

    def run() -> None:
        with terminations():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == [signal.SIG_DFL]


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminations():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_each_signal_has_its_status_and_no_hint_where_nothing_began(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        monkeypatch.setitem(COMMANDS, "inspect", lambda _, number=number: signal.raise_signal(number))
        assert main(["inspect", "resnet18"]) == 128 + number
        assert capsys.readouterr().err == "nrfx: terminated\n"


def test_a_demo_that_was_broken_off_goes_on_by_the_command_that_it_names(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nrfx.experiment.record import Folder  # noqa: PLC0415  (patched below)

    arguments = ["demo", "--data", "digits", "--epochs", "3", "--seed", "4", "--seeds", "1", "--jobs", "1", "--json"]
    going_on = ["demo", "--resume", "broken", "--jobs", "1", "--json"]
    put, kept = Folder.checkpoint, []

    def breaks_off(self: Folder, *of: object) -> None:
        put(self, *of)
        kept.append(self.out)
        if len(kept) in (2, 5):  # in the first run; then, gone on with, in the second
            raise KeyboardInterrupt

    assert main([*arguments, "--out", "whole"]) == 0
    whole = capsys.readouterr().out
    with monkeypatch.context() as patched:
        patched.setattr(Folder, "checkpoint", breaks_off)
        assert main([*arguments, "--out", "broken"]) == 130
        assert "(nrfx demo --resume broken goes on from" in " ".join(capsys.readouterr().err.split())
        assert "go on with it (nrfx demo --resume broken)" in refused([*arguments, "--out", "broken"], capsys)
        assert "--seed cannot be changed in a demo" in refused(["demo", "--resume", "broken", "--seed", "5"], capsys)
        assert "--data-root cannot" in refused(["demo", "--resume", "broken", "--data-root", "data"], capsys)
        assert main(going_on) == 130
        capsys.readouterr()
    assert kept[-1] == Path("broken/seed-4/nr")
    assert main(going_on) == 0
    assert timeless(capsys.readouterr().out) == timeless(whole)
    assert "absent holds no demo" in refused(["demo", "--resume", "absent"], capsys)


def timeless(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if '"seconds"' not in line and '"out"' not in line]


@pytest.mark.parametrize("name", ["config.json", "state.json"])
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(
    name: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*TRAIN[:2], "--epochs", "1", "--batch", "200", "--json"]
    assert main([*arguments, "--out", "run"]) == 0
    whole = capsys.readouterr().out
    for left in ("log.jsonl", "model.safetensors"):
        (files / "run" / left).unlink()
    (files / "run" / f".{name}.0123abcd.tmp").touch()
    assert main(["train", "--resume", "run", "--json"]) == 0
    assert timeless(capsys.readouterr().out) == timeless(whole)
    assert sorted(path.name for path in (files / "run").iterdir()) == ["config.json", "log.jsonl", "model.safetensors"]


def test_edited_settings_are_one_line(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nrfx.experiment.record import Folder  # noqa: PLC0415

    def breaks_off(self: Folder, *of: object) -> None:
        put(self, *of)
        raise KeyboardInterrupt

    put = Folder.checkpoint
    with monkeypatch.context() as patched:
        patched.setattr(Folder, "checkpoint", breaks_off)
        assert main(TRAIN) == 130
    capsys.readouterr()
    config = files / "run" / "config.json"
    for old, new, words in (
        ('"lr": 0.02', '"lr": 0.5', "lr is 0.5, and the run was begun with 0.02"),
        ('"seed": 0', '"seed": 1', "seed is 1, and the run was begun with 0"),
        ('"batch_size": 200', '"batch_size": 100', "batch_size is 100, and the run was begun with 200"),
        ('"size": null', '"size": 9', "data.size is 9, and the run was begun with None"),
    ):
        text = config.read_text()
        assert old in text
        config.write_text(text.replace(old, new))
        assert words in refused(["train", "--resume", "run"], capsys)
        config.write_text(text)


def test_a_place_that_cannot_be_written_is_one_line(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "file").touch()
    arguments = [*TRAIN[:-1], "file/run"]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err == (
        "nrfx: error: file/run cannot be written (Not a directory). Choose a place that is writable and has room.\n"
    )
