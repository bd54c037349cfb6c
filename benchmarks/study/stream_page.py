"""The part of docs/liveness.md that comes from the stream: the table with intervals, and the plot."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.command import DOCS, RESULTS
from benchmarks.study.intervals import Interval, interval
from benchmarks.table import markdown

TABLE = RESULTS / "stream.csv"
PAGE = DOCS / "liveness.md"
PLOT = DOCS / "stream.png"
BEGIN, END = "<!-- the table of `python -m benchmarks stream` -->\n", "<!-- its end -->\n"
BLOCK = 10
"""Tasks of which one error is the mean."""

HEADINGS = ("arm", "first tasks", "last tasks", "last less plain", "dormant at the end", "events", "params")


@dataclass(frozen=True)
class Streamed:
    """One run: its errors in percent by blocks of tasks, the share of dormant units at its end, its events and costs.

    `seconds` are those of the processor.
    """

    arm: str
    seed: int
    errors: str
    dormant: float
    events: int
    params: int
    seconds: float
    torch: str
    date: str
    cpu: str

    @property
    def blocks(self) -> list[float]:
        """The errors as numbers."""
        return [float(error) for error in self.errors.split()]


def lines(runs: Sequence[Streamed]) -> Iterator[tuple[str, ...]]:
    """A line for each arm: means and intervals over the seeds; differences to the plain run of the same seed."""
    plain = {run.seed: run for run in runs if run.arm == "plain"}
    for arm in dict.fromkeys(run.arm for run in runs):
        here = [run for run in runs if run.arm == arm]
        less = interval([run.blocks[-1] - plain[run.seed].blocks[-1] for run in here])
        yield (
            arm,
            f"{interval([run.blocks[0] for run in here])} %",
            f"{interval([run.blocks[-1] for run in here])} %",
            "-" if arm == "plain" else str(less),
            f"{interval([run.dormant for run in here]).mean:.0f} %",
            f"{interval([float(run.events) for run in here]).mean:.1f}",
            f"{max(run.params for run in here):,}",
        )


def page(runs: Sequence[Streamed]) -> str:
    """docs/liveness.md with the table of these runs in its place."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    table = "\n".join(markdown(HEADINGS, lines(runs)))
    seeds = len({run.seed for run in runs})
    shown = f"![The error over the tasks, with intervals of 95 %, {seeds} seeds]({PLOT.name})"
    return f"{before}{BEGIN}\n{table}\n{seeds} seeds.\n\n{shown}\n\n{END}{after}"


def plot(runs: Sequence[Streamed]) -> None:
    """Draws the error over the tasks, a line and a band for each arm, into docs/stream.png."""
    import matplotlib as mpl  # noqa: PLC0415 (slow, and needed for a full study alone)

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(6, 3.2), dpi=110)
    for arm in dict.fromkeys(run.arm for run in runs):
        _draw(axes, arm, [run for run in runs if run.arm == arm])
    axes.set(xlabel="task", ylabel="online error, %")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(PLOT)
    plt.close(figure)


def _draw(axes: Any, arm: str, runs: Sequence[Streamed]) -> None:
    each: list[Interval] = [interval(list(block)) for block in zip(*(run.blocks for run in runs), strict=True)]
    at = [BLOCK * (index + 0.5) for index in range(len(each))]
    (line,) = axes.plot(at, [one.mean for one in each], label=arm)
    low, high = ([one.mean + sign * one.reach for one in each] for sign in (-1, 1))
    axes.fill_between(at, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
