"""The list of set-ups, and what it means to try one."""

import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from benchmarks.setups.training import Silent
from nrfx.errors import NrfxError, TrainingWarning

FILES = (
    "forwards",
    "steps",
    "optimizers",
    "schedules",
    "averages",
    "modules",
    "numbers",
    "copies",
    "mistakes",
    "trainers",
    "launched",
)
GOOD = ("works", "refused", "warned", "stopped")


@dataclass(frozen=True)
class Setup:
    """A set-up: a function that trains and returns what was seen to hold.

    Attributes:
        needs: the packages that it needs.
        stops: whether torch is to stop it, for nrfx is not there to say anything.
    """

    name: str
    group: str
    run: Callable[[], str]
    needs: tuple[str, ...] = ()
    stops: bool = False


@dataclass(frozen=True)
class Row:
    """How a set-up ended.

    Attributes:
        outcome: works; refused (an error of nrfx); warned (a warning of nrfx says what is left out); stopped (one of
            torch says what does not fit, where nrfx has no say); silent (something does not hold, and nothing was
            said); fails (another exception); absent (a package is not installed).
        detail: what was verified, or the first sentence that was said.
    """

    group: str
    setup: str
    outcome: str
    detail: str
    seconds: float
    torch: str


SETUPS: dict[str, Setup] = {}


def setup(group: str, name: str, *needs: str, stops: bool = False) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Adds a function to the list of set-ups."""

    def add(run: Callable[[], str]) -> Callable[[], str]:
        assert name not in SETUPS, name
        SETUPS[name] = Setup(name, group, run, needs, stops)
        return run

    return add


def all_setups() -> dict[str, Setup]:
    """Every set-up by name, in the order of the table."""
    for file in FILES:
        import_module(f"benchmarks.setups.{file}")
    return SETUPS


def tried(name: str) -> Row:
    """The row of a set-up, tried in this process."""
    one = all_setups()[name]
    started = time.perf_counter()
    outcome, detail = _ended(one)
    return Row(one.group, name, outcome, detail, time.perf_counter() - started, version("torch"))


def _ended(one: Setup) -> tuple[str, str]:
    missing = [package for package in one.needs if not _installed(package)]
    if missing:
        return "absent", f"{', '.join(missing)} is not installed"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", TrainingWarning)
        try:
            detail, outcome = one.run(), "works"
        except NrfxError as error:
            return "refused", re.sub(r"\S*/site-packages/", "", f"{type(error).__name__}: {error}")
        except Silent as error:
            detail, outcome = str(error), "silent"
        except Exception as error:
            ended = "stopped" if one.stops and isinstance(error, RuntimeError) else "fails"
            return ended, f"{type(error).__name__}: {error}".replace("\n", " ")[:400]
    said = [str(each.message) for each in caught if issubclass(each.category, TrainingWarning)]
    return ("warned", said[0]) if said else (outcome, detail)


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
