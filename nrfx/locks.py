"""Locks on open files and folders that end with the process that holds them, however it ends.

Where the system has none (Windows, some network file systems) nothing is locked.
"""

from types import ModuleType

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def locked(handle: int) -> bool | None:
    """Takes the lock of an open file or folder: False where another handle has it, None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
