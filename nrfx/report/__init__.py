"""Reports for the terminal: what of a network is alive, and what a rejuvenation made of it.

Columns are chosen by the width at hand: from 120 on both measures have a bar, below 76 the second measure and the input
widths go. A live/total pair is one number where everything is live. Every number is one of `to_json`, or a sum of them.

amounts        costs and ratios in words
page           the width, and what is listed
table          a line for each layer, with bars
utilization    what of a network is alive
rejuvenation   what a rejuvenation made of it
"""

from nrfx.report.amounts import Measure, human, pair, percent
from nrfx.report.page import SPACIOUS, alike, columns, render, section
from nrfx.report.rejuvenation import Widths, rejuvenation_report, widths
from nrfx.report.table import RULED, Bar, shortened
from nrfx.report.utilization import utilization_report

__all__ = [
    "RULED", "SPACIOUS", "Bar", "Measure", "Widths", "alike", "columns", "human", "pair", "percent",
    "rejuvenation_report", "render", "section", "shortened", "utilization_report", "widths",
]  # fmt: skip
