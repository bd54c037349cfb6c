"""Costs and ratios in words: three digits and a unit, live of total, percent."""

from typing import get_args

from nrfx.analysis.utilization import Share, Utilization
from nrfx.choices import Measure
from nrfx.report.layer_tree import Group, Line

MEASURES: tuple[Measure, ...] = get_args(Measure)

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def share_of(of: Utilization | Group | Line, measure: Measure) -> Share:
    """The params or the flops of it."""
    return of.params if measure == "params" else of.flops


def human(number: int) -> str:
    """A number in three digits and a unit.

    >>> human(25557032), human(999), human(999_999)
    ('25.6 M', '999', '1.00 M')
    """
    unit = unit_of(number)
    return f"{digits(number, unit)} {unit}".strip()


def pair(share: Share) -> str:
    """live/total in the unit of the total; one number where they are equal.

    >>> pair(Share(13_700, 36_900)), pair(Share(64, 64)), pair(Share(0, 36_900)), pair(Share(39, 64))
    ('13.7/36.9 K', '64', '0/36.9 K', '39/64')
    """
    if share.live == share.total:
        return human(share.total)
    live = digits(share.live, unit_of(share.total)) if share.live else "0"
    return f"{live}/{human(share.total)}"


def percent(ratio: float) -> str:
    """A ratio in percent; "100 %" and "0 %" only for exactly 1 and 0.

    >>> percent(0.5713), percent(0.9999), percent(1.0), percent(1e-9)
    ('57.1 %', '99.9 %', '100 %', '0.1 %')
    """
    if ratio in {0.0, 1.0}:
        return f"{round(100 * ratio)} %"
    return f"{min(max(100 * ratio, 0.1), 99.9):.1f} %"


def unit_of(number: int) -> str:
    """The largest unit of which the number, in three digits, is at least one."""
    return [unit for unit, size in UNITS.items() if not unit or number >= 0.9995 * size][-1]


def digits(number: int, unit: str) -> str:
    """Three digits of a number in that unit; all digits where the unit is ""."""
    if not unit:
        return str(number)
    value = number / UNITS[unit]
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def change(old: int, new: int) -> str:
    """old → new; the unit once where both have the same.

    >>> change(352, 341), change(9_280, 18_100), change(18_600, 0), change(0, 0)
    ('352 → 341', '9.28 → 18.1 K', '18.6 K → 0', '')
    """
    if not old and not new:
        return ""
    before = digits(old, unit_of(old)) if unit_of(old) == unit_of(new) else human(old)
    return f"{before} → {human(new)}"


def milliseconds(seconds: float) -> str:
    """A time in milliseconds, with three digits or all before the point.

    >>> milliseconds(0.0031), milliseconds(0.03149), milliseconds(1.2346)
    ('3.10 ms', '31.5 ms', '1235 ms')
    """
    value = 1000 * seconds
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} ms"
