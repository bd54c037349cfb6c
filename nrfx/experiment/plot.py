# ruff: noqa: PLC0415  matplotlib is optional
"""The paper's Figure 1 of runs: utilization and validation accuracy over the epochs, events marked.

A faint line is the accuracy with running statistics that lag behind, see `nrfx.experiment.scores`.

Source: Neural Rejuvenation, Sec. 4.1, Figure 1.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nrfx.errors import UsageError
from nrfx.experiment.record import Epoch, EventRecord, Log, read_log

FORMATS = ("png", "svg")
FAINT: Mapping[str, Any] = MappingProxyType({"alpha": 0.4, "linewidth": 0.8})
"""How the accuracy with lagging statistics is drawn."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which colour-blind readers can tell apart; more runs than these begin again with dashes."""


def plot(runs: Sequence[Path], out: Path, measure: str = "params") -> tuple[Path, ...]:
    """Draws the runs in one figure, and writes it as PNG and SVG.

    Args:
        runs: folders of runs (`nrfx train`, or `nrfx.experiment.loop.train`).
        out: the files' name, whose suffix is replaced by .png and .svg.
        measure: "params" or "flops", whose utilization is drawn.

    Raises:
        UsageError: matplotlib is not installed, a folder holds no run with an epoch, or `out` cannot be written.
    """
    if measure not in ("params", "flops"):
        raise UsageError(f"measure is {measure!r}; expected 'params' or 'flops'.")
    logs = [(run, read_log(run)) for run in runs]
    if not logs:
        raise UsageError("There is nothing to draw: name the folder of a run.")
    for run, log in logs:
        if not log.epochs:
            raise UsageError(f"{run} holds no epoch yet: let it train for one.")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("A figure needs matplotlib, which is not installed: pip install 'nrfx[plot]'.") from error
    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    names = _names([run for run, _ in logs])
    for number, (name, (_, log)) in enumerate(zip(names, logs, strict=True)):
        _draw(axes, log, measure, name, COLOURS[number % len(COLOURS)], "-" if number < len(COLOURS) else "--")
    _finish(axes, measure, [log for _, log in logs])
    return tuple(_write(figure, out.with_suffix(f".{suffix}")) for suffix in FORMATS)


def _names(runs: Sequence[Path]) -> list[str]:
    """The folders' own names; with those above them where two are called the same."""
    paths = [run.resolve().parts for run in runs]
    depth = 1
    while len({path[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    return ["/".join(path[-depth:]) for path in paths]


def _draw(axes: Any, log: Log, measure: str, name: str, colour: str, line: str) -> None:
    """One run: an epoch is drawn at its end, an event where it took place, with what it found."""
    style = {"color": colour, "linestyle": line, "linewidth": 1.6}
    per_epoch = log.epochs[0].step

    def utilization(at: Epoch | EventRecord) -> float:
        return 100 * (at.r_params if measure == "params" else at.r_flops)

    events = [(event.step / per_epoch, utilization(event), 100 - event.validation_error_before) for event in log.events]
    live = [(epoch.epoch, utilization(epoch)) for epoch in log.epochs]
    accurate = [(epoch.epoch, 100 - epoch.validation_error) for epoch in log.epochs]
    seen = [(place, r) for place, r, _ in events], [(place, accuracy) for place, _, accuracy in events]
    for axis, marks, ends in zip(axes, seen, (live, accurate), strict=True):
        curve = sorted([*marks, *ends], key=lambda point: point[0])
        axis.plot(*zip(*curve, strict=True), label=name, **style)
    if lagging := _lagging(log):
        axes[1].plot(*zip(*lagging, strict=True), **{**style, **FAINT})
    for place, r, accuracy in events:
        for axis, height in zip(axes, (r, accuracy), strict=True):
            axis.axvline(place, color=colour, linewidth=0.8, linestyle=":")
            axis.plot([place], [height], marker="o", markersize=6, markerfacecolor="white", **style)


def _lagging(log: Log) -> list[tuple[float, float]]:
    """(epoch, accuracy) with the running statistics that training has left, in order."""
    per_epoch = log.epochs[0].step
    ends = [(float(epoch.epoch), epoch.lagging_error) for epoch in log.epochs]
    events = [(event.step / per_epoch, event.lagging_error_before) for event in log.events]
    return sorted((place, 100 - error) for place, error in (*ends, *events) if error is not None)


def _finish(axes: Any, measure: str, logs: Sequence[Log]) -> None:
    if any(map(_lagging, logs)):  # one entry of the legend for all
        axes[1].plot([], [], color="black", label="with running statistics, which lag behind", **FAINT)
    axes[0].set_ylabel(f"utilization of {measure}, %")
    axes[1].set_ylabel("validation accuracy, %")
    axes[1].set_xlabel("epoch (circles: rejuvenations)" if any(log.events for log in logs) else "epoch")
    axes[0].set_ylim(0, 105)
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].legend(frameon=False, loc="lower right")


def _write(figure: Any, path: Path) -> Path:
    try:
        figure.savefig(path, dpi=160)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path
