"""Recipe files: a whole training as a TOML file, so that a row of a table is one command.

    row = "NR-CA-BR"            # of Table 1, see nrfx.recipe
    model = "resnet50"          # as on the command line
    budget = "params=1.0x"      # as on the command line; without meaning for a baseline
    seed = 0

    [data]                      # the fields of nrfx.experiment.datasets.DataConfig
    name = "folder"

    [train]                     # the fields of nrfx.experiment.config.RunConfig that the row does not decide
    epochs = 90
    window = 30                 # the first epochs, in which an event may happen; instead of `search`
    max_events = 1              # or "unlimited"; so may rescale_limit be

Whatever else stands in a file, or is of another type, is refused by name. The recipes of the paper's tables come with
the package: `names` lists them.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import BeforeValidator, PlainValidator
from typing_extensions import TypedDict

from nrfx.errors import UsageError
from nrfx.experiment.config import RunConfig
from nrfx.experiment.datasets import DataConfig
from nrfx.experiment.recipe import Recipe, recipe
from nrfx.files import parsed, text_of

SHIPPED = Path(__file__).parent / "recipes"
"""The folder of the recipes that come with the package."""

OF_THE_ROW = ("scheme", "rescale", "reallocate", "reinitialize")
"""Settings of a run that its row decides. A row also decides whether there is a sparse phase, not how much it masks."""


Row = Annotated[Recipe, PlainValidator(recipe)]
"""In a file, the name of a row."""


def _limit(value: object) -> object:
    """A limit as TOML states it, which has no None."""
    if isinstance(value, str) and value != "unlimited":
        raise ValueError("a number or 'unlimited'")
    return None if isinstance(value, str) else value


OF_THE_FILE = {name: hint for name, hint in get_type_hints(RunConfig).items() if name not in (*OF_THE_ROW, "seed")}
"""The other settings and their types: those in [train]."""

_COUNT = Annotated[int | None, BeforeValidator(_limit)]
_FACTOR = Annotated[float | None, BeforeValidator(_limit)]
_typed: Any = TypedDict  # which mypy wants spelled out
_Limits = {"max_events": _COUNT, "rescale_limit": _FACTOR}
_Train: Any = _typed("_Train", {**OF_THE_FILE, **_Limits, "window": int}, total=False)


@dataclass(frozen=True)
class RecipeFile:
    """A training as a file describes it.

    Attributes:
        row: the row of Table 1.
        model: the network, as the command line names it.
        budget: as the command line writes it: what the rejuvenated network may cost.
        num_classes: outputs of the network; None for as many as the dataset has classes.
        seed: as in RunConfig.
        data: the images.
        train: the settings that are not as in a RunConfig by itself.
    """

    row: Row
    model: str
    budget: str = "params=1.0x"
    num_classes: int | None = None
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    train: _Train = field(default_factory=dict)

    def __post_init__(self) -> None:
        train, epochs = dict(self.train), self.train.get("epochs", RunConfig.epochs)
        if (window := train.pop("window", None)) is not None:
            if "search" in train or not 0 < window <= epochs:
                raise UsageError(
                    f"train.window is {window} of {epochs} epochs; expected 1 or more, up to all of them, and no "
                    "`search` beside it, which says the same as a fraction."
                )
            object.__setattr__(self, "train", {**train, "search": window / epochs})
        _ = self.config  # which refuses values that are out of range

    @property
    def config(self) -> RunConfig:
        """How it is trained, the row's options included."""
        told = RunConfig(**self.train, seed=self.seed)
        return replace(told, dsd=self.row.dsd and (told.dsd or self.row.dsd), **self.row.options)


def names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def read(name: str | Path) -> RecipeFile:
    """The recipe in a file, or the one of that name that comes with the package.

    Raises:
        UsageError: there is none, or it is not as described at the top of this file.
    """
    path = Path(name)
    if not path.suffix:
        path = SHIPPED / f"{name}.toml"
    if not path.is_file():
        if path.parent != SHIPPED:
            raise UsageError(f"There is no file {path}; --recipe list names the recipes that come with nrfx.")
        close = get_close_matches(str(name), names(), n=3)
        known = f"; close to it: {', '.join(close)}" if close else ""
        raise UsageError(
            f"There is no recipe {str(name)!r}{known} (--recipe list names all). The name of a file ends in .toml."
        )
    try:
        return parse(tomllib.loads(text_of(path, UsageError)), str(path))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}.") from error


def parse(content: Mapping[str, Any], place: str = "the recipe") -> RecipeFile:
    """The recipe that the content of a file describes; `place` is what errors call it.

    Raises:
        UsageError: a key is unknown or missing, or a value has another type or is out of range.

    >>> file = parse({"row": "NR-BR", "model": "resnet18", "train": {"epochs": 90, "window": 30}})
    >>> file.config.scheme, file.config.rescale, round(file.config.search, 3)
    ('dense', True, 0.333)
    """
    training = content.get("train")
    if isinstance(training, Mapping) and (decided := [key for key in OF_THE_ROW if key in training]):
        raise UsageError(f"{place}: {decided[0]!r} is decided by the row. Choose another row, or call nrfx.rejuvenate.")
    return parsed(RecipeFile, json.dumps(content, default=str), place, UsageError)
