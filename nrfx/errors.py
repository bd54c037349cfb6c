"""What nrfx raises for a user's mistake. Each message names the place, what was found, what was expected, what to do.

NrfxError
|-- TraceError           a model that cannot be captured as a graph
|   `-- SizeError            inputs for which the forward would decide otherwise than it did in the trace
|-- AnalysisError        a graph whose channels or costs cannot be analysed (NaN gammas, no shapes, no gammas)
|-- BudgetError          a budget that is no budget, or that the live part alone exceeds
|-- RewriteError         a rewrite that would not be sound; nothing was changed
|   `-- VerificationError    a rewritten network that differs from the one it came from
|-- TrainingError        an optimizer or a loop that does not fit its module
|-- CheckpointError      a file that cannot be read, or does not fit
|-- ExportError          a network that has no such form outside of nrfx, or a file of it that differs
`-- UsageError           a name, in a call or on the command line, of something that does not exist

RuleWarning              a rule of the user's own raised; its op is pinned
TrainingWarning          a training loop in which a search would do nothing, or do it to a part of the network
"""


class NrfxError(Exception):
    """The base of every error that nrfx raises on purpose."""


class TraceError(NrfxError):
    """The model cannot be captured as a graph that behaves like it."""


class SizeError(TraceError):
    """A traced module was run on inputs for which its model would take another way than in the trace."""


class AnalysisError(NrfxError):
    """The graph cannot be analysed as it stands."""


class BudgetError(NrfxError):
    """The budget is not one, or cannot be met."""


class RewriteError(NrfxError):
    """The rewrite would not be sound. Nothing was changed."""


class VerificationError(RewriteError):
    """The rewritten network differs from the one it came from."""


class TrainingError(NrfxError):
    """The optimizer or the training loop does not fit the module."""


class CheckpointError(NrfxError):
    """The file cannot be read or written, or does not fit the model."""


class ExportError(NrfxError):
    """The network cannot leave nrfx in the form that was asked for. No file was written."""


class UsageError(NrfxError):
    """A name, in a call or on the command line, is of something that does not exist."""


class RuleWarning(UserWarning):
    """A rule raised instead of giving an effect. Its op is pinned, which is sound, until the rule is mended."""


class TrainingWarning(UserWarning):
    """The loop around a Rejuvenator leaves something out, so that a search does nothing, or parts are not trained."""
