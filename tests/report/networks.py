"""Networks with dead channels, traced and measured."""

import torch

import nrfx
from nrfx.analysis.utilization import Utilization
from tests import zoo


def traced(name: str, dead: float = 0.4) -> nrfx.TracedModule:
    return nrfx.trace(zoo.with_dead(zoo.SMALL[name](), dead), torch.zeros(zoo.IMAGE))


def measured(name: str, dead: float = 0.4) -> Utilization:
    return nrfx.utilization(traced(name, dead))
