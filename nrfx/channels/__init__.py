"""Which channels a graph has, which of them must live and die together, and which must stay as they are.

The graph is interpreted on label tensors (labels.py), one rule an op (rules/). Labels that an element-wise op brings
together are tied; tied labels form one channel; channels whose labels are born at the same places form a space,
which has one width. Graphs that differ between training and evaluation are interpreted one after the other and share
their births.
"""

from nrfx.channels.flow import flow, like, operands
from nrfx.channels.solve import channels
from nrfx.channels.value import Channels, Mismatch, Space, Step, first_readings, readers
from nrfx.channels.walk import named_tensors, relabel

__all__ = [
    "Channels", "Mismatch", "Space", "Step", "channels", "first_readings", "flow", "like", "named_tensors", "operands",
    "readers", "relabel",
]  # fmt: skip
