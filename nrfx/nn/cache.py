"""The folder in which compiled kernels are kept from one process to the next, and what may be taken from it.

A library that is loaded runs as the user, so the rule is that of ssh for its keys: the file and all folders above it
belong to the user or to root, and nobody else may write them. Folders with the sticky bit, such as /tmp, may lie above
the cache: there others cannot rename what belongs to the user. A library's name holds the digest of its content, so
that what a full disk or a crash cut short is not loaded. It is written under another name and renamed when whole.

Not handled: access lists beyond the mode bits, and systems without owners (there is no cache then).
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path


def folder() -> Path:
    """The cache: NRFX_CACHE, or nrfx in the user's cache folder. Made where it does not exist, for the user alone.

    Raises:
        OSError: there is none that only the user can write.
    """
    folder = wanted().resolve()  # a link that is changed later leads nowhere else
    for place in (*reversed(folder.parents), folder):
        place.mkdir(mode=0o700, exist_ok=True)
    refuse_strangers(folder)
    return folder


def wanted() -> Path:
    """Where the cache is, or will be once something is kept.

    Raises:
        OSError: nothing says where.
    """
    if os.environ.get("NRFX_CACHE"):
        return Path(os.environ["NRFX_CACHE"])
    above = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(above):  # what the XDG specification asks for
        return Path(above) / "nrfx"
    try:
        return Path.home() / ".cache" / "nrfx"
    except RuntimeError as error:
        raise OSError("the user has no home") from error


def refuse_strangers(place: Path) -> None:
    """Raises PermissionError where somebody but the user and root can change what lies at a resolved path."""
    for part in (place, *place.parents):
        status = part.lstat()
        if not _belongs_to_user(status):
            raise PermissionError(f"{part} belongs to another user (id {status.st_uid})")
        is_sticky = part != place and status.st_mode & stat.S_ISVTX
        if _is_open(status) and not is_sticky:
            raise PermissionError(f"others may write {part} (mode {stat.S_IMODE(status.st_mode):o})")


def _belongs_to_user(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.geteuid())


def _is_open(status: os.stat_result) -> bool:
    return bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def find(cache: Path, name: str) -> Path | None:
    """A whole library of this name that only the user could have written; None where there is none."""
    return next((path for path in sorted(cache.glob(f"{name}-*.so")) if _is_whole(path)), None)


def keep(cache: Path, name: str, content: bytes) -> Path:
    """Puts a library into the cache, whole or not at all, whoever else does it at the same time.

    Raises:
        OSError: the cache cannot be written.
    """
    _remove_left(cache)
    target = cache / f"{name}-{_digest(content)}.so"
    handle, fresh = tempfile.mkstemp(prefix=f".{name}-", dir=cache)  # for the user alone
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(fresh, target)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise
    return target


_LONG_AGO = 3600
"""Seconds behind which a file that was not renamed is one of a killed process: writing takes less than one."""


def _remove_left(cache: Path) -> None:
    """Removes what processes that were killed while they wrote have left."""
    for path in cache.glob(".cross-*-*"):
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime > _LONG_AGO:
                path.unlink()


def _is_whole(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or not _belongs_to_user(status) or _is_open(status):
            return False
        return path.stem.endswith(f"-{_digest(file.read())}")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
