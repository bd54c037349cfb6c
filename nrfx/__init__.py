"""See the waste in a network while it trains, and give it back: Neural Rejuvenation as torch.fx graph passes.

The public names are those of nrfx/api.py, and the rooms of the package are attributes too. They are loaded when the
first of them is asked for, so that the command line can answer `--help` without torch.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nrfx import models as models
    from nrfx import nn as nn
    from nrfx import rules as rules
    from nrfx.api import *  # noqa: F403


def _attribute(name: str) -> Any:
    """A public name, `__all__`, or a room: whatever Python does not find here by itself."""
    if name == "__all__" or not name.startswith("__"):
        api = import_module("nrfx.api")
        if name in ("__all__", *api.__all__):
            return globals().setdefault(name, getattr(api, name))
        if name.isidentifier() and find_spec(f"nrfx.{name}") is not None:
            return import_module(f"nrfx.{name}")
    raise AttributeError(f"module 'nrfx' has no attribute {name!r}")


if not TYPE_CHECKING:  # to a type checker, every misspelt name would be there
    __getattr__ = _attribute


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module("nrfx.api").__all__})
