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
    max_events = 1              # or "unlimited"

Whatever else stands in a file, or is of another type, is refused by name. The recipes of the paper's tables come with
the package: `names` lists them.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from nrfx.errors import NrfxError, UsageError
from nrfx.experiment.config import RunConfig
from nrfx.experiment.datasets import DataConfig
from nrfx.experiment.recipe import Recipe, recipe

SHIPPED = Path(__file__).parent / "recipes"
"""The folder of the recipes that come with the package."""

OF_THE_ROW = ("scheme", "rescale", "reallocate", "reinitialize")
"""Settings of a run that its row decides. A row also decides whether there is a sparse phase, not how much it masks."""


@dataclass(frozen=True)
class RecipeFile:
    """A training as a file describes it.

    Attributes:
        row: the row of Table 1.
        model: the network, as the command line names it.
        budget: as the command line writes it: what the rejuvenated network may cost.
        num_classes: outputs of the network; None for as many as the dataset has classes.
        data: the images.
        config: how it is trained, the row's options included.
    """

    row: Recipe
    model: str
    budget: str = "params=1.0x"
    num_classes: int | None = None
    data: DataConfig = field(default_factory=DataConfig)
    config: RunConfig = field(default_factory=RunConfig)

    def with_row(self, row: Recipe) -> Self:
        """The same training of another row."""
        dsd = (self.config.dsd or row.dsd) if row.dsd else 0.0
        return replace(self, row=row, config=replace(self.config, dsd=dsd, **row.options))


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
        content = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}.") from error
    return parse(content, str(path))


def parse(content: Mapping[str, Any], place: str = "the recipe") -> RecipeFile:
    """The recipe that the content of a file describes; `place` is what errors call it.

    Raises:
        UsageError: a key is unknown or missing, or a value has another type or is out of range.

    >>> found = parse({"row": "NR-BR", "model": "resnet18", "train": {"epochs": 90, "window": 30}})
    >>> found.config.scheme, found.config.rescale, round(found.config.search, 3)
    ('dense', True, 0.333)
    """
    top = {"row": str, "model": str, "budget": str, "num_classes": int | None, "seed": int, "data": dict, "train": dict}
    _check(content, top, place)
    for key in ("row", "model"):
        if key not in content:
            raise UsageError(f"{place} lacks {key!r}: write {_EXAMPLES[key]}.")
    data, training = dict(content.get("data", {})), dict(content.get("train", {}))
    settings = {key: hint for key, hint in get_type_hints(RunConfig).items() if key not in (*OF_THE_ROW, "seed")}
    _check(data, get_type_hints(DataConfig), f"{place}, [data]")
    own = {"window": int, "max_events": int | Literal["unlimited"]}
    _check(training, {**settings, **own}, f"{place}, [train]", decided=OF_THE_ROW)
    try:
        found = RecipeFile(
            row=recipe(content["row"]),
            model=content["model"],
            budget=content.get("budget", "params=1.0x"),
            num_classes=content.get("num_classes"),
            data=DataConfig(**data),
            config=RunConfig(**{**_settings(training, place), "seed": content.get("seed", 0)}),
        )
    except NrfxError as error:
        raise UsageError(f"{place}: {error}") from error
    return found.with_row(found.row)


UNLIMITED = "unlimited"
"""What stands for no limit: TOML has no None."""

_EXAMPLES = {"row": 'row = "NR-CA-BR"', "model": 'model = "resnet50"'}


def _settings(training: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The settings as RunConfig takes them: a window of epochs as a fraction, lists as tuples, unlimited as None."""
    found: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in training.items()}
    if found.get("max_events") == UNLIMITED:
        found["max_events"] = None
    if (window := found.pop("window", None)) is not None:
        epochs = found.get("epochs", RunConfig.epochs)
        if "search" in found or not 0 < window <= epochs:
            raise UsageError(
                f"{place}, [train]: window is {window} of {epochs} epochs; expected 1 or more, up to all of them, and "
                "no `search` beside it, which says the same as a fraction."
            )
        found["search"] = window / epochs
    return found


def _check(content: Mapping[str, Any], hints: Mapping[str, Any], place: str, decided: tuple[str, ...] = ()) -> None:
    """Refuses a key that is not among the hints, and a value that does not fit its hint."""
    for key, value in content.items():
        if key in decided:
            raise UsageError(f"{place}: {key!r} is decided by the row. Choose another row, or call nrfx.rejuvenate.")
        if key not in hints:
            close = get_close_matches(key, hints, n=1)
            hint = f"; close to it: {close[0]}" if close else ""
            raise UsageError(f"{place}: {key!r} is unknown{hint}. Known are {', '.join(hints)}.")
        if not _fits(value, hints[key]):
            raise UsageError(f"{place}: {key} is {value!r}; expected {_described(hints[key])}.")


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, list) and all(_fits(each, get_args(hint)[0]) for each in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _described(hint: Any) -> str:
    """A type in words."""
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_described(each) for each in get_args(hint) if each is not NoneType)
    if get_origin(hint) is tuple:
        return f"a list, each of it {_described(get_args(hint)[0])}"
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false", dict: "a table"}[hint]
