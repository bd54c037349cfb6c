"""Locks: one handle at a time, and free again when its process is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from nrfx.locks import locked

HOLDS = """
import os, sys, time
from nrfx.locks import locked
handle = os.open(sys.argv[1], os.O_RDONLY)
print(locked(handle), flush=True)
time.sleep(60)
"""


def test_a_folder_is_locked_by_one_handle_until_it_is_closed(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    assert locked(first) is True
    assert locked(second) is False
    os.close(first)
    assert locked(second) is True
    os.close(second)


def test_a_lock_goes_with_the_process_that_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    handle = os.open(tmp_path, os.O_RDONLY)
    assert locked(handle) is False
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert locked(handle) is True
    os.close(handle)


def test_where_a_file_has_no_locks_that_is_said(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    assert locked(write) is None
