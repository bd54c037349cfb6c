"""The figure of docs/speed.md, drawn from the rows of two parts with matplotlib."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed import classification, counting
from benchmarks.speed.peers import FLOP_COUNTER

OWN, GREY, LIGHT = "#c44e52", "#555555", "#b0b0b0"
COLORS = {
    counting.REPORT: "#8c2d30",
    counting.BOTH: OWN,
    counting.TRACE: "#e3a6a8",
    FLOP_COUNTER: "#333333",
    "ptflops": "#4c72b0",
    "ptflops (aten)": "#8fa8d3",
    "torchinfo": "#8172b3",
    "calflops": "#64b5cd",
    "Torch-Pruning": "#ccb974",
    "fvcore": "#55a868",
}


def drawn(counts: Sequence[counting.Time], models: Sequence[classification.Row], path: Path) -> None:
    """Two panels: tools on four networks, and nrfx on all classification models, each against symbolic_trace."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from matplotlib import rc_context  # noqa: PLC0415 (optional, and slow)
        from matplotlib.figure import Figure  # noqa: PLC0415
    with rc_context({"font.size": 9}):
        figure = Figure(figsize=(10, 7.2), layout="constrained")
        above, below = figure.subplots(2, 1, height_ratios=(1.15, 1))
        _tools(above, counts)
        _models(below, models)
        figure.savefig(path, dpi=110)


def _tools(axes, rows: Sequence[counting.Time]) -> None:  # type: ignore[no-untyped-def]
    networks = list(dict.fromkeys(row.model for row in rows))
    tools = [tool for tool in COLORS if any(row.tool == tool and row.where for row in rows)]
    width = 0.85 / len(tools)
    for index, tool in enumerate(tools):
        own = {row.model: row for row in rows if row.tool == tool and row.where}
        places = [networks.index(model) + (index - (len(tools) - 1) / 2) * width for model in own]
        values = [row.to_floor for row in own.values()]
        errors = [
            [row.to_floor - row.to_floor_first for row in own.values()],
            [row.to_floor_third - row.to_floor for row in own.values()],
        ]
        where = {row.where for row in own.values()}
        label = f"{tool}, on the CPU" if where == {counting.CPU} else tool
        axes.bar(places, values, width * 0.95, yerr=errors, color=COLORS[tool], label=label, error_kw={"lw": 0.7})
    axes.axhline(1, color=GREY, lw=0.8, ls=":")
    axes.axhline(counting.MOST, color=GREY, lw=0.8, ls="--")
    top = 1.15 * max(row.to_floor for row in rows if row.where == counting.META or row.tool == counting.BOTH)
    axes.set_ylim(0, top)
    for index, tool in enumerate(tools):
        for row in (row for row in rows if row.tool == tool and row.to_floor > top):
            place = networks.index(row.model) + (index - (len(tools) - 1) / 2) * width
            axes.text(place, top, f"{row.to_floor:.0f}", ha="center", va="bottom", fontsize=7)
    axes.set_xticks(range(len(networks)), networks)
    axes.set_ylabel("CPU time / symbolic_trace")
    axes.set_title("Counting the params and flops of a network (others on the meta device)", pad=12)
    axes.legend(ncols=5, fontsize=7.5, loc="upper center", frameon=False, bbox_to_anchor=(0.5, -0.08))
    axes.spines[["top", "right"]].set_visible(False)


def _models(axes, rows: Sequence[classification.Row]) -> None:  # type: ignore[no-untyped-def]
    ordered = sorted(rows, key=lambda row: row.to_floor)
    places = range(len(ordered))
    axes.vlines(
        places, [row.to_floor_first for row in ordered], [row.to_floor_third for row in ordered], color=LIGHT, lw=2
    )
    axes.plot(places, [row.to_floor for row in ordered], "o", ms=3.5, color=OWN, label="trace + utilization")
    axes.plot(places, [row.trace_to_floor for row in ordered], "_", ms=5, color=GREY, label="trace alone")
    axes.axhline(classification.MOST, color=GREY, lw=0.8, ls="--", label=f"goal: {classification.MOST}")
    axes.set_yscale("log")
    axes.set_yticks(ticks := [1, 2, 3, 5, 10, 20, 30], [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(-1, len(ordered))
    axes.set_xticks(places, [row.model for row in ordered], rotation=90, fontsize=5.5)
    axes.set_ylabel("CPU time / symbolic_trace")
    axes.set_title(f"nrfx on the {len(ordered)} classification models of torchvision")
    axes.legend(fontsize=7.5, loc="upper left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
