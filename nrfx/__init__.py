"""See the waste in a network while it trains, and give it back: Neural Rejuvenation as torch.fx graph passes.

The public names are those of nrfx/api.py. They are loaded when the first of them is asked for, so that the command line
can answer `--help` without torch.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nrfx.api import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module 'nrfx' has no attribute {name!r}")
    if name in ("__all__", *_public_names()):
        return getattr(import_module("nrfx.api"), name)
    if find_spec(f"nrfx.{name}") is not None:
        return import_module(f"nrfx.{name}")
    raise AttributeError(f"module 'nrfx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_public_names()})


def _public_names() -> list[str]:
    names: list[str] = import_module("nrfx.api").__all__
    return names
