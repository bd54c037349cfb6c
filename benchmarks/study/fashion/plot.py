"""The figure of docs/results.md: the weights' error on the way, and the widths before and after, of one family."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from benchmarks.study.fashion.networks import network
from benchmarks.study.fashion.plan import Line, points_of
from benchmarks.study.fashion.tables import Runs

COLOURS = {"BL": "#555555", "NR": "#D55E00", "NR-CA-BR": "#0072B2", "NR-FS all steps": "#009E73"}


def drawn(family: str, runs: Runs, path: Path) -> None:
    """Two panels: validation error over the steps, mean over seeds, events marked; and the widths of the layers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from matplotlib import rc_context  # noqa: PLC0415 (optional, and slow)
        from matplotlib.figure import Figure  # noqa: PLC0415
    with rc_context({"font.size": 9}):
        figure = Figure(figsize=(10, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
        shown = [name for name in COLOURS if len(runs.get(name, {})) > 1]
        for name in shown:
            points = _mean_curve(runs[name])
            left.plot(*zip(*points, strict=True), color=COLOURS[name], label=name, lw=1.4)
            events = [line.event for line in runs[name].values() if line.event]
            for event in events:
                left.axvline(event, color=COLOURS[name], lw=0.6, ls=":")
        left.set_xlabel("step (dotted: events)")
        left.set_ylabel("validation error, %, statistics taken anew")
        left.set_ylim(bottom=10, top=32)
        left.legend(frameon=False)
        _widths(right, family, runs)
        for axis in (left, right):
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(alpha=0.25)
        figure.savefig(path, dpi=120)


def _mean_curve(runs: Mapping[int, Line]) -> list[tuple[int, float]]:
    """The mean over seeds at every hundredth step."""
    curves = [
        {step: error for step, mark, error in points_of(line.curve) if not mark and step % 100 == 0}
        for line in runs.values()
    ]
    shared = set.intersection(*(set(curve) for curve in curves))
    return [(step, mean(curve[step] for curve in curves)) for step in sorted(shared)]


def _widths(axis, family: str, runs: Runs) -> None:  # type: ignore[no-untyped-def]
    before = [len(p) for p in network(family, 0).parameters() if p.dim() == 4]
    after = [list(map(int, line.widths.split())) for line in runs.get("NR", {}).values() if line.event]
    places = range(len(before))
    axis.bar([place - 0.2 for place in places], before, 0.38, color=COLOURS["BL"], label="as built")
    same = [widths for widths in after if len(widths) == len(before)]
    if same:
        heights = [mean(column) for column in zip(*same, strict=True)]
        reach = _spread(same)
        axis.bar(
            [place + 0.2 for place in places], heights, 0.38, yerr=reach, color=COLOURS["NR"], label="behind NR's event"
        )
    axis.set_xlabel("convolution")
    axis.set_ylabel("channels")
    axis.legend(frameon=False, loc="upper left")


def _spread(rows: Sequence[Sequence[int]]) -> list[list[float]]:
    """How far the least and the most lie from the mean, by column."""
    columns = list(zip(*rows, strict=True))
    return [[mean(c) - min(c) for c in columns], [max(c) - mean(c) for c in columns]]
