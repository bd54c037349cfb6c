"""The compiled kernels: what is not loaded from the cache, and what happens where it or the compiler cannot be used."""

import ctypes
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nrfx.nn import CrossLinear, cache, implementation, library

AT_ONCE = """
import os
from nrfx.nn import library
children = [os.fork(), 0]
if children[0]:
    children[1] = os.fork()
if not all(children):
    print(library.library()._name, flush=True)
    os._exit(0)
ended = [os.waitpid(child, 0)[1] for child in children]  # both, before anything is printed behind their lines
print(*map(os.waitstatus_to_exitcode, ended))
"""
CODE = (
    "import sys; from nrfx.nn import library; found = library.library(); assert found, 'no kernels'; print(found._name)"
)


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache that is the user's own, and a library that nobody has looked for."""
    monkeypatch.setenv("NRFX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NRFX_NATIVE", raising=False)
    library.forget()
    yield tmp_path / "cache"
    library.forget()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels of the whole suite, for the tests that only copy them."""
    found = library.library()
    assert found is not None, "the tests of the kernels need a C compiler"
    return Path(shutil.copyfile(found._name, tmp_path_factory.mktemp("compiled") / "cross.so"))


def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """A C compiler of one's own: a shell script. It notes each call in a file beside it."""
    path = tmp_path / "compiler"
    path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n{script}\n')
    path.chmod(0o700)
    monkeypatch.setenv("CC", str(path))
    return tmp_path / "calls"


def copying(compiled: Path) -> str:
    """A script that puts the kernels where its -o says."""
    return f'while [ "$1" != -o ]; do shift; done; cp {compiled} "$2"'


def calls(noted: Path) -> int:
    return len(noted.read_text().splitlines()) if noted.exists() else 0


def works() -> bool:
    """Whether the kernels are there and compute."""
    if library.library() is None:
        return False
    layer, x = CrossLinear((64, 64), (64, 64)), torch.randn(512, 128)
    with torch.no_grad(), implementation("direct"):
        found = layer(x)
    with torch.no_grad(), implementation("reference"):
        return torch.allclose(found, layer(x), atol=1e-3)


# What must not be loaded


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[:5000], lambda whole: whole[:-1] + b"x"])
def test_a_library_that_is_not_whole_is_compiled_again(fresh, tmp_path, monkeypatch, compiled, damage) -> None:
    """Loading one that was cut short ends the process with SIGBUS."""
    noted = compiler(tmp_path, monkeypatch, copying(compiled))
    assert works()
    (path,) = fresh.iterdir()
    path.unlink()  # the process holds its memory
    path.write_bytes(damage(compiled.read_bytes()))
    library.forget()
    assert works()
    assert path.read_bytes() == compiled.read_bytes()
    assert calls(noted) == 2
    library.forget()
    assert works()
    assert calls(noted) == 2, "and then it is taken from the cache"


def planted(folder: Path, tmp_path: Path) -> Path:
    """A library under the right name with the right digest, whose code says that it ran."""
    source = tmp_path / "planted.c"
    source.write_text(
        f'#include <stdio.h>\n__attribute__((constructor)) void ran(void) {{ fclose(fopen("{tmp_path}/ran", "w")); }}\n'
        "int direct_forward(void) { return 0; }\nint direct_backward(void) { return 0; }\n"
        "void attend_forward(void) {}\nvoid attend_backward(void) {}\n"
    )
    made = tmp_path / "planted.so"
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(made)], check=True)
    name = f"cross-{library._fingerprint(os.environ['CC'])}"
    folder.mkdir(parents=True, exist_ok=True)
    return cache.keep(folder, name, made.read_bytes())


@pytest.mark.parametrize("opened", ["folder", "above", "file"])
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_what_others_could_have_written_is_not_loaded(fresh, tmp_path, monkeypatch, compiled, opened, mode) -> None:
    shared = fresh / "deep"
    monkeypatch.setenv("NRFX_CACHE", str(shared))
    noted = compiler(tmp_path, monkeypatch, copying(compiled))
    path = planted(shared, tmp_path)
    place = {"folder": shared, "above": shared.parent, "file": path}[opened]
    place.chmod(place.stat().st_mode | mode)
    if opened == "file":
        assert works()
    else:
        with pytest.warns(RuntimeWarning, match=f"anew, because others may write {place} .*Let NRFX_CACHE name"):
            assert works()
    assert not (tmp_path / "ran").exists()
    assert calls(noted) == 1
    place.chmod(place.stat().st_mode & ~mode)
    for each in shared.iterdir():
        each.unlink()
    planted(shared, tmp_path)
    library.forget()
    library.library()
    assert (tmp_path / "ran").exists(), "the user's own is loaded: the test would see it"


def test_what_belongs_to_another_user_is_not_loaded(fresh, tmp_path, monkeypatch, compiled) -> None:
    compiler(tmp_path, monkeypatch, copying(compiled))
    path = planted(fresh, tmp_path)
    stranger = os.geteuid() + 1
    theirs = os.stat_result((*path.stat()[:4], stranger, *path.stat()[5:]))
    assert cache._belongs_to_user(path.stat())
    assert not cache._belongs_to_user(theirs)
    monkeypatch.setattr(os, "geteuid", lambda: stranger)
    if path.stat().st_uid:  # what is root's is everybody's to load
        with pytest.warns(RuntimeWarning, match="belongs to another user"):
            assert works()
        assert not (tmp_path / "ran").exists()


def test_a_link_is_not_followed_and_the_sticky_bit_helps_only_above(fresh, tmp_path, monkeypatch, compiled) -> None:
    compiler(tmp_path, monkeypatch, copying(compiled))
    path = planted(fresh, tmp_path)
    aside = path.rename(tmp_path / "aside.so")
    path.symlink_to(aside)
    assert works()
    assert not (tmp_path / "ran").exists()
    fresh.parent.chmod(0o1777)
    cache.refuse_strangers(fresh)
    fresh.chmod(0o1777)
    with pytest.raises(PermissionError, match=r"others may write .*cache \(mode 1777\)"):
        cache.refuse_strangers(fresh)


def test_what_killed_processes_left_in_the_cache_is_removed(fresh, tmp_path, monkeypatch, compiled) -> None:
    compiler(tmp_path, monkeypatch, copying(compiled))
    fresh.mkdir(mode=0o700)
    left, new = fresh / ".cross-0123-abc", fresh / ".cross-0123-def"
    for path in (left, new):
        path.write_bytes(b"half")
    os.utime(left, (time.time() - 4000,) * 2)
    assert works()
    assert not left.exists() and new.exists()


# Where the cache cannot be used


def test_without_a_home_each_process_compiles_for_itself(tmp_path, compiled, monkeypatch) -> None:
    compiler(tmp_path, monkeypatch, copying(compiled))
    monkeypatch.delenv("NRFX_CACHE")
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    nobody = "import pwd; pwd.getpwuid = {}.__getitem__;"
    done = subprocess.run([sys.executable, "-c", nobody + CODE], capture_output=True, text=True, check=True)
    assert done.stderr.count("RuntimeWarning") == 1
    assert "compiled in each process anew, because the user has no home" in done.stderr
    assert not Path(done.stdout.strip()).exists(), "and leaves nothing behind"


def test_a_read_only_folder_is_read_and_not_written(fresh, tmp_path, monkeypatch, compiled) -> None:
    noted = compiler(tmp_path, monkeypatch, copying(compiled))
    if os.geteuid() == 0:  # who may write everywhere but where the kernel says no
        fresh = Path("/proc/sys")
        monkeypatch.setenv("NRFX_CACHE", str(fresh))
    else:
        fresh.mkdir(mode=0o500)
    with pytest.warns(RuntimeWarning, match="compiled in each process anew, because"):
        assert works()
    if os.geteuid():
        fresh.chmod(0o700)
        library.forget()
        assert works()
        fresh.chmod(0o500)
        library.forget()
        assert works()
        assert calls(noted) == 2


def test_a_file_in_the_place_of_the_folder_is_no_crash(fresh, tmp_path, monkeypatch, compiled) -> None:
    compiler(tmp_path, monkeypatch, copying(compiled))
    fresh.write_text("in the way")
    with pytest.warns(RuntimeWarning, match="compiled in each process anew, because .*cache"):
        assert works()


def test_folders_are_made_for_the_user_alone(fresh, tmp_path, monkeypatch) -> None:
    before = os.umask(0)
    try:
        monkeypatch.setenv("NRFX_CACHE", str(tmp_path / "a" / "b"))
        assert cache.folder() == (tmp_path / "a" / "b").resolve()
        assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b")} == {0o700}
    finally:
        os.umask(before)


def test_relative_cache_folders_of_the_desktop_are_ignored(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("NRFX_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert cache.folder() == (tmp_path / ".cache" / "nrfx").resolve()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "there"))
    assert cache.folder() == (tmp_path / "there" / "nrfx").resolve()


# Where there is no compiler


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo cross.c:1: no luck >&2; exit 1", r"compiler did not compile .*no luck\. NRFX_NATIVE=0"),
        ("sleep 600 & wait", r"compiler did not end in 0\.5 seconds"),
        ("exit 0", "No such file or directory"),
        ('while [ "$1" != -o ]; do shift; done; echo nothing > "$2"', "too short|invalid ELF|not a mach-o|file"),
        (
            'while [ "$1" != -o ]; do shift; done; echo "int i;" | cc -x c - -shared -o "$2"',
            r"a function is missing .*direct_forward",
        ),
    ],
    ids=["fails", "hangs", "writes nothing", "writes nonsense", "writes another library"],
)
def test_a_compiler_that_fails_leaves_plain_operations_and_one_warning(
    fresh, tmp_path, monkeypatch, script, words
) -> None:
    monkeypatch.setattr(library, "_PATIENCE", 0.5 if "sleep" in script else 60)
    compiler(tmp_path, monkeypatch, script)
    started = time.monotonic()
    with pytest.warns(RuntimeWarning, match=f"(?s)plain operations, which take longer, because .*({words})") as noted:
        assert library.library() is None
        assert library.library() is None
    assert len(noted) == 1
    assert "sleep" not in script or time.monotonic() - started < 15
    layer, x = CrossLinear((64, 64), (64, 64)), torch.randn(512, 128)
    with implementation("direct"):
        assert layer(x).shape == (512, 128)


def test_no_compiler_at_all_is_said_once_and_not_at_all_on_request(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.warns(RuntimeWarning, match=r"there is no C compiler \(CC, cc, gcc, clang, g\+\+\)") as noted:
        assert library.library() is library.library() is None
    assert len(noted) == 1
    monkeypatch.setenv("NRFX_NATIVE", "0")
    library.forget()
    assert library.library() is None


# Many at once


def test_threads_that_ask_at_once_get_one_library(fresh, tmp_path, monkeypatch, compiled) -> None:
    noted = compiler(tmp_path, monkeypatch, f"sleep 0.3; {copying(compiled)}")
    found: list[ctypes.CDLL | None] = []
    threads = [threading.Thread(target=lambda: found.append(library.library())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert found[0] is not None
    assert len({id(each) for each in found}) == 1
    assert calls(noted) == 1
    assert works()


def test_processes_that_ask_at_once_leave_one_whole_library(fresh, tmp_path, monkeypatch, compiled) -> None:
    """Each meets the others: a compiler waits until all have called theirs."""
    wait = f'until [ "$(wc -l < {tmp_path}/calls)" -ge 2 ]; do sleep 0.1; done'
    noted = compiler(tmp_path, monkeypatch, f"{wait}; {copying(compiled)}")
    done = subprocess.run([sys.executable, "-W", "error", "-c", AT_ONCE], capture_output=True, text=True, check=True)
    first, second, *status = done.stdout.split()
    assert Path(first).name.startswith("cross-") and Path(second).name.startswith("cross-")
    assert status == ["0", "0"], done.stderr
    assert calls(noted) == 2
    (path,) = fresh.iterdir()
    assert path.read_bytes() == compiled.read_bytes()
    assert works()
    assert calls(noted) == 2
