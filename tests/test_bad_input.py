"""What users get wrong, one row a mistake: an error of ours that names the place and what to do, or a note.

After each, the model is as it was: parameters, buffers, flags, modes, hooks, code.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import zoo
from mistakes import (
    Deciding,
    Hidden,
    Noisy,
    TwoInputs,
    Untaught,
    X,
    all_dead,
    full,
    hooked,
    loaded,
    on_meta,
    pins,
    plain,
    quantized,
    random_images,
    rejuvenated,
    rejuvenator,
    save_half_of_it,
    save_result,
    save_weights,
    scripted,
    sgd,
    stepped,
    traced,
    uncounted,
    verified,
    weight_normed,
    with_computed_weight,
    with_half_layer,
    with_module,
    with_nan_weight,
    with_number,
    with_weight_on_a_tape,
    without_channels,
    without_module,
    without_weight,
)
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations, prune
from torch.optim import SGD, RMSprop
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

import nrfx
from nrfx.budget_request import parse_budget
from nrfx.errors import (
    AnalysisError,
    BudgetError,
    CheckpointError,
    TraceError,
    TrainingError,
    UsageError,
    VerificationError,
)


@dataclass(frozen=True)
class Row:
    """A model, what is done to it, and the error (None: a result) with the words that it says."""

    make: Callable[[], nn.Module]
    mistake: Callable[[Any, Path], object]
    error: type[nrfx.NrfxError] | None
    words: tuple[str, ...]


def row(
    make: Callable[[], nn.Module], mistake: Callable[[Any], object], error: type[nrfx.NrfxError] | None, *words: str
) -> Row:
    return Row(make, lambda model, _: mistake(model), error, words)


def on_disk(
    make: Callable[[], nn.Module], mistake: Callable[[Any, Path], object], error: type[nrfx.NrfxError], *words: str
) -> Row:
    return Row(make, mistake, error, words)


EXAMPLES = {
    "images of 4 colours": row(
        plain, lambda m: nrfx.trace(m, torch.zeros(1, 4, 16, 16)), TraceError,
        "Node _0", "0 (Conv2d)", "[1, 4, 16, 16]", "Check that example_inputs fit",
    ),
    "images of another size": row(
        plain, lambda m: nrfx.trace(m, torch.zeros(1, 3, 32, 32)), TraceError, "13 (Linear)", "[1, 256]", "[64, 5]"
    ),
    "an image without a batch": row(
        plain, lambda m: nrfx.trace(m, torch.zeros(3, 16, 16)), TraceError, "1 (BatchNorm2d)", "expected 4D", "3D"
    ),
    "an empty batch": row(plain, lambda m: nrfx.trace(m, X[:0]), TraceError, "[0, 3, 16, 16]", "at least one example"),
    "a nested tensor": row(
        plain, lambda m: nrfx.trace(m, torch.nested.as_nested_tensor([X[0]], layout=torch.jagged)),
        TraceError, "input 0 is a nested tensor",
    ),
    "whole numbers": row(
        plain, lambda m: nrfx.trace(m, X.long()),
        TraceError, "0 (Conv2d) reads int64", "weight is float32", "example_inputs"
    ),
    "no example inputs": row(
        plain, nrfx.utilization, TraceError, "Sequential is not traced", "pass example_inputs="
    ),
    "no example inputs to compact": row(plain, nrfx.compact, TraceError, "pass example_inputs="),
    "an empty tuple": row(plain, lambda m: nrfx.trace(m, ()), TraceError, "found an empty tuple", "one per argument"),
    "a list": row(plain, lambda m: nrfx.trace(m, [X]), TraceError, "a tuple of tensors", "found list"),
    "a shape instead of a tensor": row(
        plain, lambda m: nrfx.trace(m, (1, 3, 16, 16)), TraceError, "found int, int, int, int"
    ),
    "a dictionary": row(plain, lambda m: nrfx.trace(m, {"x": X}), TraceError, "found dict"),
    "an array": row(plain, lambda m: nrfx.trace(m, numpy.zeros(zoo.IMAGE)), TraceError, "found ndarray"),
    "one input too many": row(
        plain, lambda m: nrfx.trace(m, (X, X)), TraceError, "2 example inputs", "forward(input)", "too many"
    ),
    "one input too few": row(TwoInputs, lambda m: nrfx.trace(m, X), TraceError, "1 example inputs", "missing", "'y'"),
    "inputs on another device": row(
        traced, lambda gm: verified(gm, X.to("meta")), VerificationError,
        "float32 on meta", "traced on [2, 3, 16, 16] float32", "on the network's device",
    ),
    "a graph module without shapes": row(
        lambda: fx.symbolic_trace(plain()), nrfx.utilization, TraceError,
        "no shape for its input input_1", "pass example_inputs=",
    ),
    "a graph module, and inputs that do not fit": row(
        lambda: fx.symbolic_trace(plain()), lambda gm: nrfx.utilization(gm, example_inputs=torch.zeros(1, 4, 16, 16)),
        TraceError, "Node _0", "[1, 4, 16, 16]",
    ),
    "a graph module, and one input too many": row(
        lambda: fx.symbolic_trace(plain()), lambda gm: nrfx.utilization(gm, example_inputs=(X, X)),
        TraceError, "1 of 2 example inputs",
    ),
}  # fmt: skip

MODELS = {
    "no module": row(plain, lambda m: nrfx.trace("resnet18", X), TraceError, "wants an nn.Module", "str"),
    "a class instead of an instance": row(plain, lambda m: nrfx.trace(nn.Identity, X), TraceError, "nn.Module", "type"),
    "weights instead of a module": row(
        plain, lambda m: nrfx.utilization(m.state_dict()), TraceError, "nn.Module", "got a OrderedDict"
    ),
    "DataParallel": row(
        lambda: nn.DataParallel(plain()), lambda m: nrfx.trace(m, X),
        TraceError, "(DataParallel) wraps", "wrap the result"
    ),
    "a compiled model": row(
        lambda: torch.compile(plain()), lambda m: nrfx.trace(m, X),
        TraceError, "(OptimizedModule) wraps", "trace that one"
    ),
    "a model with a compiled part": row(
        lambda: nn.Sequential(torch.compile(plain())), lambda m: nrfx.trace(m, X),
        TraceError, "0 (OptimizedModule) wraps"
    ),
    "a scripted model": row(
        scripted, lambda m: nrfx.trace(m, X), TraceError, "TorchScript", "trace the model it was made from"
    ),
    "a quantized model": row(
        quantized, lambda m: nrfx.trace(m, X), TraceError, "1 (Linear) is quantized", "float model"
    ),
    "a lazy model": row(
        lambda: nn.Sequential(nn.LazyConv2d(8, 3)), lambda m: nrfx.trace(m, X), TraceError,
        "0.weight has no shape yet", "run one batch",
    ),
    "an `if` on values": row(Deciding, lambda m: nrfx.trace(m, X), TraceError, "The model (Deciding)", "torch.where"),
    "autocast in forward": row(
        Untaught, lambda m: nrfx.trace(m, X), TraceError, "mistakes.py", "autocast", "outside the model"
    ),
    "random numbers in forward": row(
        Noisy, lambda m: nrfx.trace(m, X), TraceError, "The model (Noisy)", "torch.rand_like"
    ),
    "layers in a list": row(Hidden, lambda m: nrfx.trace(m, X), TraceError, "not registered", "nn.ModuleList"),
    "no forward": row(
        lambda: nn.ModuleList([plain()]), lambda m: nrfx.trace(m, X), TraceError, "The model (ModuleList)", '"forward"'
    ),
    "no channels": row(
        without_channels, lambda m: nrfx.trace(m, X), TraceError, "0 (Conv2d) has a weight of shape [0, 3, 1, 1]"
    ),
    "a layer of another dtype": row(
        with_half_layer, lambda m: nrfx.trace(m, X), TraceError, "8 (Conv2d) reads float32", "weight is float16"
    ),
    "a layer deleted after tracing": row(
        without_module, nrfx.utilization, TraceError, "The graph calls 4", "Trace the model again"
    ),
    "a weight deleted after tracing": row(
        without_weight, nrfx.utilization, TraceError, "4 (Conv2d) has no weight", "Trace the model again"
    ),
    "a layer exchanged for a wider one": row(
        lambda: with_module("4", nn.Conv2d(8, 20, 3)), lambda gm: nrfx.rejuvenate(gm, nrfx.Budget(params=9_999)),
        TraceError, "4 (Conv2d) takes 8 channels and gives 20", "in the graph 8 and 12", "Trace the model again",
    ),
    "a norm exchanged for a wider one": row(
        lambda: with_module("5", nn.BatchNorm2d(20)), nrfx.utilization, TraceError,
        "5 (BatchNorm2d) is over 20 channels", "gives it 12",
    ),
    "a head with more classes": row(
        lambda: with_module("13", nn.Linear(64, 100)), lambda gm: nrfx.rejuvenate(gm, nrfx.Budget(params=9_999)),
        TraceError, "13 (Linear) takes 64 channels and gives 100", "64 and 5",
    ),
    "a model on the meta device": row(
        lambda: on_meta(*range(14)), nrfx.utilization, AnalysisError, "meta device", "move it to the CPU"
    ),
    "one layer on the meta device": row(
        lambda: on_meta(4), lambda gm: nrfx.rejuvenate(gm, full(gm)), AnalysisError, "4.weight lies on the meta device"
    ),
    "a gamma that is NaN": row(
        lambda: with_number("weight", math.nan), nrfx.utilization, AnalysisError,
        "5.weight[2] is nan", "every gamma must be finite", "earlier checkpoint",
    ),
    "a gamma that is infinite": row(
        lambda: with_number("weight", -math.inf), lambda gm: nrfx.rejuvenate(gm, full(gm)),
        AnalysisError, "5.weight[2] is -inf"
    ),
    "a beta that is NaN": row(
        lambda: with_number("bias", math.nan), lambda gm: nrfx.rejuvenate(gm, full(gm)), AnalysisError,
        "5.bias[2] is nan", "every beta must be finite",
    ),
    "a running variance that is infinite": row(
        lambda: with_number("running_var", math.inf), nrfx.compact, AnalysisError,
        "5.running_var[2] is inf", "every running variance must be finite",
    ),
    "a weight that is NaN": row(
        with_nan_weight, lambda gm: verified(gm, random_images()), VerificationError, "output", "not finite", "weights"
    ),
}  # fmt: skip

NOTED = {
    "a layer all of whose gammas are 0": row(
        lambda: all_dead(5), rejuvenated, None, "changed", "5.weight: all gammas are below 0.001; only the strongest"
    ),
    "a network all of whose gammas are 0": row(
        lambda: all_dead(1, 5, 9), rejuvenated, None, "1.weight: all", "5.weight: all", "9.weight: all"
    ),
    "a frozen model with dead channels": row(
        lambda: traced(plain().requires_grad_(False)), rejuvenated,
        None, "changed", "Not widened", "frozen parameters: 0, 4, 8"
    ),
    "a frozen model without": row(
        lambda: traced(zoo.vgg_bn().requires_grad_(False)), rejuvenated, None, "unchanged", "Nothing is dead"
    ),
    "a frozen model in training": row(
        lambda: traced(plain().requires_grad_(False)),
        lambda gm: rejuvenator(gm, optimizer=SGD([nn.Parameter(X)], lr=0.1)).note,
        None, "No gamma of the network can die",
    ),
    "no norm": row(
        lambda: traced(nn.Sequential(nn.Conv2d(3, 8, 1))), rejuvenated, None, "unchanged", "No batch norm with a gamma"
    ),
    "a norm without gammas": row(
        lambda: traced(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, affine=False), nn.Conv2d(8, 2, 1))),
        rejuvenated, None, "unchanged", "No batch norm with a gamma",
    ),
    "weight_norm": row(
        lambda: with_computed_weight(weight_normed), pins, None, "0.0: it has forward hooks, which may do anything"
    ),
    "weight_norm as a parametrization": row(
        lambda: with_computed_weight(parametrizations.weight_norm), pins,
        None, "0.0: a convolution with a computed weight"
    ),
    "spectral_norm": row(
        lambda: with_computed_weight(parametrizations.spectral_norm), rejuvenated, None, "Held: 4", "computed weight"
    ),
    "a pruned layer": row(
        lambda: with_computed_weight(lambda layer: prune.random_unstructured(layer, "weight", 0.5)),
        rejuvenated, None, "Held: 4", "forward hooks",
    ),
    "a hook": row(hooked, pins, None, "0: it has forward hooks, which may do anything"),
    "a weight in the middle of a training graph": row(
        lambda: traced(with_weight_on_a_tape()), rejuvenated,
        None, "changed", "its weight is computed from other tensors"
    ),
    "an empty graph": row(
        lambda: nrfx.trace(nn.Sequential(), X), lambda gm: " ".join(nrfx.rejuvenate(gm, nrfx.Budget(params=9)).notes),
        None, "No batch norm", "nothing was changed",
    ),
    "nothing dead": row(
        lambda: traced(zoo.vgg_bn()), rejuvenated, None, "unchanged", "Nothing is dead", "3,205 params"
    ),
    "an exported program": row(
        lambda: torch.export.export(plain().eval(), (X,)).module(), uncounted,
        None, "nrfx has no rule for",
    ),
    "round_to where every layer has its old width back": row(
        traced, lambda gm: rejuvenated(gm, reallocate=False, round_to=8), None, "round_to has no meaning"
    ),
}  # fmt: skip


def asked_for(budget: Any) -> Callable[[Any], object]:
    return lambda gm: nrfx.rejuvenate(gm, budget)


BUDGETS = {
    "a budget that is a number": row(
        traced, asked_for(10**6), AnalysisError, "budget is 1000000", "nrfx.Budget(params=...)"
    ),
    "a budget that is text": row(traced, asked_for("1.0x"), AnalysisError, "budget is '1.0x'", "Budget.relative"),
    "no budget": row(traced, asked_for(None), AnalysisError, "budget is None", "nrfx.Budget"),
    "an empty budget": row(traced, lambda gm: nrfx.Budget(), BudgetError, "needs params=, flops= or both"),
    "a budget of 0": row(traced, lambda gm: nrfx.Budget(params=0), BudgetError, "params=0", "positive integer"),
    "a negative budget": row(traced, lambda gm: nrfx.Budget(flops=-1), BudgetError, "flops=-1", "positive integer"),
    "a budget that is a fraction": row(
        traced, lambda gm: nrfx.Budget(params=0.5), BudgetError, "params=0.5", "Budget.relative"
    ),
    "a budget that is True": row(traced, lambda gm: nrfx.Budget(params=True), BudgetError, "params=True"),
    "a relative budget that is text": row(
        traced, lambda gm: nrfx.Budget.relative(gm, params="1.0x"), BudgetError, "params='1.0x'", "such as 1.0"
    ),
    "a relative budget that is NaN": row(
        traced, lambda gm: nrfx.Budget.relative(gm, flops=math.nan), BudgetError, "flops=nan"
    ),
    "a relative budget of nothing": row(
        traced, lambda gm: nrfx.Budget.relative(gm, params=1e-9), BudgetError, "params=1e-09", "3,205 is less than 1"
    ),
    "a budget of a network without parameters": row(
        lambda: nrfx.trace(nn.Identity(), X), full, BudgetError, "params=1.0 of the network's 0"
    ),
    "a budget below what lives": row(
        traced, asked_for(nrfx.Budget(params=10)),
        BudgetError, "live channels alone cost 1,713 params", "10 params", "larger budget"
    ),
    "a budget of a name": row(traced, lambda gm: nrfx.Budget.relative("resnet18", params=1.0), TraceError, "got a str"),
    "a budget on the command line without a measure": row(
        traced, lambda gm: parse_budget("1.0x"), BudgetError, "'1.0x'", "expected params=..., flops=..."
    ),
    "a budget on the command line of infinity": row(
        traced, lambda gm: parse_budget("params=infx"), BudgetError, "params=infx"
    ),
}  # fmt: skip

OPTIONS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "threshold 1.5": ({"threshold": 1.5}, ("threshold is 1.5", "[0, 1)")),
    "threshold NaN": ({"threshold": math.nan}, ("threshold is nan", "[0, 1)")),
    "threshold as text": ({"threshold": "0.01"}, ("threshold is '0.01'",)),
    "an unknown residual": ({"residual": "loose"}, ("residual is 'loose'", "live, fixed, coupled")),
    "an unknown scheme": ({"scheme": "NR-CA"}, ("scheme is 'NR-CA'", "'attention', 'dense', 'removed'")),
    "an unknown reinitialize": ({"reinitialize": "none"}, ("reinitialize is 'none'", "'rejuvenated', 'all'")),
    "round_to 0": ({"round_to": 0}, ("round_to is 0", "integer >= 1")),
    "round_to 1.5": ({"round_to": 1.5}, ("round_to is 1.5",)),
    "gamma0 0": ({"gamma0": 0}, ("gamma0 is 0", "positive number")),
    "gamma0 NaN": ({"gamma0": math.nan}, ("gamma0 is nan",)),
    "rescale as text": ({"rescale": "no"}, ("rescale is 'no'", "True or False")),
    "a seed for a generator": ({"generator": 0}, ("generator is 0", "torch.Generator()")),
    "a device for a generator": ({"generator": "cuda"}, ("generator is 'cuda'",)),
}


def taking(options: dict[str, Any], take: Callable[..., object]) -> Callable[[Any], object]:
    return lambda gm: take(gm, **options)


REFUSED_OPTIONS = {
    f"{name}, in {where}": row(traced, taking(options, take), AnalysisError, *words)
    for name, (options, words) in OPTIONS.items()
    for where, take in {"rejuvenate": rejuvenated, "a Rejuvenator": rejuvenator}.items()
}

TRAINING = {
    "a trigger of 0": row(traced, lambda gm: rejuvenator(gm, trigger=0), TrainingError, "trigger is 0", "such as 0.5"),
    "a trigger of 2": row(traced, lambda gm: rejuvenator(gm, trigger=2), TrainingError, "trigger is 2", "up to 1"),
    "an interval of 0": row(
        traced, lambda gm: rejuvenator(gm, interval=0), TrainingError, "interval is 0", "1 or more"
    ),
    "an interval of True": row(traced, lambda gm: rejuvenator(gm, interval=True), TrainingError, "interval is True"),
    "an end before the first measurement": row(
        traced, lambda gm: rejuvenator(gm, until=5), TrainingError, "until is 5", "step 1000", "interval shorter"
    ),
    "a delta_lambda below 0": row(
        traced, lambda gm: rejuvenator(gm, delta_lambda=-1), TrainingError, "delta_lambda is -1"
    ),
    "a delta_lambda as text": row(
        traced, lambda gm: rejuvenator(gm, delta_lambda="a"), TrainingError, "delta_lambda is 'a'"
    ),
    "an unknown option": row(
        traced, lambda gm: rejuvenator(gm, treshold=0.1), TrainingError, "unknown option 'treshold'", "threshold"
    ),
    "a budget as a number": row(
        traced, lambda gm: rejuvenator(gm, budget=10**6), TrainingError, "budget is 1000000", "Budget.relative"
    ),
    "a budget that the trigger cannot reach": row(
        traced, lambda gm: rejuvenator(gm, budget=nrfx.Budget(params=100)), TrainingError,
        "1,602 of the network's 3,205 params", "budget of 100", "Lower the trigger below 0.031",
    ),
    "no optimizer": row(
        traced, lambda gm: rejuvenator(gm, optimizer="sgd"), TrainingError, "optimizer is 'sgd'", "torch.optim"
    ),
    "the optimizer of another model": row(
        traced, lambda gm: rejuvenator(gm, optimizer=sgd(plain())),
        TrainingError, "none of the 3 gammas", "1.weight", "gm.parameters()"
    ),
    "an optimizer whose state is not known": row(
        traced, lambda gm: stepped(gm, RMSprop),
        TrainingError, "RMSprop keeps 'square_avg'", "SGD", "clear optimizer.state"
    ),
    "no scheduler": row(traced, lambda gm: rejuvenator(gm, scheduler="cosine"), TrainingError, "scheduler is 'cosine'"),
    "a scheduler that cannot start over": row(
        traced, lambda gm: rejuvenator(gm, scheduler=ReduceLROnPlateau(sgd(gm))), TrainingError,
        "ReduceLROnPlateau cannot be set back", "StepLR",
    ),
    "the scheduler of another optimizer": row(
        traced, lambda gm: rejuvenator(gm, scheduler=StepLR(sgd(gm), 5)),
        TrainingError, "StepLR belongs to another optimizer"
    ),
    "training that has diverged": row(
        lambda: with_number("weight", math.nan), lambda gm: rejuvenator(gm, interval=1).step(),
        AnalysisError, "5.weight[2] is nan"
    ),
    "the state of something else": row(
        traced, lambda gm: rejuvenator(gm).load_state_dict({"epoch": 3}),
        TrainingError, "'epoch' is unknown", "state_dict returned"
    ),
    "no state": row(traced, lambda gm: rejuvenator(gm).load_state_dict(None), TrainingError, "None; expected a table"),
    "a state that holds no numbers": row(
        traced, lambda gm: rejuvenator(gm).load_state_dict({**rejuvenator(gm).state_dict(), "steps": "many"}),
        TrainingError, "steps is 'many'; expected a whole number",
    ),
}  # fmt: skip

CHECKS = {
    "verify with images of 4 colours": row(
        traced, lambda gm: verified(gm, torch.zeros(2, 4, 16, 16)), VerificationError,
        "[2, 4, 16, 16] float32", "traced on [2, 3, 16, 16] float32", "Pass a tensor",
    ),
    "verify with two inputs": row(
        traced, lambda gm: verified(gm, (X, X)), VerificationError, "cannot run on", "tuple of tensors"
    ),
    "verify with a list": row(
        traced, lambda gm: verified(gm, [X]), VerificationError, "cannot run on list", "Pass a tensor"
    ),
    "verify with another dtype": row(
        traced, lambda gm: verified(gm, X.double()), VerificationError, "float64", "float32"
    ),
    "verify with no images": row(
        traced, lambda gm: verified(gm, X[:0]), VerificationError, "(0, 5)", "nothing to compare"
    ),
    "verify with NaN": row(traced, lambda gm: verified(gm, X * math.nan), VerificationError, "not finite", "inputs"),
    "verify with a module for a result": row(
        traced, lambda gm: nrfx.verify(gm, gm, X),
        VerificationError, "what nrfx.rejuvenate returned", "got a Sequential"
    ),
    "verify with another network": row(
        traced, lambda gm: verified(gm, X, traced(zoo.resnet())), VerificationError, "not of this network", "1.weight"
    ),
    "verify with other weights": row(
        traced, lambda gm: verified(gm, random_images(), traced(zoo.vgg_bn())), VerificationError,
        "output differs by", "rounding explains 1e-03",
    ),
    "why of a layer that does not exist": row(
        traced, lambda gm: nrfx.why(gm, "44"), UsageError, "no layer '44'"
    ),
}  # fmt: skip

FILES = {
    "a file that is not there": on_disk(
        plain, lambda m, folder: nrfx.load(folder / "none", m), CheckpointError, "There is no file", "none"
    ),
    "no path": on_disk(plain, lambda m, _: nrfx.load(None, m), CheckpointError, "The path is None", "nrfx.save"),
    "a file of something else": on_disk(
        plain, lambda m, folder: loaded(m, folder, lambda path: path.write_bytes(b"?" * 99) and None), CheckpointError,
        "not a complete safetensors file", "nrfx.save",
    ),
    "half a file": on_disk(plain, lambda m, folder: loaded(m, folder, save_half_of_it),
        CheckpointError, "not a complete"),
    "a file of plain weights": on_disk(
        plain, lambda m, folder: loaded(m, folder, save_weights),
        CheckpointError, "not written by nrfx.save", "load_state_dict"
    ),
    "a file of another model": on_disk(
        zoo.resnet, lambda m, folder: loaded(m, folder, save_result),
        CheckpointError, "does not fit", "missing in the model"
    ),
    "saved into a folder that is not there": on_disk(
        traced, lambda gm, folder: nrfx.save(folder / "no" / "file", gm),
        CheckpointError, "there is no folder", "Make it first"
    ),
    "saved without having been traced": on_disk(
        plain, lambda m, folder: nrfx.save(folder / "file", m), CheckpointError, "save got a Sequential", "nrfx.trace"
    ),
    "saved with the optimizer of another model": on_disk(
        traced, lambda gm, folder: nrfx.save(folder / "file", gm, optimizer=sgd(plain())), CheckpointError,
        "11 parameters that the module does not have",
    ),
}  # fmt: skip

ROWS: dict[str, Row] = {
    **EXAMPLES, **MODELS, **NOTED, **BUDGETS, **REFUSED_OPTIONS, **TRAINING, **CHECKS, **FILES,
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_mistake_is_answered_and_the_model_is_as_it_was(name: str, tmp_path: Path) -> None:
    case = ROWS[name]
    model = case.make()
    before = _state(model)
    if case.error is None:
        said = str(case.mistake(model, tmp_path))
    else:
        with pytest.raises(case.error) as caught:
            case.mistake(model, tmp_path)
        assert type(caught.value) is case.error
        said = str(caught.value)
    for word in case.words:
        assert word in said
    after = _state(model)
    assert after.keys() == before.keys()
    for key, value in before.items():
        assert _same(value, after[key]), key


def test_the_table_has_no_name_twice() -> None:
    tables = (EXAMPLES, MODELS, NOTED, BUDGETS, REFUSED_OPTIONS, TRAINING, CHECKS, FILES)
    assert len(ROWS) == sum(map(len, tables)) >= 40


def test_whole_numbers_of_numpy_are_a_budget() -> None:
    assert nrfx.Budget(params=numpy.int64(5_000)) == nrfx.Budget(params=5_000)


def test_a_backward_that_is_still_to_come_is_not_disturbed_by_a_rejuvenation() -> None:
    gm = traced()
    loss = gm(random_images()).sum()
    assert nrfx.rejuvenate(gm, full(gm)).changed
    loss.backward()
    assert all(parameter.grad is not None for parameter in gm.parameters())


def _state(module: nn.Module) -> dict[str, Any]:
    """Everything about a module that a call could have changed."""
    state: dict[str, Any] = {"code": getattr(module, "code", None)}
    for path, each in module.named_modules():
        hooks = {
            name: len(value) for name, value in vars(each).items() if name.endswith("_hooks") and value is not None
        }
        state[f"{path} itself"] = (id(each), each.training, hooks)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        state[name] = (id(tensor), tensor.requires_grad, tensor.grad is None)
        if not isinstance(tensor, nn.UninitializedParameter):
            state[f"{name} in numbers"] = tensor.detach().clone()
    return state


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor):
        return bool(one == other)
    if one.is_meta:
        return one.shape == other.shape
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())
