"""What comes before a command: the import of torch, which takes longer than most of them."""

import gc
import importlib
import sys

from nrfx.garbage import unsearched


def imported(name: str) -> None:
    """Imports a large package without a search for garbage meanwhile, and leaves it out of later ones.

    There is no garbage in it, and the search takes a seventh of the time in which torch is imported. Does nothing where
    the package is there already.
    """
    if name in sys.modules:
        return
    with unsearched():
        importlib.import_module(name)
        gc.freeze()
