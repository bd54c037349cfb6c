"""The plan of a rewrite, as one value."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from nrfx.analysis.channels import Channels
from nrfx.analysis.liveness import Liveness
from nrfx.plan.absorb import Absorption
from nrfx.plan.rescale import Rescaling
from nrfx.plan.resize import Resized
from nrfx.rules import Reading


@dataclass(frozen=True)
class Plan:
    """Everything that is decided about a rewrite, before any tensor is touched."""

    channels: Channels
    liveness: Liveness
    absorption: Absorption
    scales: Rescaling
    resized: Resized
    forms: Mapping[str, Reading]  # key -> layers that may take a cross form
    scheme: str
    heads: frozenset[str]  # keys of the output layers that gain a head
    merge: bool  # the survivors of a cross layer become one generation where that is exact
    gamma_new: Callable[[str], float]  # gamma parameter -> where the gammas of new channels start
    drawn: bool  # new channels read old ones through random weights from the start
    scratch: bool  # every parameter gets a new initial value
    recycles: bool  # new rows read all columns, as those of a layer that starts
    generator: torch.Generator | None
