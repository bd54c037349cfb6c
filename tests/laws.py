"""Laws that hold for every network and every way to rewrite it (test_laws.py tries them).

A law is a function of a Trial: it passes, or raises.
"""

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import nrfx
from nrfx.analysis.channels import Channels, Space
from nrfx.analysis.cost import Cost
from nrfx.analysis.spaces import channels_of
from nrfx.errors import BudgetError
from tests.networks import IMAGE, Piece, Plan, one_of
from tests.zoo import norms

TOLERANCE = 1e-9  # float64; the networks are small, and their rounding stays below 1e-12


@dataclass(frozen=True, repr=False)
class Options(Piece):
    """How a network is rewritten. `of` is the budgeted measure, `times` the budget relative to the cost."""

    scheme: str = "dense"
    residual: str = "live"
    of: str = "params"
    times: float = 1.0
    rescale: bool = True
    reallocate: bool = True
    round_to: int = 1
    gamma0: float | None = None

    def budget(self, gm: nn.Module) -> nrfx.Budget:
        return nrfx.Budget.relative(gm, **{self.of: self.times})

    def rewrite(self, gm: nn.Module) -> nrfx.Rejuvenation:
        return nrfx.rejuvenate(
            gm,
            self.budget(gm),
            scheme=self.scheme,
            residual=self.residual,
            rescale=self.rescale,
            reallocate=self.reallocate,
            round_to=self.round_to,
            gamma0=self.gamma0,
            generator=torch.Generator().manual_seed(0),
        )


def options() -> st.SearchStrategy[Options]:
    return st.builds(
        Options,
        one_of(("dense", "attention", "removed")),
        one_of(("live", "coupled", "fixed", "coupled")),
        one_of(("params", "flops")),
        one_of((1.0, 1.5, 2.5, 1.2)),
        one_of((True, True, False)),
        one_of((True, True, True, False)),
        one_of((1, 1, 1, 4)),
        one_of((None, 2.0)),
    )


class Trial:
    """One network and one way to rewrite it; what several laws need is made once, and no law may change it."""

    def __init__(self, plan: Plan, how: Options) -> None:
        self.plan, self.how = plan, how

    @cached_property
    def model(self) -> nn.Module:
        return self.plan.prepared()

    @cached_property
    def gm(self) -> nn.Module:
        return nrfx.trace(self.model, images())

    @cached_property
    def result(self) -> nrfx.Rejuvenation | None:
        return tried(self.gm, self.how)

    @cached_property
    def expected(self) -> list[Tensor]:
        return outputs(self.model)


def images(count: int = IMAGE[0]) -> Tensor:
    return torch.randn(count, *IMAGE[1:], generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def outputs(module: nn.Module) -> list[Tensor]:
    """The tensors of a network's eval output; its mode is left as it was."""
    training = module.training
    with torch.no_grad():
        leaves = tree_leaves(module.eval()(images()))
    module.train(training)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def difference(expected: list[Tensor], found: list[Tensor]) -> float:
    """Largest difference of the outputs, relative to the largest value of each."""
    assert [tensor.shape for tensor in expected] == [tensor.shape for tensor in found]
    pairs = zip(expected, found, strict=True)
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-6)) for a, b in pairs)


def counted(module: nn.Module) -> tuple[int, int]:
    """Params by counting, flops of one example by FlopCounterMode, which counts a multiply-add as two.

    It does not see the fused attention of the CPU.
    """
    training = module.training
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        module.eval()(images(1))
    module.train(training)
    return sum(parameter.numel() for parameter in module.parameters()), counter.get_total_flops() // 2


def costs_as_counted(module: nn.Module, usage: nrfx.Utilization) -> None:
    params, flops = counted(module)
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


def tried(gm: nn.Module, how: Options) -> nrfx.Rejuvenation | None:
    """The rewrite, or None where its budget is too small for a good reason: everything is back at its old width, and
    carriers stand beside it.
    """
    try:
        return how.rewrite(gm)
    except BudgetError as error:
        assert not how.reallocate and "Use reallocate=True" in str(error)
        return None


def a_rewrite_keeps_the_function(trial: Trial) -> None:
    model, gm = trial.model, trial.gm
    before = {name: tensor.clone() for name, tensor in gm.state_dict().items()}
    mode = model.training
    result = trial.result
    assert model.training == mode
    assert all(torch.equal(tensor, before[name]) for name, tensor in gm.state_dict().items())
    if result is not None:
        assert difference(trial.expected, outputs(result.module)) < TOLERANCE
        assert nrfx.verify(gm, result, images()) < TOLERANCE
        frozen = dict(unlearnt(model))
        assert all(parameter.numel() <= frozen[name].numel() for name, parameter in unlearnt(result.module))


def unlearnt(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in module.named_parameters() if not parameter.requires_grad]


def costs_are_exact_and_within_the_budget(trial: Trial) -> None:
    costs_as_counted(trial.gm, nrfx.utilization(trial.gm, residual=trial.how.residual))
    result = trial.result
    if result is not None:
        costs_as_counted(result.module, result.after)
        cost = Cost(result.after.params.total, result.after.flops.total)
        assert trial.how.budget(trial.gm).admits(cost)


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


def nothing_dead_at_the_same_cost_changes_nothing(trial: Trial) -> None:
    how = trial.how
    model = replace(trial.plan, dead=(".",)).prepared()
    result = Options(how.scheme, how.residual, how.of, 1.0, how.rescale).rewrite(nrfx.trace(model, images()))
    assert not result.changed and result.notes
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), outputs(result.module), strict=True))


def rejuvenating_twice_keeps_the_function(trial: Trial) -> None:
    if trial.result is None:
        return
    gm = copy.deepcopy(trial.result.module)
    perturb(gm)
    trial.plan.killed(gm)
    again = tried(gm, trial.how)
    if again is not None:
        assert difference(outputs(gm), outputs(again.module)) < TOLERANCE
        costs_as_counted(again.module, again.after)


def perturb(module: nn.Module) -> None:
    """Moves every parameter and some statistics a little, and every gamma away from zero."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        for norm in norms(module):
            norm.weight.copy_(torch.where(norm.weight < 0, -1, 1) * norm.weight.abs().clamp(min=0.2))
            if norm.running_mean is not None:
                noise = torch.randn(norm.num_features, generator=generator, dtype=torch.float64)
                norm.running_mean.add_(0.1 * noise)


def what_comes_out_trains(trial: Trial) -> None:
    if trial.result is None:
        return
    module = copy.deepcopy(trial.result.module).train()
    leaves = [leaf for leaf in tree_leaves(module(images(4))) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if leaves:
        sum(leaf.square().mean() for leaf in leaves).backward()  # type: ignore[union-attr]
    for name, parameter in module.named_parameters():
        assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name


def compacting_keeps_the_function_and_the_live_cost(trial: Trial) -> None:
    result = nrfx.compact(trial.gm, residual=trial.how.residual)
    assert difference(trial.expected, outputs(result.module)) < TOLERANCE
    costs_as_counted(result.module, result.after)
    if result.changed and not result.carriers:  # where a carrier takes the place of all the dead, nothing changes
        assert result.after.params.total == result.before.params.live
        assert result.after.flops.total == result.before.flops.live


def what_is_saved_is_loaded(trial: Trial) -> None:
    result = trial.result
    if result is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        nrfx.save(path, result.module)
        loaded = nrfx.load(path, trial.plan.build())
    state = loaded.state_dict()
    assert state.keys() == result.module.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in result.module.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(outputs(loaded), outputs(result.module), strict=True))


def every_number_comes_from_its_origin(trial: Trial) -> None:
    """A weight that no carrier was written into is the old one at its origins, times the factors."""
    if trial.result is not None:
        came_from(dict(trial.gm.named_parameters()), trial.result.module, traces(trial.result))


def two_rewrites_compose(trial: Trial) -> None:
    """The origins of two rewrites in a row, composed, lead from the last network to the first."""
    if trial.result is None:
        return
    gm = trial.plan.killed(copy.deepcopy(trial.result.module))
    again = tried(gm, trial.how)
    if again is not None:
        came_from(dict(trial.gm.named_parameters()), again.module, composed(traces(again), traces(trial.result)))


Dims = list[tuple[Tensor | None, Tensor | None]]  # per dim: old positions (-1 = new), factors; None for no change


def traces(result: nrfx.Rejuvenation) -> dict[str, tuple[str, Dims]]:
    """Weight -> where it comes from: the old name, and per dim the positions and factors."""
    return {
        name: (parent, list(zip(result.origins[name], result.factors[name], strict=True)))
        for name, parent in result.parents.items()
        if parent is not None
    }


def composed(later: dict[str, tuple[str, Dims]], earlier: dict[str, tuple[str, Dims]]) -> dict[str, tuple[str, Dims]]:
    """`later` after `earlier`; what is new in either is new."""
    both = {}
    for name, (middle, dims) in later.items():
        if middle in earlier:
            parent, before = earlier[middle]
            both[name] = parent, [follow(last, first) for last, first in zip(dims, before, strict=True)]
    return both


def follow(last: tuple[Tensor | None, Tensor | None], first: tuple[Tensor | None, Tensor | None]) -> Any:
    (places, factor), (old_places, old_factor) = last, first
    if places is None:
        return old_places, times(factor, old_factor)
    kept = places.clamp(min=0)
    carried = None if old_factor is None else torch.where(places >= 0, old_factor[kept], 1.0)
    origin = places if old_places is None else torch.where(places >= 0, old_places[kept], -1)
    return origin, times(factor, carried)


def times(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a * b


def came_from(old: dict[str, nn.Parameter], module: nn.Module, origins: dict[str, tuple[str, Dims]]) -> None:
    """Asserts that every weight of `module` is what its origins say, where they say anything."""
    for name, parameter in module.named_parameters():
        if name not in origins or not name.endswith("weight") or parameter.dim() == 1:
            continue
        parent, dims = origins[name]
        found, expected = parameter.detach(), old[parent].detach()
        for dim, (places, factor) in enumerate(dims):
            at = torch.arange(found.shape[dim])
            kept = at[((places if places is not None else at) >= 0) & ((factor if factor is not None else at + 1) != 0)]
            expected = expected.index_select(dim, kept if places is None else places[kept])
            found = found.index_select(dim, kept)
            if factor is not None:
                expected = expected * factor[kept].view([-1 if d == dim else 1 for d in range(found.dim())])
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-15), name


Law = Callable[[Trial], None]
LAWS: dict[str, Law] = {
    law.__name__: law
    for law in (
        a_rewrite_keeps_the_function,
        costs_are_exact_and_within_the_budget,
        the_budget_leaves_no_room_for_another_channel,
        nothing_dead_at_the_same_cost_changes_nothing,
        rejuvenating_twice_keeps_the_function,
        two_rewrites_compose,
        what_comes_out_trains,
        compacting_keeps_the_function_and_the_live_cost,
        what_is_saved_is_loaded,
        every_number_comes_from_its_origin,
    )
}

REPLAY = "from tests.networks import *; from tests.laws import *; "


def obeyed(trial: Trial, law: Law) -> None:
    """Tries a law. What breaks it carries a line of code that does it again."""
    try:
        law(trial)
    except Exception as error:
        error.add_note(f"{REPLAY}{law.__name__}(Trial({trial.plan}, {trial.how}))")
        raise
