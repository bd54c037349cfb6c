"""Reports for the terminal: the live part of a network, a rejuvenation, and why a layer has its channels.

Columns are chosen by the width of the terminal: from 120 on both measures have a bar; below 76 there is no second
measure and no input width. A live/total pair is one number where everything is live. Every number is one of `to_json`,
or a sum of them.

amounts        costs and ratios in words
page           the width, and sections that list a few entries
table          a line for each layer, with bars
utilization    the live part of a network
rejuvenation   the network before and after
why            why a layer has the channels that it has
advice         whether a rejuvenation would help, and the widths that are planned
"""

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import RenderableType

from nrfx.analysis.utilization import Utilization
from nrfx.analysis.why import Why
from nrfx.plan.advice import Advice
from nrfx.report.advice import advice_report
from nrfx.report.amounts import human, pair, percent
from nrfx.report.page import columns, render
from nrfx.report.rejuvenation import Widths, rejuvenation_report, widths
from nrfx.report.table import RULED, Bar
from nrfx.report.utilization import utilization_report
from nrfx.report.why import why_report
from nrfx.rewrite.result import Rejuvenation

__all__ = [
    "RULED", "Bar", "Widths", "advice_report", "columns", "human", "pair", "percent", "rejuvenation_report", "render",
    "text", "utilization_report", "why_report", "widths",
]  # fmt: skip

_REPORTS: Mapping[type, Callable[[Any], RenderableType]] = {
    Utilization: utilization_report,
    Why: why_report,
    Rejuvenation: rejuvenation_report,
    Advice: advice_report,
}


def text(result: Utilization | Why | Rejuvenation | Advice) -> str:
    """The report on a result, as print() shows it."""
    return render(_REPORTS[type(result)](result))
