"""Reports as HTML: one file without anything from outside, and the output of a cell in a notebook.

lanes       where each stop of a network stands, and the lines between them
bars        stacked bars of channels and costs
graph       the picture: stops as rows, a norm in the row of its layer
entries     the layers: bar, cells of the table, details
page        what a page shows, and the templates that make HTML of it
templates   HTML, styles and the script
"""

from nrfx.report.html.page import cell, page

__all__ = ["cell", "page"]
