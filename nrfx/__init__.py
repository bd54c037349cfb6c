"""See the waste in a network while it trains, and give it back: Neural Rejuvenation as torch.fx graph passes."""

from nrfx.budget import Budget
from nrfx.checkpoint import load, save
from nrfx.errors import (
    AnalysisError,
    BudgetError,
    CheckpointError,
    NrfxError,
    RewriteError,
    TraceError,
    TrainingError,
    UsageError,
    VerificationError,
)
from nrfx.recalibrate import recalibrate
from nrfx.rejuvenate import Rejuvenation, compact, rejuvenate
from nrfx.rewrite.heads import heads
from nrfx.rewrite.scales import fold_scales, insert_scales
from nrfx.rewrite.split import cross_attend
from nrfx.trace import TracedModule, trace
from nrfx.training.heads import HeadLoss
from nrfx.training.recipes import Recipe, recipe
from nrfx.training.rejuvenator import Event, Measurement, Rejuvenator
from nrfx.utilization import Utilization, utilization
from nrfx.verify import verify
from nrfx.why import Why, why

__all__ = [
    "AnalysisError",
    "Budget",
    "BudgetError",
    "CheckpointError",
    "Event",
    "HeadLoss",
    "Measurement",
    "NrfxError",
    "Recipe",
    "Rejuvenation",
    "Rejuvenator",
    "RewriteError",
    "TraceError",
    "TracedModule",
    "TrainingError",
    "UsageError",
    "Utilization",
    "VerificationError",
    "Why",
    "compact",
    "cross_attend",
    "fold_scales",
    "heads",
    "insert_scales",
    "load",
    "recalibrate",
    "recipe",
    "rejuvenate",
    "save",
    "trace",
    "utilization",
    "verify",
    "why",
]
