"""Advice for the terminal: the verdict and why, what each budget would come to, and the widths that are planned."""

from collections.abc import Iterator, Sequence
from statistics import mean

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from nrfx.plan.advice import Advice, Prospect
from nrfx.report.amounts import human, percent
from nrfx.report.page import Fitted, room, section
from nrfx.report.table import RULED, Bar, shortened

NAMES = {"params": "params", "flops": "flops", "both": "params and flops"}
"""Budget -> what it bounds, in words."""

STYLES = {"expected": "green", "not expected": "yellow", "not known": "yellow"}

LISTED = 5
"""So many layers that starve or waste are named before the rest is counted."""

STEADY, ROUGH = 0.67, 0.4
"""Plans that agree by so much are steady, or roughly alike."""

LONGEST = 28
"""Columns of a bar."""


def advice_report(advice: Advice, title: str = "network") -> RenderableType:
    """Whether a gain is to be expected and why, what each budget would come to, the planned widths of all layers.

    Args:
        title: the name of the network.
    """
    verdict = advice.verdict
    clause = f"a gain over plain training is {verdict.gain}"
    return Stack(
        Text.assemble((title, "bold"), "  ", (clause, STYLES[verdict.gain])),
        "",
        Text(f"Why: within its {NAMES[advice.asked]}, {verdict.reason}."),
        *(Text(sentence) for sentence in _sentences(advice)),
        "",
        Fitted(lambda width: _budgets(advice, width)),
        "",
        Fitted(lambda width: _layers(advice, width)),
        *section("Notes", ((note, "") for note in advice.notes)),
    )


def _sentences(advice: Advice) -> Iterator[str]:
    """What was found, and how far the seeds agree."""
    alive = f"{percent(mean(advice.r_params))} of the params and {percent(mean(advice.r_flops))} of the flops are alive"
    searches = "a search" if advice.seeds == 1 else f"{advice.seeds} searches"
    yield f"Behind {searches} of {_range(advice.steps)} steps {alive}; an event comes below {percent(advice.trigger)}."
    prospect = advice.prospect
    if prospect is None:
        return
    if max(prospect.threshold) > advice.threshold:
        yield (
            f"r was not there yet: the plan takes gammas below {_range(prospect.threshold, '.2f')} of the largest of "
            "their layer for those that will die."
        )
    for names, verb in ((advice.starving, "starve"), (advice.wasting, "waste")):
        if names:
            yield f"{_named(names)} {verb if len(names) > 1 else f'{verb}s'}."
    if (steadiness := advice.steadiness(prospect)) is not None:
        yield f"The plans of the {advice.seeds} seeds agree by {percent(steadiness)}: {_steady(steadiness)}."
    if advice.trial is not None:
        plain, planned = (f"{mean(each):.1f} %" for each in (advice.trial.plain_error, advice.trial.planned_error))
        yield f"Validation error in the trial: {plain} as it is, {planned} as planned."


def _steady(steadiness: float) -> str:
    """A steadiness in words."""
    return "steady" if steadiness >= STEADY else "roughly alike" if steadiness >= ROUGH else "hardly alike"


def _named(names: Sequence[str]) -> str:
    more = len(names) - LISTED
    listed = [*names[:LISTED], f"{more} more"] if more > 0 else list(names)
    return " and ".join([", ".join(listed[:-1]), listed[-1]]) if len(listed) > 1 else listed[0]


def _range(values: Sequence[float], form: str = ",") -> str:
    """The values of all seeds: one if they are the same, else the lowest and the highest.

    >>> _range((170, 180)), _range((4, 4)), _range((2.118, 2.142), ".2f")
    ('170 to 180', '4', '2.12 to 2.14')
    """
    low, high = (format(value, form) for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _budgets(advice: Advice, width: int) -> Table:
    """A line for each budget: alpha, the cost of the planned network, how far width moves and the seeds agree."""
    table = Table(box=RULED, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("within", no_wrap=True)
    wide = room(width) != "cramped"
    for heading in ("alpha", "params", "flops", "reshape", *(["agree"] if wide else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("now", "", human(advice.params), human(advice.flops), *[""] * (2 if wide else 1), style="dim")
    for prospect in advice.prospects:
        steadiness = advice.steadiness(prospect)
        cells = [
            NAMES[prospect.budget],
            _range(prospect.alpha, ".2f"),
            _cost(prospect.params, advice.params),
            _cost(prospect.flops, advice.flops),
            f"{advice.reshape(prospect):.2f}",
            *(["" if steadiness is None else percent(steadiness)] if wide else []),
        ]
        table.add_row(*cells, style="bold" if prospect.budget == advice.asked else "")
    return table


def _cost(planned: Sequence[int], now: int) -> str:
    """The mean cost, and what part of the present one it is."""
    return f"{human(round(mean(planned)))} ({mean(planned) / now:.2f}x)" if now else human(round(mean(planned)))


def _layers(advice: Advice, width: int) -> Table:
    """A line for each layer: its width, what is alive, and the width that each budget would give it."""
    space = room(width)
    spacious, asked = space == "spacious", advice.prospect
    shown = [each for each in advice.prospects if space != "cramped" or each.budget == advice.asked]
    names = {name: f"{name} (+{len(others)})" if others else name for name, others in advice.together.items()}
    verdicts = dict.fromkeys(advice.starving, "starves") | dict.fromkeys(advice.wasting, "wastes")
    texts = {
        name: [
            f"{now:,}",
            _dashed(advice.live[name]),
            *(_dashed(prospect.widths[name]) for prospect in shown),
            verdicts.get(name, ""),
        ]
        for name, now in advice.layers.items()
    }
    headings = ["width", "alive", *(each.budget for each in shown), ""]
    taken = sum(max(map(len, column)) for column in zip(headings, *texts.values(), strict=True)) + 2 * len(headings)
    bar = LONGEST + 2 if spacious and asked is not None else 0
    widest = max(min(max(map(len, (*names.values(), "layer"))), width - taken - bar), 8)
    table = Table(box=RULED, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("layer", width=widest, no_wrap=True)
    for heading in headings[:-1]:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    if bar:
        table.add_column("█ stays ▒ comes · goes", width=LONGEST, no_wrap=True)
    for name, cells in texts.items():
        style = "green" if cells[-1] == "starves" else "yellow" if cells[-1] else ""
        bars = [_parts(advice.layers[name], asked, name)] if bar and asked is not None else []
        table.add_row(shortened(names[name], widest), *cells[:-1], Text(cells[-1], style=style), *bars)
    return table


def _parts(now: int, prospect: Prospect, name: str) -> Bar:
    """The channels that a layer keeps, gains and loses in number, as a bar as long as the wider of the two."""
    planned = mean(prospect.widths[name])
    scale = max(now, planned)
    stays, comes = min(now, planned) / scale, max(planned - now, 0) / scale
    return Bar(((stays, "█", "#", "green"), (comes, "▒", "+", "cyan"), (1 - stays - comes, "·", ".", "bright_black")))


def _dashed(values: Sequence[int]) -> str:
    """The values of all seeds as a range.

    >>> _dashed((6, 9)), _dashed((4, 4))
    ('6-9', '4')
    """
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"
