"""Laws of what a network costs: as counted, within the budget, and with no room left."""

from math import prod

import torch
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import nrfx
from nrfx.analysis.channels import Channels, Space
from nrfx.analysis.cost import Cost
from nrfx.analysis.spaces import channels_of
from nrfx.errors import SizeError
from tests.laws.trial import TOLERANCE, Options, Trial, difference


def counted(module: nn.Module, images: Tensor) -> tuple[int, int]:
    """Params by counting, flops of one example by FlopCounterMode, which counts a multiply-add as two.

    It does not see the fused attention of the CPU. A graph that takes no other number of examples than that of its
    trace runs on these; so does a group norm over one number, which torch refuses for one example.
    """
    training = module.training
    for given in (images[:1], images):
        with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            try:
                module.eval()(given)
            except (SizeError, ValueError):
                continue
        module.train(training)
        flops = counter.get_total_flops() // 2
        assert flops % len(given) == 0
        return sum(parameter.numel() for parameter in module.parameters()), flops // len(given)
    raise AssertionError("it does not run on the images of its trace")


def costs_as_counted(module: nn.Module, usage: nrfx.Utilization, trial: Trial) -> None:
    params, flops = counted(module, trial.images())
    seen = usage.flops.total - of_one(module)
    assert usage.params.total == params
    assert seen == flops or (usage.uncounted and seen < flops)


def of_one(module: nn.Module) -> int:
    """The flops of sums over one index, which torch.einsum multiplies out, so that FlopCounterMode misses them."""
    steps = [step for step in channels_of(module).steps if step.mode == "eval" and step.node.target is torch.einsum]
    works = [work for step in steps for work in step.effect.work if summed(step.node) == 1]
    return sum(work.times * extent(work.rows) * extent(work.cols) for work in works)


def summed(einsum: fx.Node) -> int:
    """How many products an einsum sums up for each of its outputs."""
    equation, *operands = einsum.args
    letters, out = str(equation).split("->")
    shapes = [operand.meta["val"].shape for operand in operands if isinstance(operand, fx.Node)]
    pairs = zip(letters.split(","), shapes, strict=True)
    sizes = {letter: size for names, shape in pairs for letter, size in zip(names, shape, strict=True)}
    return prod(size for letter, size in sizes.items() if letter not in out)


def extent(layout: Tensor | None) -> int:
    return 1 if layout is None else layout.numel()


def costs_are_exact_and_within_the_budget(trial: Trial) -> None:
    costs_as_counted(trial.gm, nrfx.utilization(trial.gm, residual=trial.how.residual), trial)
    result = trial.result
    if result is not None:
        costs_as_counted(result.module, result.after, trial)
        cost = Cost(result.after.params.total, result.after.flops.total)
        assert trial.how.budget(trial.gm).admits(cost)


def costs_do_not_depend_on_the_batch_that_was_traced(trial: Trial) -> None:
    """In batches of which one has as many images as the network has channels somewhere."""
    counts = [batch for batch in (1, 4, 5) if batch != trial.plan.image[0]]
    gm = nrfx.trace(trial.model, trial.images(counts[trial.plan.seed % len(counts)]))
    usage, other = (nrfx.utilization(each, residual=trial.how.residual) for each in (trial.gm, gm))
    assert (usage.params, usage.flops) == (other.params, other.flops)


def the_budget_leaves_no_room_for_another_channel(trial: Trial) -> None:
    """One more unit of any space that may grow exceeds the budget, or costs nothing of what is budgeted."""
    result, how = trial.result, trial.how
    if result is None or not result.changed or how.scheme != "dense" or not how.reallocate or how.round_to > 1:
        return
    channels = channels_of(result.module)
    bound = how.budget(trial.gm)
    now = cost_with(channels, result.module, None)
    assert now == Cost(result.after.params.total, result.after.flops.total)
    for space in channels.spaces:
        if grows(space, how, result.notes):
            wider = cost_with(channels, result.module, space)
            free = wider.params == now.params if how.of == "params" else wider.flops == now.flops
            assert free or not bound.admits(wider), f"{space.name} may have another channel: {wider} within {bound}"


def grows(space: Space, how: Options, notes: tuple[str, ...]) -> bool:
    """Whether a space may grow; the notes name those that the graph, or a frozen parameter, keeps at their width."""
    named = any(name in note for note in notes if "idth fixed" in note or "ot widened" in note for name in space.births)
    return (
        space.free and space.normed and not space.frozen and not named and (how.residual != "fixed" or not space.stream)
    )


def cost_with(channels: Channels, module: nn.Module, wider: Space | None) -> Cost:
    """The cost of the network with one more channel in a space, from the layouts of its parameters and its work."""

    def extended(layout: Tensor | None) -> int:
        if layout is None or wider is None:
            return extent(layout)
        own = int((channels.spaces_along(layout) == wider.index).sum())
        return layout.numel() + own // wider.width

    params = 0
    for name, parameter in module.named_parameters():
        layouts = channels.layouts.get(name) or (None,) * parameter.dim()
        sizes = zip(parameter.shape, layouts, strict=True)
        params += prod(size if layout is None else extended(layout) for size, layout in sizes)
    steps = [step for step in channels.steps if step.mode == "eval"]
    flops = sum(work.times * extended(work.rows) * extended(work.cols) for step in steps for work in step.effect.work)
    return Cost(params, flops)


def compacting_keeps_the_function_and_the_live_cost(trial: Trial) -> None:
    result = nrfx.compact(trial.gm, residual=trial.how.residual)
    assert difference(trial.expected, trial.outputs(result.module)) < TOLERANCE
    costs_as_counted(result.module, result.after, trial)
    if result.changed and not result.carriers:  # where a carrier takes the place of all the dead, nothing changes
        assert result.after.params.total == result.before.params.live
        assert result.after.flops.total == result.before.flops.live
