"""Trainings of the demo that are over, and ones that take seconds."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from nrfx.experiment.demo.picture import Pair
from nrfx.experiment.demo.setting import SETTINGS, Setting
from nrfx.experiment.demo.training import Row, Trained

LAYERS, BUILT, GROWN = ("conv1", "conv2", "conv3"), (4, 8, 64), (9, 17, 43)

TINY: Setting = replace(
    SETTINGS["digits"],
    widths=(2, None, 12),
    config=replace(
        SETTINGS["digits"].config,
        epochs=3,
        batch_size=64,
        lr=0.1,
        interval=2,
        delta_lambda=0.1,
        trigger=0.9,
        search=1.0,
        warmup=2,
    ),
    test=0.25,
)
"""A setting whose gammas die at once: 27 steps."""


def run(row: Row, seed: int, test: float, event: int = 640, **other: object) -> Trained:
    found = row == "nr" and event > 0
    values = {
        "seed": seed,
        "row": row,
        "params": 43_417 if found else 43_470,
        "flops": 264_300 if found else 191_872,
        "layers": LAYERS,
        "widths": GROWN if found else BUILT,
        "steps": 3_300,
        "event": event if found else 0,
        "r": 0.237 if found else 1.0,
        "alpha": 2.14 if found else 1.0,
        "validation": test,
        "test": test,
        "curve": tuple((step, test + 5_000 / step) for step in range(66, 3_301, 66)),
        "seconds": 9.0,
        **other,
    }
    return Trained(**values)  # type: ignore[arg-type]


def pairs(*errors: tuple[float, float], event: int = 640, **other: object) -> list[Pair]:
    """A seed for each (plain, NR) of test errors."""
    return [
        Pair(run("plain", seed, plain), run("nr", seed, ours, event, **other))
        for seed, (plain, ours) in enumerate(errors)
    ]


GAIN, NONE, LOSS = (
    pairs((5.0, 3.0), (5.5, 3.2), (6.0, 4.1)),
    pairs((5.0, 3.0), (4.0, 5.5), (6.0, 6.1)),
    pairs((3.0, 5.0), (3.2, 5.5), (4.1, 6.0)),
)
"""Three seeds in which NR is better, alike and worse."""


def console(width: int = 80, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None, legacy_windows=False)


def said(on: Console) -> str:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Setting:
    """The demo's setting, and with it the demo, in small."""
    monkeypatch.setattr("nrfx.experiment.demo.show.SETTINGS", {**SETTINGS, "digits": TINY})
    return TINY
