"""Plain training and Neural Rejuvenation, side by side on the handwritten digits, in about a minute.

The same small VGG, images, order of the images and number of epochs, and at most the same params. The settings were
chosen on the validation part: lambda rises slowly over many small steps (dying takes steps, not epochs; a fast lambda
destroyed networks). Neural rescaling is off: it shrinks the weights that read a norm, which makes each step on them
larger. At this learning rate the training loss of the epoch after the event was 0.8 with it, and 0.2 without it.
"""

import json
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from nrfx.errors import CheckpointError, UsageError
from nrfx.experiment.config import RunConfig
from nrfx.experiment.data import Dataset, digits
from nrfx.experiment.loop import Run, finished, train
from nrfx.experiment.progress import Screen
from nrfx.experiment.record import check_free, is_free
from nrfx.files import parsed, text_of, write
from nrfx.plan.budget import Budget
from nrfx.report import RULED
from nrfx.tracing import trace

CONFIG = RunConfig(
    epochs=50,
    batch_size=16,
    lr=0.02,
    interval=20,
    delta_lambda=5e-4,
    search=0.5,
    rescale=False,
)
"""Of both runs of the demo."""

GAMMA = 0.5
"""The initial gamma, as in the paper's networks: a channel then dies in half the steps."""


@dataclass(frozen=True)
class Demo:
    """Both runs, and the folder that holds them, as "plain" and "nr"."""

    plain: Run
    rejuvenated: Run
    budget: Budget
    out: Path

    def to_json(self) -> str:
        """The numbers of the final table, as a JSON object."""
        runs = {"plain": _numbers(self.plain), "rejuvenated": _numbers(self.rejuvenated)}
        return json.dumps({**runs, "budget_params": self.budget.params, "out": str(self.out)}, indent=2)

    def verdict(self) -> str:
        """Who made fewer mistakes on the test part, and whether chance alone would explain it."""
        plain, ours = self.plain.test, self.rejuvenated.test
        fewer = plain.wrong - ours.wrong
        if not self.rejuvenated.events:
            differ = "so that the two differ by the penalty and the learning rate's schedule alone"
            return f"No rejuvenation took place, {differ}. {self.rejuvenated.note}"
        counts = f"{ours.wrong} of {ours.images} test images wrong, against {plain.wrong} after plain training"
        if fewer and abs(fewer) <= 2 * sqrt(plain.wrong + ours.wrong):
            more = "fewer" if fewer > 0 else "more"
            return (
                f"{counts}: {abs(fewer)} {more}, which is too close to call. Another seed may come out the other way."
            )
        outcome = "the same" if fewer == 0 else "better" if fewer > 0 else "worse"
        return f"{counts}: Neural Rejuvenation did {outcome} here."


def digits_net(classes: int = 10) -> nn.Sequential:
    """A VGG with batch norm for images [N, 1, 8, 8]; every gamma begins at 0.5.

    >>> digits_net()(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    stages = OrderedDict[str, nn.Module](
        stage1=_stage(1, 8, 16, nn.MaxPool2d(2)),
        stage2=_stage(16, 16, 32, nn.MaxPool2d(2)),
        stage3=_stage(32, 32, 48, nn.AdaptiveAvgPool2d(1)),
        flatten=nn.Flatten(),
        classifier=nn.Linear(48, classes),
    )
    return nn.Sequential(stages)


def _stage(channels: int, first: int, second: int, pool: nn.Module) -> nn.Sequential:
    layers = OrderedDict[str, nn.Module]()
    for number, (i, o) in enumerate(((channels, first), (first, second)), start=1):
        norm = nn.BatchNorm2d(o)
        nn.init.constant_(norm.weight, GAMMA)
        layers |= {
            f"conv{number}": nn.Conv2d(i, o, 3, padding=1, bias=False),
            f"norm{number}": norm,
            f"relu{number}": nn.ReLU(),
        }
    return nn.Sequential(layers | {"pool": pool})


def demo(
    out: Path,
    seed: int = 0,
    epochs: int = CONFIG.epochs,
    config: RunConfig = CONFIG,
    console: Console | None = None,
    resume: bool = False,
) -> Demo:
    """Runs both trainings, shows them on the console, and leaves their logs and networks in `out`.

    Args:
        seed: of the split, the initial weights, the order of the images, and new weights.
        epochs: of each run.
        config: of both runs, but for the seed and the epochs.
        resume: go on with the demo in `out`, which was broken off; all other arguments as at first.

    Raises:
        UsageError: scikit-learn is not installed, or `out` holds a run already.
        CheckpointError: a file in `out` cannot be read or written, or the demo was begun with other settings.
    """
    console = console or Console()
    for name in ("plain", "nr"):
        if not resume:
            check_free(out / name, f"nrfx demo --resume {out}")
    config = replace(config, seed=seed, epochs=epochs)
    data = digits(seed)
    console.print(
        f"A small VGG learns {len(data.train):,} handwritten digits twice: plain, and with Neural Rejuvenation (NR). "
        f"In NR a penalty λ on the gammas rises until r, the live part of the params, is below {config.trigger:.0%}. "
        "Then what is dead is given back, and training goes on.\n",
        highlight=False,
    )
    with _one_thread():
        plain = _run("plain", data, config, None, out / "plain", console)
        budget = Budget(params=plain.params)
        rejuvenated = _run("NR", data, config, budget, out / "nr", console)
    result = Demo(plain, rejuvenated, budget, out)
    write(out / "result.json", f"{result.to_json()}\n".encode())
    console.print(comparison(result), "", result.verdict(), f"Saved in {out}", sep="\n", highlight=False)
    return result


def _run(title: str, data: Dataset, config: RunConfig, budget: Budget | None, out: Path, console: Console) -> Run:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(config.seed)
        model = digits_net(data.classes)
    gm = trace(model, torch.zeros(2, *data.train.shape))
    if (out / "model.safetensors").exists() and not (out / "state.json").exists():
        return finished(gm, data, config, budget, out)
    with Screen(console, title, config, budget, network="digits_net") as screen:
        return train(gm, data, config, budget, out, screen, resume=not is_free(out))


def begun(out: Path) -> dict[str, int]:
    """The seed and the epochs of the demo in a folder.

    Raises:
        UsageError: there is none.
        CheckpointError: its settings cannot be read.
    """
    path = out / "plain" / "config.json"
    if not path.is_file():
        raise UsageError(f"{out} holds no demo: there is no {path.relative_to(out)} in it.")
    settings = parsed(_Settings, text_of(path, CheckpointError), str(path), CheckpointError)
    return {"seed": settings.seed, "epochs": settings.epochs}


@dataclass(frozen=True, kw_only=True)
class _Settings(RunConfig):
    """The content of a config.json of the demo."""

    budget: Budget | None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Layers as small as these run faster on one thread than on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def comparison(result: Demo) -> Table:
    """Both runs side by side."""
    table = Table(box=RULED, show_edge=False, pad_edge=False)
    table.add_column("")
    table.add_column("plain", justify="right")
    table.add_column("NR", justify="right")
    rows = [_described(run) for run in (result.plain, result.rejuvenated)]
    for label, plain in rows[0].items():
        table.add_row(label, plain, Text(rows[1][label], style="bold"))
    return table


def _described(run: Run) -> dict[str, str]:
    return {
        "params": f"{run.params:,}",
        "flops": f"{run.flops:,}",
        "epochs": str(len(run.epochs)),
        "rejuvenations": str(len(run.events)),
        "validation error": f"{run.validation.error:.2f} %",
        "test error": f"{run.test.error:.2f} %",
        "test loss": f"{run.test.loss:.4f}",
        "seconds": f"{run.seconds:.0f}",
    }


def _numbers(run: Run) -> dict[str, Any]:
    return {
        **run.numbers(),
        "test_wrong": run.test.wrong,
        "test_images": run.test.images,
        "test_loss": run.test.loss,
        "seconds": run.seconds,
        "note": run.note,
    }
