"""Every pattern of the table, rewritten in many ways, against the laws that no rewrite may break.

The suite tries each pattern in a few ways, its neighbours in others; every pair of options, and with --every all
combinations, are one command, which prints what it finds:

    python -m tests.test_patterns [--pattern TEXT] [--every]
"""

import argparse
import copy
import itertools
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import nrfx
from nrfx.analysis.channels import Channels
from nrfx.analysis.cost import Cost
from nrfx.analysis.liveness import liveness_of, removed_gammas
from nrfx.analysis.spaces import channels_of
from nrfx.analysis.utilization import measure
from nrfx.errors import BudgetError, NrfxError, TraceError
from nrfx.rewrite.compare import TOLERANCE
from tests.patterns import ALL, DIES, PATTERNS, Pattern
from tests.patterns.pattern import IMAGE
from tests.zoo import calibrated, norms

TRIES = 1  # cases a pattern in the suite; neighbours in the table have others
EXACT = 1e-9  # relative, in float64; rounding stays below 1e-12

DEAD = {  # per norm, repeated along its channels: x is dead
    "none": ".",
    "half": "..xx.x.xxx.",
    "ties": "x..",
    "groups": "xxxx....",
    "all but one": ".xxxxxxxxxxxxxxxxxxx",
}
BETAS = {"none": 0.0, "half": 0.5, "ties": 0.0, "groups": -0.5, "all but one": 0.5}
SCHEMES = ("dense", "attention", "removed")
RESIDUALS = ("live", "coupled", "fixed")
BUDGETS = ("1.0x", "1.6x", "0.9 of the way")


@dataclass(frozen=True)
class Case:
    """How a pattern is killed and rewritten."""

    dead: str
    scheme: str
    residual: str
    budget: str
    measure: str

    def __str__(self) -> str:
        return f"dead {self.dead}, {self.scheme}, {self.residual}, {self.budget} of {self.measure}"


def every_case() -> list[Case]:
    return [Case(*choice) for choice in itertools.product(DEAD, SCHEMES, RESIDUALS, BUDGETS, ("params", "flops"))]


def some_cases() -> list[Case]:
    """Nothing dead once, and every pair of two options once over the other dead sets (a Latin square)."""
    square = [(a, b, (a + b) % 3) for a in range(3) for b in range(3)]
    deads, measures = itertools.cycle(list(DEAD)[1:]), itertools.cycle(("params", "flops"))
    drawn = [Case(next(deads), SCHEMES[a], RESIDUALS[b], BUDGETS[c], next(measures)) for a, b, c in square]
    return [Case("none", "attention", "coupled", "1.0x", "params"), *drawn]


@dataclass(frozen=True)
class Subject:
    """A pattern's network in eval mode, its graph, its inputs, and the numbers that it starts from."""

    pattern: Pattern
    model: nn.Module
    gm: nn.Module
    inputs: tuple[Tensor, ...]
    start: Mapping[str, Tensor]

    @torch.no_grad()
    def kill(self, dead: str) -> None:
        """Sets the network back to its start, then the gammas that `dead` names to small values other than 0."""
        self.model.load_state_dict(self.start)
        pattern = DEAD[dead]
        generator = torch.Generator().manual_seed(0)
        for norm in norms(self.model):
            at = torch.tensor([pattern[i % len(pattern)] == "x" for i in range(norm.num_features)])
            values = torch.rand(norm.num_features, generator=generator).to(norm.bias.dtype) * BETAS[dead]
            norm.weight[at], norm.bias[at] = 1e-4, values[at]


def images(
    count: int, pattern: Pattern, dtype: torch.dtype = torch.float64, seed: int | torch.Generator = 1
) -> tuple[Tensor, ...]:
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    shape = (count, *IMAGE[1:])
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(pattern.inputs))


def finished(pattern: Pattern) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """In float64 and calibrated to listen to its inputs, then finished as the pattern says; and inputs."""
    model = calibrated(pattern.build(), inputs=lambda generator: images(16, pattern, seed=generator))
    for norm in norms(model):
        if norm.running_var is not None:
            norm.running_var.clamp_(min=0.05)  # a silent channel would amplify rounding
    model = pattern.finish(model).eval()
    return model, images(2, pattern, next(model.parameters()).dtype)


def prepared(pattern: Pattern) -> Subject:
    model, inputs = finished(pattern)
    before = state(model)
    subject = Subject(pattern, model, nrfx.trace(model, inputs), inputs, before["tensors"])
    assert unchanged(before, state(model)), "tracing changed the model"
    return subject


def outputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        leaves = tree_leaves(module.eval()(*inputs))
        return [leaf.detach().double() for leaf in leaves if isinstance(leaf, Tensor)]


def difference(expected: list[Tensor], actual: list[Tensor]) -> float:
    assert [tensor.shape for tensor in expected] == [tensor.shape for tensor in actual]
    pairs = zip(expected, actual, strict=True)
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-6)) for a, b in pairs)


def counted(module: nn.Module, inputs: tuple[Tensor, ...]) -> Cost:
    """Params by counting, flops of one example by FlopCounterMode, which counts a multiply-add as two.

    It does not see the fused attention of the CPU, and by itself no product of a matrix or a vector with a vector.
    """
    aten = torch.ops.aten
    products = dict.fromkeys((aten.mv, aten.dot, aten.vdot), lambda first, *_, **__: 2 * prod(first))
    with (
        FlopCounterMode(display=False, custom_mapping=products) as counter,
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
    ):
        module.eval()(*(x[:1] for x in inputs))
    return Cost(sum(parameter.numel() for parameter in module.parameters()), counter.get_total_flops() // 2)


def costs_as_counted(module: nn.Module, usage: nrfx.Utilization, subject: Subject) -> None:
    truth = counted(module, subject.inputs)
    assert usage.params.total == truth.params, f"{usage.params.total} params, counted {truth.params}"
    if usage.uncounted:
        assert usage.flops.total <= truth.flops
    else:
        assert usage.flops.total == truth.flops, f"{usage.flops.total} flops, counted {truth.flops}"


def budget_of(case: Case, usage: nrfx.Utilization) -> nrfx.Budget:
    share = usage.params if case.measure == "params" else usage.flops
    bounds = {
        "1.0x": share.total,
        "1.6x": int(share.total * 1.6),
        "0.9 of the way": share.total - int(0.9 * (share.total - share.live)),
    }
    return nrfx.Budget(**{case.measure: bounds[case.budget]})


def state(module: nn.Module) -> dict[str, Any]:
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    modes = {name: part.training for name, part in module.named_modules()}
    learns = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    return {"tensors": tensors, "modes": modes, "learns": learns}


def unchanged(before: dict[str, Any], after: dict[str, Any]) -> bool:
    same = before["tensors"].keys() == after["tensors"].keys()
    return (
        same
        and before["modes"] == after["modes"]
        and before["learns"] == after["learns"]
        and all(torch.equal(tensor, after["tensors"][name]) for name, tensor in before["tensors"].items())
    )


def obeys(subject: Subject, case: Case) -> None:
    """Asserts every law for one network and one way to rewrite it."""
    subject.kill(case.dead)
    gm = subject.gm
    before = state(subject.model)
    usage = nrfx.utilization(gm, residual=case.residual)
    costs_as_counted(gm, usage, subject)
    budget = budget_of(case, usage)
    try:
        result = nrfx.rejuvenate(
            gm,
            budget,
            scheme=case.scheme,
            residual=case.residual,
            generator=torch.Generator().manual_seed(0),
        )
        assert budget.admits(Cost(result.after.params.total, result.after.flops.total)), "over budget"
    except BudgetError:  # carriers, or what a graph demands of widths, may cost more than the live channels alone
        assert case.budget == "0.9 of the way", "the network as it is fits this budget"
        result = nrfx.compact(gm, residual=case.residual)
    assert result.changed or result.notes, "a silent no-op"
    costs_as_counted(result.module, result.after, subject)
    keeps_the_function(subject, result)
    trains(subject, result)
    assert unchanged(before, state(subject.model)), "the model was changed"


def keeps_the_function(subject: Subject, result: nrfx.Rejuvenation) -> None:
    nrfx.verify(subject.gm, result, subject.inputs)
    reference = copy.deepcopy(subject.model)
    for name, dead in result.removed.items():
        reference.get_parameter(name).data.masked_fill_(dead, 0.0)
    expected, actual = outputs(reference, subject.inputs), outputs(result.module, subject.inputs)
    dtype = subject.inputs[0].dtype
    tolerance = EXACT if dtype == torch.float64 else TOLERANCE[dtype]
    moved = difference(expected, actual)
    assert moved < tolerance, f"outputs differ by {moved:.2e}"


def trains(subject: Subject, result: nrfx.Rejuvenation) -> None:
    """Train mode runs forward and backward, and every parameter that learns gets a finite gradient if it did before."""
    if not subject.pattern.trains:
        return
    taught = {
        name for name, parameter in gradients(copy.deepcopy(subject.model), subject).items() if parameter is not None
    }
    for name, gradient in gradients(result.module, subject).items():
        assert gradient is None or bool(gradient.isfinite().all()), f"{name} has no finite gradient"
        assert gradient is not None or result.parents[name] not in taught, f"{name} gets no gradient"


def gradients(module: nn.Module, subject: Subject) -> dict[str, Tensor | None]:
    dtype = subject.inputs[0].dtype
    torch.manual_seed(0)
    leaves = tree_leaves(module.train()(*images(4, subject.pattern, dtype)))
    loss = sum(leaf.float().square().mean() for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad)
    loss.backward()  # type: ignore[union-attr]
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def freedom(subject: Subject, channels: Channels) -> dict[str, tuple[str, ...]]:
    """Module path -> why its width is fixed, () where it is free."""
    usage = measure(subject.gm, channels, liveness_of(subject.gm, channels))
    return {row.name: row.pins for row in usage.rows}


def going(subject: Subject, channels: Channels) -> str:
    """Which of the dead channels of `before` can go, where streams do not keep them, as in patterns/dies.py."""
    subject.kill("half")
    gammas = removed_gammas(channels, liveness_of(subject.gm, channels, residual="coupled"))
    return " ".join(map(str, gammas["before.1.weight"].nonzero().flatten().tolist()))


TRACED = {name: pattern for name, pattern in PATTERNS.items() if pattern.refused is None}
REFUSED = {name: pattern for name, pattern in PATTERNS.items() if pattern.refused is not None}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_traced_is_refused_and_left_alone(name: str) -> None:
    model, inputs = finished(REFUSED[name])
    before = state(model)
    with pytest.raises(TraceError, match=REFUSED[name].refused):
        nrfx.trace(model, inputs)
    assert unchanged(before, state(model))


@pytest.mark.filterwarnings("ignore:SyncBatchNorm", "ignore:LSTM with projections")
@pytest.mark.parametrize("number", range(len(TRACED)), ids=list(TRACED))
def test_pattern(number: int) -> None:
    name, pattern = list(TRACED.items())[number]
    subject = prepared(pattern)
    inputs = (images(2, pattern, subject.inputs[0].dtype, seed) for seed in (1, 2))
    assert difference(*(outputs(subject.model, drawn) for drawn in inputs)) > 1e-3, "it does not listen to its inputs"
    channels = channels_of(subject.gm)
    reasons = freedom(subject, channels)
    assert not {path: reasons[path] for path in pattern.free.split() if reasons[path]}, "these should be free"
    assert all(reasons[path] for path in pattern.pinned.split())
    assert going(subject, channels) == DIES.get(name, ALL if "before.0" in pattern.free.split() else "")
    cases = some_cases()
    for case in (cases[(number + 3 * turn) % len(cases)] for turn in range(TRIES)):
        try:
            obeys(subject, case)
        except Exception as error:
            raise AssertionError(f"{name}: {case}: {type(error).__name__}: {error}") from error


def survey(names: list[str], cases: list[Case]) -> int:
    """Prints what fails, pattern by pattern; the number of failures."""
    console, failures = Console(width=200), 0
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
        task = progress.add_task("patterns", total=len(names))
        for name in names:
            for text in broken(name, cases):
                failures += 1
                progress.console.print(f"{name}: {text}", markup=False, highlight=False)
            progress.advance(task)
    return failures


def broken(name: str, cases: list[Case]) -> Iterator[str]:
    """One text for each kind of failure of a pattern, with the number of cases, and for what should be free."""
    kinds: dict[str, list[Case]] = {}
    try:
        if PATTERNS[name].refused is not None:
            test_what_cannot_be_traced_is_refused_and_left_alone(name)
            return
        subject = prepared(PATTERNS[name])
        for case in cases:
            try:
                obeys(subject, case)
            except Exception as error:  # whatever goes wrong is what is looked for
                where = "" if isinstance(error, AssertionError | NrfxError) else f" [{origin(error)}]"
                text = (
                    f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300] if str(error) else ''}{where}"
                )
                kinds.setdefault(re.sub(r"[\d.]+e-?\d+|\d+", "#", text), []).append((case, text))
        for failures in kinds.values():
            yield f"[{len(failures)} of {len(cases)}] {failures[0][1]} ({failures[0][0]})"
        channels = channels_of(subject.gm)
        reasons = freedom(subject, channels)
        for path in subject.pattern.free.split():
            if reasons.get(path, ("no such row",)):
                yield f"WANTED {path} free: {reasons.get(path, ('no such row',))}"
        for path in subject.pattern.pinned.split():
            if not reasons.get(path, ()):
                yield f"free though it must be pinned: {path}"
        expected = DIES.get(name, ALL if "before.0" in subject.pattern.free.split() else "")
        if (gone := going(subject, channels)) != expected:
            yield f"channels {gone} go, and {expected} should"
    except Exception as error:
        yield f"cannot be prepared or traced: {type(error).__name__}: {error} [{origin(error)}]"


def origin(error: BaseException) -> str:
    frames = list(traceback.extract_tb(error.__traceback__))
    own = [frame for frame in frames if "/nrfx/" in frame.filename] or frames
    return f"{own[-1].filename.rpartition('/')[2]}:{own[-1].lineno}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.test_patterns", description="Look for patterns that break a law."
    )
    parser.add_argument("--pattern", default="", metavar="TEXT", help="only those whose name contains it")
    parser.add_argument("--every", action="store_true", help="all combinations, not only all pairs")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)
    names = [name for name in PATTERNS if chosen.pattern in name]
    return int(survey(names, every_case() if chosen.every else some_cases()) > 0)


if __name__ == "__main__":
    sys.exit(main())
