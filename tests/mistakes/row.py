"""A row of the tables: a model, what is done to it, and what nrfx must say."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

import nrfx


@dataclass(frozen=True)
class Row:
    """A model, what is done to it, and the error (None: a result) with the words that it says."""

    make: Callable[[], nn.Module]
    mistake: Callable[[Any, Path], object]
    error: type[nrfx.NrfxError] | None
    words: tuple[str, ...]


def row(
    make: Callable[[], nn.Module], mistake: Callable[[Any], object], error: type[nrfx.NrfxError] | None, *words: str
) -> Row:
    return Row(make, lambda model, _: mistake(model), error, words)


def on_disk(
    make: Callable[[], nn.Module], mistake: Callable[[Any, Path], object], error: type[nrfx.NrfxError], *words: str
) -> Row:
    return Row(make, mistake, error, words)
