"""Work in which Python does not search for garbage.

A pass makes a hundred thousand objects that refer to each other, and keeps most of them: Python then searches again and
again, each time through all that torch holds as well, and finds nothing. What a pass leaves is found afterwards, in one
search.
"""

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Blocks:
    """The blocks that are open now, in all threads.

    Attributes:
        searched: whether Python searched before the first of them was opened.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer or signal handler within it may come here again
        self._open = 0
        self.searched = True

    def enter(self) -> None:
        with self._lock:
            if not self._open:
                self.searched = gc.isenabled()
            gc.disable()
            self._open += 1

    def leave(self) -> None:
        with self._lock:
            self._open -= 1
            if not self._open and self.searched:
                gc.enable()

    def in_a_new_process(self) -> None:
        """A process that was forked meanwhile, by whatever thread, has none of the blocks."""
        if self._open and self.searched:
            gc.enable()
        self._lock = threading.RLock()
        self._open = 0


_BLOCKS = _Blocks()
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_BLOCKS.in_a_new_process)


@contextmanager
def unsearched() -> Iterator[None]:
    """No search for garbage within the block; behind the last one, of all threads, it is as it was before the first.

    For work of our own alone: what a user's code leaves (a training, a forward on data) may hold much memory.

    >>> with unsearched():
    ...     gc.isenabled()
    False
    >>> gc.isenabled()
    True
    """
    _BLOCKS.enter()
    try:
        yield
    finally:
        _BLOCKS.leave()
