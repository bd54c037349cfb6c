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
    """The base of every error that nrfx raises on purpose.

    >>> import nrfx
    >>> try:
    ...     nrfx.recipe("NR-XX")
    ... except nrfx.NrfxError as error:
    ...     print(type(error).__name__)
    UsageError
    """


class TraceError(NrfxError):
    """The model cannot be captured as a graph that behaves like it.

    >>> import nrfx, torch
    >>> class Routed(torch.nn.Module):
    ...     def forward(self, x):
    ...         return x if x.sum() > 0 else -x
    >>> nrfx.trace(Routed(), torch.ones(3))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    nrfx.errors.TraceError: ...
    """


class SizeError(TraceError):
    """A traced module was run on inputs for which its model would take another way than in the trace.

    >>> import nrfx, torch
    >>> class Cropped(torch.nn.Module):
    ...     def forward(self, x):
    ...         return x[:, :4] if x.shape[1] > 4 else x
    >>> gm = nrfx.trace(Cropped(), torch.ones(1, 8))
    >>> gm(torch.ones(1, 2))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    nrfx.errors.SizeError: ...
    """


class AnalysisError(NrfxError):
    """The graph cannot be analysed as it stands.

    >>> import nrfx, torch
    >>> norm = torch.nn.BatchNorm1d(2)
    >>> torch.nn.init.constant_(norm.weight, float("nan")).isnan().all()
    tensor(True)
    >>> nrfx.utilization(nrfx.trace(norm, torch.zeros(2, 2)))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    nrfx.errors.AnalysisError: weight[0] is nan; every gamma must be finite. ...
    """


class BudgetError(NrfxError):
    """The budget is not one, or cannot be met.

    >>> import nrfx
    >>> nrfx.Budget(params=0)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    nrfx.errors.BudgetError: ...
    """


class RewriteError(NrfxError):
    """The rewrite would not be sound. Nothing was changed.

    >>> import nrfx
    >>> nrfx.nn.CrossLinear((4, 4), (2,))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    nrfx.errors.RewriteError: in_generations (4, 4) has 2 entries and out_generations (2,) has 1: ...
    """


class VerificationError(RewriteError):
    """The rewritten network differs from the one it came from.

    >>> import nrfx, torch
    >>> gm = nrfx.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    >>> nrfx.verify(gm, "a result", torch.zeros(1, 2))
    Traceback (most recent call last):
        ...
    nrfx.errors.VerificationError: verify compares with what nrfx.rejuvenate returned; it got a str.
    """


class TrainingError(NrfxError):
    """The optimizer or the training loop does not fit the module.

    >>> import nrfx, torch
    >>> gm = nrfx.trace(torch.nn.Linear(2, 2), torch.zeros(2, 2))
    >>> optimizer = torch.optim.SGD(gm.parameters())
    >>> nrfx.Rejuvenator(gm, optimizer, nrfx.Budget.relative(gm, params=1.0), interval=0)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    nrfx.errors.TrainingError: ...
    """


class CheckpointError(NrfxError):
    """The file cannot be read or written, or does not fit the model.

    >>> import nrfx, torch
    >>> nrfx.load("nothing.safetensors", torch.nn.Linear(2, 2))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    nrfx.errors.CheckpointError: ...
    """


class ExportError(NrfxError):
    """The network cannot leave nrfx in the form that was asked for. No file was written.

    >>> import nrfx, torch
    >>> gm = nrfx.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    >>> nrfx.export(gm, "network.txt")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    nrfx.errors.ExportError: ...
    """


class UsageError(NrfxError):
    """A name, in a call or on the command line, is of something that does not exist.

    >>> import nrfx, torch
    >>> gm = nrfx.trace(torch.nn.Sequential(torch.nn.Linear(2, 2)), torch.zeros(1, 2))
    >>> nrfx.why(gm, "1")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    nrfx.errors.UsageError: ...
    """


class RuleWarning(UserWarning):
    """A rule raised instead of giving an effect. Its op is pinned, which is sound, until the rule is mended.

    >>> import nrfx, torch, warnings
    >>> class Slip(torch.nn.Module):
    ...     def forward(self, x):
    ...         return x
    >>> @nrfx.rules.rule(Slip, keeps_shape=True)
    ... def slip(call):
    ...     return call.arguments  # there is no such attribute
    >>> with warnings.catch_warnings(record=True) as told:
    ...     warnings.simplefilter("always")
    ...     _ = nrfx.utilization(nrfx.trace(torch.nn.Sequential(torch.nn.Linear(2, 2), Slip()), torch.zeros(1, 2)))
    >>> told[0].category.__name__
    'RuleWarning'
    """


class TrainingWarning(UserWarning):
    """The loop around a Rejuvenator leaves something out, so that a search does nothing, or parts are not trained.

    >>> import nrfx, torch, warnings
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 1))
    >>> gm = nrfx.trace(net, torch.zeros(1, 1, 3, 3))
    >>> optimizer = torch.optim.SGD(net[1].parameters(), lr=0.1)  # and the convolutions?
    >>> with warnings.catch_warnings(record=True) as told:
    ...     warnings.simplefilter("always")
    ...     _ = nrfx.Rejuvenator(gm, optimizer, nrfx.Budget.relative(gm, params=1.0))
    >>> print(told[0].category.__name__)
    TrainingWarning
    """
