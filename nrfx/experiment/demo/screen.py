"""The demo while it trains: a line for each seed, with a bar for each of its two trainings.

Where the output is not a terminal, nothing moves: a line is printed when a training ends instead.
"""

from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nrfx.experiment.demo.training import ROWS, Moment, Row, Task, Trained, so_far
from nrfx.report import Bar

NAMES: dict[Row, str] = {"plain": "plain", "nr": "NR"}


class Screen:
    """Shows how far the trainings are, as a context manager; in a terminal, what it has drawn goes in the end."""

    def __init__(self, console: Console, tasks: Sequence[Task]) -> None:
        self.console = console
        self.moments = {(task.seed, task.row): so_far(task) for task in tasks}
        self.live = Live(self._frame(), console=console, transient=True, auto_refresh=False)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    def tell(self, moment: Moment) -> None:
        """Moves a bar on; what a moment does not say stays as it was."""
        key = moment.task.seed, moment.task.row
        new = {name: value for name in ("error", "r", "event") if (value := getattr(moment, name)) is not None}
        self.moments[key] = replace(self.moments[key], epoch=moment.epoch, **new)
        self._refresh()

    def ended(self, task: Task, run: Trained) -> None:
        """The training is over, or was over before."""
        before = self.moments[task.seed, task.row]
        self.moments[task.seed, task.row] = replace(
            before, epoch=task.last, error=run.curve[-1][1], event=run.event or None
        )
        self._refresh()
        if not self.console.is_terminal:
            event = f", rejuvenated at step {run.event:,}" if run.event else ""
            self.console.print(
                f"seed {task.seed}  {NAMES[task.row]:5}  {run.steps:,} steps{event}  "
                f"validation error {run.curve[-1][1]:.1f} %",
                highlight=False,
                soft_wrap=True,
            )

    def _frame(self) -> Group:
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        table.add_column(no_wrap=True)
        for width in (6, 15):
            table.add_column(no_wrap=True)
            table.add_column(ratio=1)
            table.add_column(width=width, no_wrap=True)
        for seed in dict.fromkeys(seed for seed, _ in self.moments):
            cells: list[str | Bar | Text] = [f"seed {seed}"]
            for row in ROWS:
                moment = self.moments[seed, row]
                done = min(moment.epoch / moment.task.last, 1.0)
                bar = Bar(((done, "█", "#", "green"), (1 - done, "·", ".", "bright_black")))
                cells += [NAMES[row], bar, Text(_state(moment))]
            table.add_row(*cells)
        return Group(table, Text("behind the bars: validation error, and r until the network is widened", style="dim"))

    def _refresh(self) -> None:
        if self.console.is_terminal:
            self.live.update(self._frame(), refresh=True)


def _state(moment: Moment) -> str:
    """The validation error, and r up to the event."""
    error = "" if moment.error is None else f"{moment.error:4.1f} %"
    if moment.event is not None:
        return f"{error:6}  widened"
    return error if moment.r is None else f"{error:6}  r {100 * moment.r:3.0f} %"
