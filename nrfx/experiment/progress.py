"""A run in the terminal: a progress bar, the layers' utilization falling, and the moment of rejuvenation.

Where the output is not a terminal, nothing moves: a line is printed now and then instead.
"""

from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from nrfx.analysis.utilization import Share, Utilization
from nrfx.experiment.config import RunConfig
from nrfx.experiment.record import Epoch
from nrfx.experiment.scores import Score, Scores
from nrfx.plan.budget import Budget
from nrfx.report import Bar, percent, rejuvenation_report
from nrfx.report.layer_tree import lines
from nrfx.training.events import Event, Measurement

LINES = 10
"""Lines that a run prints where nothing can move."""


class Screen:
    """Watches a run (see `nrfx.experiment.loop.Watcher`) and shows it on a console, as a context manager.

    Args:
        title: what the run is called.
        config: of the run.
        budget: of the run; None for plain training, which has no layers to watch.
        network: what the network is called in the report of a rejuvenation; None for the title.
    """

    def __init__(
        self, console: Console, title: str, config: RunConfig, budget: Budget | None = None, network: str | None = None
    ) -> None:
        self.console, self.title, self.config, self.budget = console, title, config, budget
        self.network = network or title
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            console=console,
            expand=True,
        )
        self.task = self.progress.add_task(title, total=config.epochs)
        self.layers: Table | Text = Text()
        self.r, self.lam, self.seen, self.last = "100 %", 0.0, "", ""
        self.live = Live(self._frame(), console=console, transient=True, auto_refresh=False)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()
        if self.console.is_terminal and self.last:
            self.console.print(self.last, highlight=False, soft_wrap=True)

    def begins(self, forecast: str) -> None:
        """Prints how long dying takes."""
        if forecast:
            self.console.print(forecast, highlight=False)

    def measured(self, measurement: Measurement) -> None:
        """Draws the layers anew."""
        self.r, self.lam = percent(measurement.r), measurement.lam
        if self.console.is_terminal:
            self.layers = layer_bars(measurement.utilization)
        self._refresh()
        if measurement.note:
            self.console.print(Text(measurement.note, style="yellow"))

    def rejuvenated(self, event: Event, before: Scores, after: Scores) -> None:
        """Prints what happened, layer by layer, above the progress bar."""
        self.console.print(
            Text(
                f"Step {event.step}: r is {percent(event.r)}, below the trigger of {percent(self.config.trigger)}.",
                "bold",
            ),
            "",
            rejuvenation_report(event.result, title=self.network, budget=self.budget),
            "",
            f"validation loss {before.recalibrated.loss:.4f} before, {after.recalibrated.loss:.4f} after",
            *_lagging(before.lagging, after.lagging),
            "",
            sep="\n",
        )
        self.r, self.lam, self.layers = percent(1.0), 0.0, Text()
        self._refresh()

    def trained(self, epoch: Epoch) -> None:
        """Moves the progress bar on."""
        seen = f"loss {epoch.loss:.3f}  error {epoch.validation_error:4.1f} %"
        if epoch.lagging_error is not None:
            seen += f" (lag {epoch.lagging_error:4.1f})"
        if self.budget is not None:
            self.r, self.lam = percent(_utilization(epoch, self.budget)), epoch.lam
            seen += f"  r {self.r}  λ {self.lam:.4f}"
        self.progress.update(self.task, completed=epoch.epoch)
        whole = str(self.config.epochs)
        self.seen, self.last = seen, f"{self.title}  {epoch.epoch:{len(whole)}}/{whole}  {seen}"
        self._refresh()
        if not self.console.is_terminal and epoch.epoch % max(1, self.config.epochs // LINES) == 0:
            self.console.print(self.last, highlight=False, soft_wrap=True)

    def _frame(self) -> Group:
        return Group(self.progress, Text(self.seen), self.layers)

    def _refresh(self) -> None:
        if self.console.is_terminal:
            self.live.update(self._frame(), refresh=True)


def _lagging(before: Score | None, after: Score | None) -> tuple[str, ...]:
    if before is None or after is None:
        return ()
    return (f"(with running statistics, which lag behind: {before.loss:.4f} before, {after.loss:.4f} after)",)


def _utilization(epoch: Epoch, budget: Budget) -> float:
    """r of an epoch in what the budget bounds; of two measures the larger, as the monitor has it."""
    return max(epoch.r_params if budget.params is not None else 0.0, epoch.r_flops if budget.flops is not None else 0.0)


def layer_bars(u: Utilization) -> Table:
    """A line per layer whose width may change: live of all its channels, as a bar and as numbers."""
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    for line in lines(u.rows):
        if not line.main.pins:
            share = Share(line.main.out_live, line.main.out)
            table.add_row(f"  {line.name}", channel_bar(share), f"{share.live}/{share.total}")
    return table


def channel_bar(share: Share) -> Bar:
    """The live part of a layer's channels."""
    return Bar(((share.ratio, "█", "#", "green"), (1 - share.ratio, "·", ".", "bright_black")))
