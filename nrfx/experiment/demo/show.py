"""`nrfx demo`: plain training and Neural Rejuvenation, side by side over some seeds, in about a minute.

The same network, images, order of the images and number of steps, and at most the same params.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from nrfx.choices import DemoData
from nrfx.errors import CheckpointError, UsageError
from nrfx.experiment.demo.picture import Curves, Pair, table, told_apart, widths
from nrfx.experiment.demo.screen import Screen
from nrfx.experiment.demo.setting import SETTINGS, found
from nrfx.experiment.demo.training import ROWS, Row, Task, Trained
from nrfx.experiment.demo.verdict import verdict
from nrfx.experiment.demo.workers import carried_out
from nrfx.experiment.intervals import interval
from nrfx.files import parsed, text_of, write, writing

FILE = "demo.json"
"""What was asked for, in the demo's folder."""

SEEDS, JOBS = 3, 2


@dataclass(frozen=True)
class Asked:
    """What a demo is asked for, as in demo.json.

    Args:
        setting: "digits" or "fashion".
        seed: the first of the seeds.
        seeds: how many.
        epochs: of each training; None for those of the setting.
        root: the folder of Fashion-MNIST's files.

    Raises:
        UsageError: a number is out of range, or the folder does not go with the setting.
    """

    setting: DemoData = "digits"
    seed: int = 0
    seeds: int = SEEDS
    epochs: int | None = None
    root: str | None = None

    def __post_init__(self) -> None:
        for name, least in {"seed": 0, "seeds": 1, "epochs": 1}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} is {value}; expected {least} or more.")
        if self.setting not in SETTINGS:
            raise UsageError(f"The demo has no data {self.setting!r}; there are {', '.join(SETTINGS)}.")
        if (self.setting == "fashion") != (self.root is not None):
            raise UsageError(
                f"The data is {self.setting!r}, and its folder {self.root!r}: Fashion-MNIST needs one with its four "
                "files (--data-root DIR), and the digits none."
            )

    def tasks(self, out: Path) -> list[Task]:
        """The trainings, seed by seed."""
        root = None if self.root is None else Path(self.root)
        return [
            Task(SETTINGS[self.setting], seed, row, self.epochs, root, out / f"seed-{seed}" / row)
            for seed in range(self.seed, self.seed + self.seeds)
            for row in ROWS
        ]


@dataclass(frozen=True)
class Demo:
    """All trainings, and the folder that holds them, as "seed-0/plain", "seed-0/nr", ..."""

    pairs: tuple[Pair, ...]
    asked: Asked
    out: Path

    def to_json(self) -> str:
        """What the demo shows, as a JSON object."""
        differences = [pair.difference for pair in self.pairs]
        between = interval(differences) if len(differences) > 1 else None
        told = {
            "data": self.asked.setting,
            "seeds": {str(pair.plain.seed): {row: asdict(getattr(pair, row)) for row in ROWS} for pair in self.pairs},
            "difference": sum(differences) / len(differences),
            "interval": None if between is None else [between.mean - between.reach, between.mean + between.reach],
            "verdict": verdict(self.pairs),
            "out": str(self.out),
        }
        return json.dumps(told, indent=2)


def chosen(data: DemoData | None = None, root: Path | None = None, **numbers: Any) -> Asked:
    """What is asked for by names: Fashion-MNIST where its folder is named or found, else the digits.

    Args:
        data: "digits" or "fashion"; None for that choice.
        root: the folder of Fashion-MNIST's files.
        numbers: seed, seeds, epochs.

    Raises:
        UsageError: a value is out of range, or Fashion-MNIST is asked for and not found.
    """
    if data == "digits":
        return Asked("digits", root=None if root is None else str(root), **numbers)
    root = root or found()
    if data is None and root is None:
        return Asked("digits", **numbers)
    return Asked("fashion", root=None if root is None else os.path.abspath(root), **numbers)


def demo(out: Path, asked: Asked | None = None, jobs: int = 1, console: Console | None = None) -> Demo:
    """Trains everything, shows it on the console, and leaves logs and networks in `out`.

    A demo in `out` that was broken off goes on if `asked` is None.

    Args:
        jobs: processes that train; with more than 1 they begin anew, as `multiprocessing` does: what calls this must
            stand below `if __name__ == "__main__":`.

    Raises:
        UsageError: scikit-learn or scipy is not installed, the images are not there, or `out` holds a demo already (or
            none to go on with).
        CheckpointError: a file in `out` cannot be read or written.
    """
    if jobs < 1:
        raise UsageError(f"jobs is {jobs}; expected 1 or more.")
    console = console or Console()
    interval([0.0, 1.0])  # scipy is there: better known now than in the end
    asked = _begun(out) if asked is None else _begin(out, asked)
    tasks = asked.tasks(out)
    SETTINGS[asked.setting].data(asked.seed, tasks[0].root)  # so are the images
    console.print(introduction(asked), highlight=False)
    ended: dict[tuple[int, Row], Trained] = {}
    with Screen(console, tasks) as screen, closing(carried_out(tasks, jobs, screen.tell)) as runs:
        for task, run in runs:
            ended[task.seed, task.row] = run
            screen.ended(task, run)
    seeds = range(asked.seed, asked.seed + asked.seeds)
    result = Demo(tuple(Pair(ended[seed, "plain"], ended[seed, "nr"]) for seed in seeds), asked, out)
    write(out / "result.json", f"{result.to_json()}\n".encode())
    console.print(Group(*report(result.pairs)), f"Saved in {out}", "", verdict(result.pairs), sep="\n", highlight=False)
    return result


def introduction(asked: Asked) -> str:
    """What is about to be trained, and before it which images, why, and how to have others."""
    setting = SETTINGS[asked.setting]
    shape = ", ".join("pool" if width is None else str(width) for width in setting.widths)
    seeds = f"{asked.seeds} seeds" if asked.seeds > 1 else "one seed"
    images = (
        "Images: handwritten digits, which need no download (--data-root DIR takes Fashion-MNIST)."
        if asked.root is None
        else f"Images: Fashion-MNIST, whose files are in {asked.root} (--data digits takes handwritten digits)."
    )
    return (
        f"{images}\n\n"
        f"A VGG whose width lies in the wrong places ({shape}) learns {setting.images} twice from {seeds}: plainly, "
        "and with Neural Rejuvenation (NR). In NR a penalty on gammas rises until r, the live part of the params, is "
        f"below {setting.config.trigger:.0%}".replace("%", " %")
        + ". Then what is dead goes, every layer is widened by "
        "one factor back to the params of before, and training goes on.\n"
    )


def report(pairs: Sequence[Pair]) -> Iterator[RenderableType]:
    """The widths, the curves and the table, with their titles."""
    each = " (mean, and each seed)" if told_apart(pairs) else " (mean)" if len(pairs) > 1 else ""
    yield Text.assemble(("Channels of each layer", "bold"), f"  as built, and behind the event{each}")
    yield ""
    yield widths(pairs)
    yield ""
    yield Text.assemble(("Validation error", "bold"), "  mean, logarithmic; with running statistics taken anew")
    yield ""
    yield Curves(pairs)
    yield ""
    yield Text.assemble(("Test error", "bold"), "  and NR's network: cost, r before the event, how much wider it got")
    yield ""
    yield table(pairs)
    yield ""


def _begin(out: Path, asked: Asked) -> Asked:
    if out.is_file() or any((out / name).exists() for name in (FILE, "plain", "nr")):
        state = "is a file" if out.is_file() else "holds a demo already"
        raise UsageError(
            f"{out} {state}: choose another folder, remove it, or go on with it (nrfx demo --resume {out})."
        )
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    write(out / FILE, f"{json.dumps(asdict(asked), indent=2)}\n".encode())
    return asked


def _begun(out: Path) -> Asked:
    """What the demo in the folder was asked for."""
    path = out / FILE
    if not path.is_file():
        raise UsageError(f"{out} holds no demo: there is no {FILE} in it.")
    return parsed(Asked, text_of(path, CheckpointError), str(path), CheckpointError)
