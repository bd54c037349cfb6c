"""Laws that hold for every network, on networks that nobody wrote (networks.py).

The suite tries a few, always the same. A long search finds the smallest network that breaks a law:

    python -m tests.test_laws --networks 5000 [--seed 1] [--law NAME ...]
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import nrfx
from nrfx.cost import Cost
from nrfx.errors import BudgetError
from tests.networks import IMAGE, Piece, Plan, one_of, plans
from tests.zoo import norms

EXAMPLES = 16
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

    def rewrite(self, gm: nn.Module) -> nrfx.Rejuvenation:
        return nrfx.rejuvenate(
            gm,
            nrfx.Budget.relative(gm, **{self.of: self.times}),
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
        one_of(("live", "coupled", "fixed")),
        one_of(("params", "flops")),
        one_of((1.0, 1.5, 2.5)),
        one_of((True, True, False)),
        one_of((True, True, True, False)),
        one_of((1, 1, 1, 4)),
        one_of((None, 2.0)),
    )


def images(count: int = IMAGE[0]) -> Tensor:
    return torch.randn(count, *IMAGE[1:], generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def outputs(module: nn.Module) -> Tensor:
    with torch.no_grad():
        return module.eval()(images())


def difference(before: nn.Module, after: nn.Module) -> float:
    """Largest difference of the outputs, relative to the largest output."""
    expected, found = outputs(before), outputs(after)
    assert expected.shape == found.shape
    return float((expected - found).abs().max() / expected.abs().max().clamp(min=1e-6))


def counted(module: nn.Module) -> tuple[int, int]:
    """Params by counting, flops of one example by FlopCounterMode, which counts a multiply-add as two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(images(1))
    return sum(parameter.numel() for parameter in module.parameters()), counter.get_total_flops() // 2


def costs_as_counted(module: nn.Module, usage: nrfx.Utilization) -> None:
    params, flops = counted(module)
    assert usage.params.total == params
    assert usage.flops.total == flops or (usage.uncounted and usage.flops.total < flops)


def tried(gm: nn.Module, how: Options) -> nrfx.Rejuvenation | None:
    """The rewrite, or None where its budget is too small for a good reason: everything is back at its old width, and
    carriers stand beside it.
    """
    try:
        return how.rewrite(gm)
    except BudgetError as error:
        assert not how.reallocate and "Use reallocate=True" in str(error)
        return None


def a_rewrite_keeps_the_function(plan: Plan, how: Options) -> None:
    model = plan.prepared()
    gm = nrfx.trace(model, images())
    before = {name: tensor.clone() for name, tensor in gm.state_dict().items()}
    result = tried(gm, how)
    assert all(torch.equal(tensor, before[name]) for name, tensor in gm.state_dict().items())
    if result is not None:
        assert difference(model, result.module) < TOLERANCE
        assert nrfx.verify(gm, result, images()) < TOLERANCE
        frozen = dict(unlearnt(model))
        assert all(parameter.numel() <= frozen[name].numel() for name, parameter in unlearnt(result.module))


def unlearnt(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in module.named_parameters() if not parameter.requires_grad]


def costs_are_exact_and_within_the_budget(plan: Plan, how: Options) -> None:
    gm = nrfx.trace(plan.prepared(), images())
    costs_as_counted(gm, nrfx.utilization(gm, residual=how.residual))
    result = tried(gm, how)
    if result is not None:
        costs_as_counted(result.module, result.after)
        budget = nrfx.Budget.relative(gm, **{how.of: how.times})
        assert budget.admits(Cost(result.after.params.total, result.after.flops.total))


def nothing_dead_at_the_same_cost_changes_nothing(plan: Plan, how: Options) -> None:
    model = replace(plan, dead=(".",)).prepared()
    result = Options(how.scheme, how.residual, how.of, 1.0, how.rescale).rewrite(nrfx.trace(model, images()))
    assert not result.changed and result.notes
    assert torch.equal(outputs(model), outputs(result.module))


def rejuvenating_twice_keeps_the_function(plan: Plan, how: Options) -> None:
    result = tried(nrfx.trace(plan.prepared(), images()), how)
    if result is None:
        return
    gm = result.module
    perturb(gm)
    plan.killed(gm)
    again = tried(gm, how)
    if again is not None:
        assert difference(gm, again.module) < TOLERANCE
        costs_as_counted(again.module, again.after)


def perturb(module: nn.Module) -> None:
    """Moves every parameter and some statistics a little, and every gamma away from zero."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        for norm in norms(module):
            norm.weight.copy_(torch.where(norm.weight < 0, -1, 1) * norm.weight.abs().clamp(min=0.2))
            norm.running_mean.add_(0.1 * torch.randn(norm.num_features, generator=generator, dtype=torch.float64))


def what_comes_out_trains(plan: Plan, how: Options) -> None:
    result = tried(nrfx.trace(plan.prepared(), images()), how)
    if result is not None:
        loss = result.module.train()(images(4)).square().mean()
        if loss.requires_grad:
            loss.backward()
        for name, parameter in result.module.named_parameters():
            assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name


def compacting_keeps_the_function_and_the_live_cost(plan: Plan, how: Options) -> None:
    model = plan.prepared()
    result = nrfx.compact(nrfx.trace(model, images()), residual=how.residual)
    assert difference(model, result.module) < TOLERANCE
    costs_as_counted(result.module, result.after)
    if result.changed and not result.carriers:  # where a carrier takes the place of all the dead, nothing changes
        assert result.after.params.total == result.before.params.live
        assert result.after.flops.total == result.before.flops.live


def what_is_saved_is_loaded(plan: Plan, how: Options) -> None:
    result = tried(nrfx.trace(plan.prepared(), images()), how)
    if result is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        nrfx.save(path, result.module)
        loaded = nrfx.load(path, plan.build())
    state = loaded.state_dict()
    assert state.keys() == result.module.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in result.module.state_dict().items())
    assert torch.equal(outputs(loaded), outputs(result.module))


def every_number_comes_from_its_origin(plan: Plan, how: Options) -> None:
    """A weight that no carrier was written into is the old one at its origins, times the factors."""
    gm = nrfx.trace(plan.prepared(), images())
    result = tried(gm, how)
    if result is None:
        return
    old = dict(gm.named_parameters())
    for name, parameter in result.module.named_parameters():
        parent = result.parents[name]
        if parent is None or not name.endswith("weight") or parameter.dim() == 1:
            continue
        found, expected = parameter.detach(), old[parent].detach()
        for dim, (places, factor) in enumerate(zip(result.origins[name], result.factors[name], strict=True)):
            at = torch.arange(found.shape[dim])
            kept = at[((places if places is not None else at) >= 0) & ((factor if factor is not None else at + 1) != 0)]
            expected = expected.index_select(dim, kept if places is None else places[kept])
            found = found.index_select(dim, kept)
            if factor is not None:
                expected = expected * factor[kept].view([-1 if d == dim else 1 for d in range(found.dim())])
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-15), name


Law = Callable[[Plan, Options], None]
LAWS: dict[str, Law] = {
    law.__name__: law
    for law in (
        a_rewrite_keeps_the_function,
        costs_are_exact_and_within_the_budget,
        nothing_dead_at_the_same_cost_changes_nothing,
        rejuvenating_twice_keeps_the_function,
        what_comes_out_trains,
        compacting_keeps_the_function_and_the_live_cost,
        what_is_saved_is_loaded,
        every_number_comes_from_its_origin,
    )
}

COMMON: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
def test_law(law: Law) -> None:
    @settings(max_examples=EXAMPLES, derandomize=True, phases=[Phase.generate], print_blob=False, **COMMON)
    @given(plans(), options())
    def holds(plan: Plan, how: Options) -> None:
        law(plan, how)

    holds()


def search(law: Law, networks: int, number: int, tick: Callable[[], None]) -> list[str]:
    """Tries a law on that many networks; a text for each way in which it fails, with its smallest example."""

    @seed(number)
    @settings(max_examples=networks, print_blob=False, **COMMON)
    @given(plans(), options())
    def holds(plan: Plan, how: Options) -> None:
        tick()
        law(plan, how)

    try:
        holds()
    except Exception as error:  # whatever breaks a law is what is looked for
        failures = error.exceptions if isinstance(error, ExceptionGroup) else (error,)
        return [f"{law.__name__}: {type(e).__name__}: {e}\n" + "\n".join(getattr(e, "__notes__", [])) for e in failures]
    return []


def main(arguments: list[str] | None = None) -> int:
    """The long search: 0 where every law holds, 1 where one does not."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.test_laws", description="Look for networks that break a law."
    )
    parser.add_argument("--networks", type=int, default=500, help="networks a law (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other networks (default: 0)")
    parser.add_argument(
        "--law", action="append", choices=LAWS, metavar="NAME", help=f"only this one: {', '.join(LAWS)}"
    )
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    failures: list[str] = []
    console = Console()
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
        for name in chosen.law or LAWS:
            task = progress.add_task(name.replace("_", " "), total=chosen.networks)
            found = search(LAWS[name], chosen.networks, chosen.seed, lambda task=task: progress.advance(task))
            for text in found:
                console.print(text, markup=False, highlight=False, style="red")
            failures += found
    console.print(f"{len(failures)} ways to break a law." if failures else "Every law holds.")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
