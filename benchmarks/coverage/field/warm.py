"""Traces a model of transformers when it is imported, which all processes of a run then need not do.

The first trace asks about 40 files of transformers which names of Python's own they use: 2 s of CPU time, against 0.2 s
for a second trace.
"""

from importlib.util import find_spec

import torch

import nrfx
from benchmarks.coverage.field.hugging import WORDS, FromConfig

if find_spec("transformers") is not None:
    nrfx.trace(FromConfig("BertModel", WORDS)(), torch.zeros(2, 4, dtype=torch.int64), partial=True)
