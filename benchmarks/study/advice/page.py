"""The part of docs/advise.md that compares advice with full runs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from benchmarks.command import DOCS
from benchmarks.study.advice.advised import Advised
from benchmarks.study.advice.runs import Full
from benchmarks.study.advice.settings import SETTINGS
from benchmarks.study.intervals import Interval, interval
from benchmarks.table import markdown

PAGE = DOCS / "advise.md"
BEGIN, END = "<!-- the tables of `python -m benchmarks advice` -->\n", "<!-- their end -->\n"

HEADINGS = (
    *("setting", "budget", "advice: gain", "loss in the trial", "reshape", "agree", "widths, planned"),
    *("widths, full run", "seeds", "with an event", "NR minus BL, test error", "gain in full runs", ""),
)


@dataclass(frozen=True)
class Compared:
    """A setting: what was said of it, and the differences of test errors, NR minus BL, of full runs."""

    name: str
    advised: Advised
    difference: Interval
    seeds: int
    events: int
    widths: str

    @property
    def gained(self) -> bool:
        """Whether full runs with NR were better: the mean below 0, and 0 outside of the interval."""
        return self.difference.apart and self.difference.mean < 0

    @property
    def right(self) -> bool:
        """Whether a gain was expected just where there was one."""
        return (self.advised.gain == "expected") == self.gained

    @property
    def sign_right(self) -> bool:
        """The same, with any mean below 0 for a gain."""
        return (self.advised.gain == "expected") == (self.difference.mean < 0)


def compared(advice: Mapping[str, Advised], runs: Iterable[Full]) -> list[Compared]:
    """The settings that have advice and full runs from two seeds or more, in order."""
    by_key = {run.key: run for run in runs}
    found = []
    for name in SETTINGS:
        seeds = sorted({seed for each, _, seed in by_key if each == name})
        pairs = [(by_key.get((name, "BL", seed)), by_key.get((name, "NR", seed))) for seed in seeds]
        both = [(plain, new) for plain, new in pairs if plain is not None and new is not None]
        if name in advice and len(both) > 1:
            difference = interval([new.test - plain.test for plain, new in both])
            events = sum(new.step > 0 for _, new in both)
            found.append(Compared(name, advice[name], difference, len(both), events, both[0][1].widths))
    return found


def rows(settings: Sequence[Compared]) -> Iterator[tuple[str, ...]]:
    """A line for each setting."""
    for each in settings:
        told = each.advised
        yield (
            each.name,
            told.budget,
            told.gain,
            f"{told.change:+.0f} %",
            f"{told.reshape:.2f}",
            f"{100 * told.steadiness:.0f} %",
            told.widths.split()[0].replace("-", " "),
            each.widths,
            str(each.seeds),
            str(each.events),
            f"**{each.difference}**" if each.difference.apart else str(each.difference),
            "yes" if each.gained else "no",
            "right" if each.right else "wrong",
        )


NARROW = (0, 1, 2, 3, 8, 10, 11, 12)
"""The columns that the terminal has room for."""


def narrow(cells: Sequence[str]) -> list[str]:
    """A line of the table, or its headings, for the terminal."""
    return [cells[index] for index in NARROW]


def section(settings: Sequence[Compared]) -> str:
    """Both tables, and how often the advice was right."""
    lines = []
    for title, held in (("Held back", True), ("What the thresholds were chosen by", False)):
        own = [each for each in settings if SETTINGS[each.name].held is held]
        if not own:
            continue
        right, signs = (sum(getattr(each, name) for each in own) for name in ("right", "sign_right"))
        none, above = sum(not each.gained for each in own), sum(each.difference.mean >= 0 for each in own)
        lines += [
            f"{title}: right on **{right} of {len(own)}**; {signs} of {len(own)} if any mean below 0 counts as a gain. "
            f"Who never expects one is right on {none}, and {above}.",
            "",
            *markdown(HEADINGS, rows(own)),
            "",
        ]
    seconds, first = mean(each.advised.seconds for each in settings), settings[0].advised
    lines.append(
        f"An advice took {seconds:.0f} s of a core that had other work. {first.cpu}, torch {first.torch}, {first.date}."
    )
    return "\n".join([*lines, ""])


def page(settings: Sequence[Compared]) -> str:
    """docs/advise.md with these tables in their place."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{section(settings)}\n{END}{after}"
