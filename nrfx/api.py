"""The public names. `nrfx.NAME` is `nrfx.api.NAME`, loaded when the first of them is asked for (see __init__.py).

Results print themselves: the report is loaded when the first of them is printed.
"""

from typing import Any

from nrfx import liveness
from nrfx.analysis.check_rule import check_rule
from nrfx.analysis.utilization import Utilization, utilization
from nrfx.analysis.why import Why, why
from nrfx.checkpoint import load, save
from nrfx.deploy.apply import apply
from nrfx.deploy.export import Exported, export
from nrfx.deploy.plain import plain
from nrfx.errors import (
    AnalysisError,
    BudgetError,
    CheckpointError,
    ExportError,
    NrfxError,
    RewriteError,
    RuleWarning,
    TraceError,
    TrainingError,
    TrainingWarning,
    UsageError,
    VerificationError,
)
from nrfx.experiment.recipe import Recipe, recipe
from nrfx.optimizers.kinds import register_optimizer
from nrfx.plan.advice import Advice
from nrfx.plan.budget import Budget
from nrfx.printed import prints
from nrfx.rewrite.cross_attend import cross_attend
from nrfx.rewrite.heads import heads
from nrfx.rewrite.rejuvenate import compact, rejuvenate
from nrfx.rewrite.result import Rejuvenation
from nrfx.rewrite.scales import fold_scales, insert_scales
from nrfx.rewrite.verify import verify
from nrfx.tracing import TracedModule, trace
from nrfx.training.events import Event, Measurement
from nrfx.training.followers import carry_into
from nrfx.training.heads import HeadLoss
from nrfx.training.optimizer import migrate
from nrfx.training.recalibrate import recalibrate
from nrfx.training.rejuvenator import Rejuvenator
from nrfx.training.twins import Carried, carry

__all__ = [
    "Advice",
    "AnalysisError",
    "Budget",
    "BudgetError",
    "Carried",
    "CheckpointError",
    "Event",
    "ExportError",
    "Exported",
    "HeadLoss",
    "Measurement",
    "NrfxError",
    "Recipe",
    "Rejuvenation",
    "Rejuvenator",
    "RewriteError",
    "RuleWarning",
    "TraceError",
    "TracedModule",
    "TrainingError",
    "TrainingWarning",
    "UsageError",
    "Utilization",
    "VerificationError",
    "Why",
    "apply",
    "carry",
    "carry_into",
    "check_rule",
    "compact",
    "cross_attend",
    "export",
    "fold_scales",
    "heads",
    "insert_scales",
    "liveness",
    "load",
    "migrate",
    "plain",
    "recalibrate",
    "recipe",
    "register_optimizer",
    "rejuvenate",
    "save",
    "trace",
    "utilization",
    "verify",
    "why",
]


def _report(result: Any) -> str:
    from nrfx.report import text  # noqa: PLC0415 (rich is not needed where nothing is printed)

    return text(result)


def _page(result: Any, title: str) -> str:
    from nrfx.report.html import page  # noqa: PLC0415 (nor is jinja2)

    return page(result, title)


def _cell(result: Any) -> str:
    from nrfx.report.html import cell  # noqa: PLC0415

    return cell(result)


for _kind in (Utilization, Why, Rejuvenation):
    prints(_kind, _report, _page, _cell)
prints(Advice, _report)
