"""See the waste in a network while it trains, and give it back: Neural Rejuvenation as torch.fx graph passes."""

from nrfx.budget import Budget
from nrfx.checkpoint import load, save
from nrfx.errors import NrfxError
from nrfx.rejuvenate import Rejuvenation, compact, rejuvenate
from nrfx.trace import TracedModule, trace
from nrfx.training.rejuvenator import Event, Measurement, Rejuvenator
from nrfx.utilization import Utilization, utilization
from nrfx.verify import verify

__all__ = [
    "Budget",
    "Event",
    "Measurement",
    "NrfxError",
    "Rejuvenation",
    "Rejuvenator",
    "TracedModule",
    "Utilization",
    "compact",
    "load",
    "rejuvenate",
    "save",
    "trace",
    "utilization",
    "verify",
]
