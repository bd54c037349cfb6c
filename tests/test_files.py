"""Files: a write that fails changes nothing; what does not fit is named with its field, its value and the expected."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nrfx import files
from nrfx.errors import BudgetError, CheckpointError, UsageError
from nrfx.files import parsed, remove_left, text_of, write


@dataclass(frozen=True)
class Inner:
    size: int
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.size > 9:
            raise BudgetError(f"{self.size} is too large.")


@dataclass(frozen=True)
class Outer:
    name: str
    inners: tuple[Inner, ...] = ()
    one: Inner | None = None
    names: dict[str, int] = field(default_factory=dict)


LEAST = {"name": "a"}


@pytest.mark.parametrize(("content", "words"), [
    ([], r"it is []; expected a table."),
    ({}, "it lacks 'name'. Known are name, inners, one, names."),
    ({"nmae": "a"}, "it: 'nmae' is unknown; close to it: name. Known are name, inners, one, names."),
    ({"name": 3}, "it: name is 3; expected a text."),
    ({**LEAST, "inners": [{"size": 1}, {"size": "1"}]}, "it: inners.1.size is '1'; expected a whole number."),
    ({**LEAST, "inners": [{"siez": 1}]}, "it: 'inners.0.siez' is unknown; close to it: size. Known are size, share."),
    ({**LEAST, "one": {}}, "it lacks 'one.size'. Known are size, share."),
    ({**LEAST, "one": {"size": 1, "share": True}}, "it: one.share is True; expected a number."),
    ({**LEAST, "one": {"size": 10}}, "it: 10 is too large."),
    ({**LEAST, "names": {"b": 1.5}}, "it: names.b is 1.5; expected a whole number."),
    ({**LEAST, "name": ["x" * 99] * 99}, "it: name is ['xxxxxxxxxxxx...xxxxxxxxxxxxx', "),
])  # fmt: skip
def test_what_does_not_fit_is_one_sentence_with_field_value_and_what_is_expected(content: Any, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed(Outer, json.dumps(content), "it", UsageError)
    assert str(caught.value).startswith(words)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["", "{", "[" * 999 + "]" * 999, '{"name": ' + "[" * 10**6, '{"name": ' + "9" * 9999])
def test_what_is_no_json_or_too_deep_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"^it cannot be read as JSON: .* at line 1 column \d+\.$"):
        parsed(Outer, text, "it", CheckpointError)


def test_what_fits_becomes_the_value() -> None:
    text = '{"name": "a", "inners": [{"size": 1, "share": 1}], "names": {"b": 2}}'
    assert parsed(Outer, text, "it", UsageError) == Outer("a", (Inner(1, 1.0),), None, {"b": 2})
    assert parsed(Inner, '{"size": 1, "of a later version": 2}', "it", UsageError, extra="ignore") == Inner(1)


def test_a_text_that_is_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LIMIT", 10)
    (tmp_path / "short").write_text("x" * 10)
    (tmp_path / "long").write_text("x" * 11)
    assert text_of(tmp_path / "short", UsageError) == "x" * 10
    with pytest.raises(UsageError, match="long is longer than 10 characters"):
        text_of(tmp_path / "long", UsageError)
    with pytest.raises(UsageError, match="it is longer than 10 characters"):
        parsed(Outer, '{"name": 1}', "it", UsageError)


def test_a_text_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xe4")
    for name, reason in (("latin", "0xe4"), ("gone", "No such file")):
        with pytest.raises(CheckpointError, match=rf"{name} cannot be read: .*{reason}"):
            text_of(tmp_path / name, CheckpointError)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    write(tmp_path / "file", b"old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match=r"file cannot be written .No space left on device"):
        write(tmp_path / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]
    with pytest.raises(CheckpointError, match=r"there is no folder .*missing"):
        write(tmp_path / "missing" / "file", b"new")


def test_a_write_replaces_the_file_that_a_link_leads_to(tmp_path: Path) -> None:
    write(tmp_path / "file", b"old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write(tmp_path / "link", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()


def test_what_killed_writers_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    code = (
        "import os, sys, nrfx.files as files; from pathlib import Path\n"
        "Path.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "files.write(sys.argv[1], b'half')"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "file")], check=False).returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".file.") and left.read_bytes() == b"half"
    for name in (".file.tmp", ".other.01234567.tmp", "file.01234567.tmp"):
        (tmp_path / name).touch()
    with files._temporary(tmp_path / "file") as living:
        write(tmp_path / "file", b"new")
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            [".file.tmp", ".other.01234567.tmp", "file", "file.01234567.tmp", Path(living.name).name]
        )
    remove_left(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".file.tmp", "file", "file.01234567.tmp"]


def test_a_temporary_file_that_was_taken_for_a_left_one_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer removes it between its making and its lock."""
    seen: list[int] = []
    monkeypatch.setattr(files, "locked", lambda handle: _removing(tmp_path, handle, seen))
    with files._temporary(tmp_path / "file") as file:
        assert Path(file.name).exists()
    assert len(seen) == 2


def _removing(folder: Path, handle: int, seen: list[int]) -> bool:
    """The lock of a new file, where at the first call somebody else has removed all that is in the folder."""
    seen.append(handle)
    if len(seen) == 1:
        for path in folder.iterdir():
            path.unlink()
    return True


def test_a_full_disk_is_said_in_a_line(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from nrfx.files import write\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write(sys.argv[1], bytes(2000))"
    )
    (tmp_path / "file").write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "file")], capture_output=True, text=True, check=False
    )
    assert "CheckpointError" in done.stderr and "file cannot be written (File too large); what was" in done.stderr
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_nrfx_is_imported_without_the_library_that_checks_files() -> None:
    code = "import sys, nrfx, nrfx.checkpoint, nrfx.files; assert 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
