"""Work in which Python does not search for garbage.

A pass makes a hundred thousand objects that refer to each other, and keeps most of them: Python then searches again and
again, each time through all that torch holds as well, and finds nothing. What a pass leaves is found afterwards, in one
search.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unsearched() -> Iterator[None]:
    """No search for garbage within the block; afterwards it is as it was, also where the block was left by an error.

    For work of our own alone: what a user's code leaves (a training, a forward on data) may hold much memory.

    >>> with unsearched():
    ...     gc.isenabled()
    False
    >>> gc.isenabled()
    True
    """
    searches = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searches:
            gc.enable()
