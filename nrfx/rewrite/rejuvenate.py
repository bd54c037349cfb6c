"""The whole rewrite: find what is dead, compute the widths, build the new network, check it. An error changes nothing.

Source: Neural Rejuvenation, Sec. 3.2 and 3.3; Algorithm 1, step 8.
"""

import copy
from contextlib import nullcontext
from dataclasses import replace
from math import inf
from typing import Any

import torch

from nrfx.analysis.cost import Cost, whole_cost
from nrfx.analysis.criterion import judge_of
from nrfx.analysis.liveness import removed_gammas
from nrfx.analysis.names import named_tensors
from nrfx.analysis.spaces import Labels, labels_of
from nrfx.analysis.utilization import Utilization, measure, utilization
from nrfx.choices import CrossWeights, Reinitialize, Residual, Scheme
from nrfx.errors import AnalysisError, RewriteError
from nrfx.garbage import unsearched
from nrfx.plan.budget import Budget
from nrfx.plan.decision import Decision, Idle, decided
from nrfx.plan.heads import headed
from nrfx.plan.options import GAMMA_NEW, RESCALE_LIMIT, Options
from nrfx.plan.origins import Origins
from nrfx.plan.plan import Plan
from nrfx.plan.reallocate import Allocation
from nrfx.plan.rescale import NOT_RESCALED, rescaling
from nrfx.plan.survivors import Survivors
from nrfx.rewrite.build import Built, build
from nrfx.rewrite.drawn import check_outputs
from nrfx.rewrite.moment import Moment, known
from nrfx.rewrite.notes import carrier_notes, held_notes, merge_notes, width_notes
from nrfx.rewrite.replacement import change
from nrfx.rewrite.result import Before, Decided, Rejuvenation
from nrfx.rewrite.verify import check_labels
from nrfx.tracing import TracedModule, as_traced
from nrfx.tracing.graph.walk import unchanged, unchanged_too


def rejuvenate(
    gm: Any,
    budget: Budget,
    *,
    scheme: Scheme = "attention",
    rescale: bool = True,
    reallocate: bool = True,
    reinitialize: Reinitialize = "rejuvenated",
    residual: Residual = "live",
    threshold: float = 0.01,
    gamma0: float | None = None,
    gamma_new: float | None = GAMMA_NEW,
    rescale_limit: float | None = RESCALE_LIMIT,
    cross: CrossWeights = "zero",
    round_to: int = 1,
    constants: bool = True,
    merge: bool = False,
    generator: torch.Generator | None = None,
    check: bool = True,
    liveness: Any = "gamma",
    example_inputs: Any = None,
) -> Rejuvenation:
    """A network in which the dead channels of `gm` are gone and all live layers are wider, within the budget.

    The learnt function is kept in eval mode: outputs equal, to rounding, those of `gm` with its dead gammas at 0. `gm`
    is left as it is. Where nothing is dead, or nothing may change, the result is an equal copy with a note (`changed`
    is False).

    Args:
        gm: what `nrfx.trace` returned, or a torch.fx.GraphModule (with shapes in its nodes, or example_inputs).
        budget: what the new network may cost; it never costs more.
        scheme: how S and R channels meet. "attention": cross attention (Eqs. 9, 10); "dense": plain layers whose cross
            weights start at 0 (Eq. 5); "removed": no cross connections (Eq. 6), which then cost nothing; the output
            layer gets a head for each generation, to be trained with `nrfx.HeadLoss`.
        rescale: bring small gammas of survivors back to gamma0 and divide the weights that read them (neural
            rescaling).
        reallocate: False gives every layer its own old width back instead of one factor for all.
        reinitialize: "all" starts every parameter of the found architecture from scratch.
        residual: "live": channels of residual streams do not die, as in the paper; "fixed": nor do streams widen;
            "coupled": a stream channel dies when all the gammas that feed it are dead.
        threshold: a gamma is dead below threshold * the largest abs(gamma) of its layer; in [0, 1).
        gamma0: initial level of gammas; None: the value each norm had when traced, where constant, else 1.
        gamma_new: where the gammas of new channels start, above 0; None: at gamma0, as in the paper. Those of
            reinitialize="all" all start at gamma0.
        rescale_limit: the largest factor by which rescaling raises a gamma, above 1; None for no limit, as in the
            paper. The first steps of a weight that is divided by s are s^2 larger relative to it.
        cross: "zero": new channels read old ones through weights of 0, as in the paper, where the layer has new inputs
            too; "drawn": through random ones. Old channels read new ones through weights of 0 either way, so that both
            keep the function. Scheme "removed" has no such weights and takes "zero" alone.
        round_to: new widths are multiples of it, or the live width where the next multiple does not fit.
        constants: False drops the constants that dead channels emit; the outputs then move.
        merge: the survivors of each cross layer become one generation where that is exact: none of the cross weights
            between them is in use. It stays as it is elsewhere, with a note, and a note says where there are no cross
            layers yet. Heads (scheme "removed") always merge.
        generator: of the random numbers of new weights.
        liveness: what says which channels are dead. "gamma": those of which the gammas are; "weight": filters of
            zeros; masks (True stays) or scores by layer; or a criterion of `nrfx.liveness` with thresholds, a budget
            and limits. What a criterion gives up need not be constant: the function then moves, and a note says how
            far. Layers without a norm take part too. With reallocate=False and scheme="dense" units are recycled:
            every layer keeps its width, and what is new starts as in a new layer, with outgoing weights of 0.
        check: compare the outputs of both networks on drawn inputs, in eval mode, so that a wrong rule is refused and
            not delivered. Beyond 1e8 multiply-adds (both networks, the traced batch) images are drawn 64 by 64, where
            the network takes them or beyond 5e8. It is left out, with a note, beyond 2e9 or with 1e8 parameters, and
            where drawn inputs prove nothing.
        example_inputs: where `gm` carries no shapes.

    Raises:
        BudgetError: the live part alone exceeds the budget.
        AnalysisError: a gamma is not finite, or an option is not one of those above.
        RewriteError: the result would not be sound; nothing was changed.
        VerificationError: outputs differ by more than rounding (names the first); nothing was changed.

    >>> import nrfx
    >>> from torch import nn
    >>> def unit(in_channels):
    ...     return nn.Sequential(nn.Conv2d(in_channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> net = nn.Sequential(unit(3), unit(8), nn.Conv2d(8, 4, 1))
    >>> with torch.no_grad():
    ...     _ = net[0][1].weight[:4].zero_()
    >>> gm = nrfx.trace(net, torch.zeros(1, 3, 16, 16))
    >>> result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))
    >>> result.before.params.ratio < 0.7, result.after.params.total <= result.before.params.total
    (True, True)

    Source: Neural Rejuvenation, Sec. 3.2 and 3.3. We keep constants of dead channels, which the paper drops, count
    every parameter, and meet the budget exactly.
    """
    options = Options(
        scheme=scheme,
        rescale=rescale,
        reallocate=reallocate,
        reinitialize=reinitialize,
        residual=residual,
        threshold=threshold,
        gamma0=gamma0,
        gamma_new=gamma_new,
        rescale_limit=rescale_limit,
        cross=cross,
        round_to=round_to,
        constants=constants,
        merge=merge,
        generator=generator,
        check=check,
        liveness=liveness,
    )
    options.validate()
    if not isinstance(budget, Budget):
        raise AnalysisError(
            f"budget is {budget!r}; expected nrfx.Budget(params=...) or Budget.relative(gm, params=1.0)."
        )
    return rewritten(gm, budget, options, example_inputs)


def compact(
    gm: Any,
    *,
    residual: Residual = "live",
    threshold: float = 0.01,
    constants: bool = True,
    check: bool = True,
    liveness: Any = "gamma",
    example_inputs: Any = None,
) -> Rejuvenation:
    """A network without the dead channels of `gm`, and nothing in their place: network slimming.

    Options and errors as for `rejuvenate`; the layers stay what they are.

    >>> import nrfx
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> with torch.no_grad():
    ...     _ = net[1].weight[:4].zero_()
    >>> nrfx.compact(nrfx.trace(net, torch.zeros(1, 3, 4, 4))).module.get_submodule("0")
    Conv2d(3, 4, kernel_size=(1, 1), stride=(1, 1))
    """
    options = Options(
        scheme="dense",
        rescale=False,
        residual=residual,
        threshold=threshold,
        constants=constants,
        check=check,
        liveness=liveness,
    )
    options.validate()
    return rewritten(gm, None, options, example_inputs)


def rewritten(gm: Any, budget: Budget | None, options: Options, example_inputs: Any = None) -> Rejuvenation:
    """`rejuvenate` with its options as one checked value; without a budget no new channels come."""
    # a criterion runs the network, and a forward may do anything; else all stays as it is until outputs are compared
    alone = options.criterion is None
    with unchanged() if alone else nullcontext(), unsearched() if alone else nullcontext():
        if isinstance(gm, TracedModule):
            unchanged_too(gm)
        traced = as_traced(gm, example_inputs)
        unchanged_too(traced)
        _check_data(traced)
        judge = judge_of(traced, options.criterion, options.threshold, options.residual)
        decision = decided(traced, budget, options, judge)
        if isinstance(decision, Idle):
            return _unchanged(traced, decision.survivors, decision.reason, decision.options)
        result = _carried_out(traced, decision, budget)
    return replace(_compared(traced, decision, result), budget=budget)


def _check_data(traced: TracedModule) -> None:
    """Raises AnalysisError for a tensor without numbers: there is nothing to gather a new one from."""
    for name, tensor in (*traced.named_parameters(), *traced.named_buffers()):
        if tensor.is_meta:
            raise AnalysisError(
                f"{name} lies on the meta device and has no numbers to keep: load the weights, or use to_empty() first."
            )


def _unchanged(traced: TracedModule, survivors: Survivors, reason: str, options: Options) -> Rejuvenation:
    """The result of a rewrite that changes nothing: an equal copy, and the reason as its first note."""
    twin = copy.deepcopy(traced)
    tensors = dict([*twin.named_parameters(), *twin.named_buffers()])
    unchanged: dict[str, Origins] = {name: (None,) * tensor.dim() for name, tensor in tensors.items()}
    usage = _usage(traced, survivors, options)
    return Rejuvenation(
        module=twin,
        before=usage,
        alpha=1.0,
        notes=(reason, *survivors.liveness.notes, *held_notes(survivors.liveness, options)),
        origins=unchanged,
        parents={name: name for name in tensors},
        factors=unchanged,
        changed=False,
        keeps_function=True,
        removed={},
        carriers=(),
        planned=None,
        moment=known(usage),
    )


def _carried_out(traced: TracedModule, decision: Decision, budget: Budget | None) -> Rejuvenation:
    """Builds the network with these layouts, and checks its labels and its cost before anyone sees it."""
    survivors, allocation, resized = decision.survivors, decision.allocation, decision.resized
    options = decision.options

    def gamma0(name: str) -> float:
        return options.gamma0 if options.gamma0 is not None else traced.gamma0.get(name, 1.0)

    def gamma_new(name: str) -> float:
        return gamma0(name) if options.gamma_new is None or options.scratch else options.gamma_new

    scales = (
        rescaling(
            *(survivors.channels, survivors.liveness, survivors.absorption.carriers, gamma0),
            streams=options.residual != "coupled",
            limit=options.rescale_limit or inf,
        )
        if options.rescale and not options.scratch
        else NOT_RESCALED
    )
    heads, head_notes = headed(traced, survivors.channels, survivors.forms, resized, options.scheme)
    plan = Plan(
        channels=survivors.channels,
        liveness=survivors.liveness,
        absorption=survivors.absorption,
        scales=scales,
        resized=resized,
        forms=survivors.forms,
        scheme=options.scheme,
        heads=heads,
        merge=options.merge,
        gamma_new=gamma_new,
        drawn=options.cross == "drawn",
        scratch=options.scratch,
        recycles=options.recycles,
        generator=options.generator,
    )
    built = build(traced, plan)
    with unchanged(built.module):
        after = labels_of(built.module, survivors.channels.axes)
        check_labels(after, resized)
        _check_cost(whole_cost(built.module, after), allocation.cost, budget)
        return _result(traced, survivors, allocation, built, after, plan, options, head_notes)


def _compared(traced: TracedModule, decision: Decision, result: Rejuvenation) -> Rejuvenation:
    """The result, whose outputs are those of the network before, or which says why they were not compared."""
    options, absorption = decision.options, decision.survivors.absorption
    by_criterion = absorption.given and not options.scratch
    checked = options.check and (options.keeps_function or by_criterion)
    flops = result.before.flops.total + decision.allocation.cost.flops
    why = check_outputs(traced, result, flops) if checked else ""
    result = replace(result, notes=(*result.notes, f"Outputs were not compared: {why}.")) if why else result
    return _measured(traced, result, options) if by_criterion and not result.keeps_function else result


def _measured(traced: TracedModule, result: Rejuvenation, options: Options) -> Rejuvenation:
    """The result with how far the outputs moved on the batches of the criterion, if it has some."""
    batches = None if options.criterion is None else options.criterion.batches
    if batches is None:
        return replace(result, notes=(*result.notes, "How far the outputs moved is not known: there are no batches."))
    moved = change(traced, result.module, batches)
    told = (
        f"On the batches the outputs moved by at most {moved.largest:.2g} of the largest output, and by "
        f"{moved.mean:.2g} on average."
    )
    return replace(result, notes=(*result.notes, told), change=moved)


def _check_cost(counted: Cost, predicted: Cost, budget: Budget | None) -> None:
    """Raises RewriteError unless the new network costs exactly what was predicted, within the budget."""
    if counted != predicted or (budget is not None and not budget.admits(counted)):
        raise RewriteError(
            f"The new network costs {counted.params:,} params and {counted.flops:,} flops; predicted were "
            f"{predicted.params:,} and {predicted.flops:,}, within {budget}. Nothing was changed. Please report this."
        )


def _result(
    traced: TracedModule,
    survivors: Survivors,
    allocation: Allocation,
    built: Built,
    after: Labels,
    plan: Plan,
    options: Options,
    head_notes: tuple[str, ...],
) -> Rejuvenation:
    """The result of a rewrite that was built and checked."""
    channels = survivors.channels
    before = _usage(traced, survivors, options)
    carried = tuple(channels.spaces[space].name for space in channels.space_of[survivors.absorption.carriers].tolist())
    crossing = survivors.form_notes if options.scheme != "dense" and allocation.alpha > 1 else ()
    return Rejuvenation(
        module=built.module,
        before=before,
        alpha=allocation.alpha,
        notes=(
            *survivors.liveness.notes,
            *survivors.absorption.notes,
            *held_notes(survivors.liveness, options),
            *carrier_notes(carried),
            *plan.scales.notes,
            *crossing,
            *head_notes,
            *built.notes,
            *width_notes(survivors, options),
            *merge_notes(traced, survivors, options),
        ),
        origins=built.origins,
        parents=built.parents,
        factors=built.factors,
        changed=True,
        keeps_function=options.keeps_function and survivors.absorption.exact,
        removed=removed_gammas(channels, survivors.liveness),
        carriers=carried,
        planned=plan.resized,
        # what a criterion left is live: it would need its batches to say more
        moment=Moment(built.module, after, options.threshold if options.criterion is None else 0.0, options.residual),
        decided=Decided(
            old=Before(traced),
            shapes={name: tensor.shape for name, tensor in named_tensors(traced).items()},
            gamma_dead=survivors.liveness.gamma_dead,
            live=survivors.liveness.live,
            absorption=survivors.absorption,
            threshold=options.threshold,
            scratch=options.scratch,
        ),
    )


def _usage(traced: TracedModule, survivors: Survivors, options: Options) -> Utilization:
    """The utilization of the network that is rewritten, which a result does not keep alive."""

    def again(network: TracedModule) -> Utilization:
        return utilization(network, threshold=options.threshold, residual=options.residual, liveness=options.liveness)

    return measure(traced, survivors.channels, survivors.liveness).released(traced, again)
