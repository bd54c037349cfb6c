"""Models that cannot be traced or rewritten (MODELS), and those that can, with a note (NOTED)."""

import math

import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.optim import SGD

import nrfx
from nrfx.errors import AnalysisError, TraceError, TrainingWarning, VerificationError
from tests import zoo
from tests.mistakes.broken import (
    Deciding,
    Hidden,
    Noisy,
    Untaught,
    X,
    all_dead,
    full,
    hooked,
    not_understood,
    on_meta,
    pins,
    plain,
    quantized,
    random_images,
    rejuvenated,
    rejuvenator,
    scripted,
    traced,
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
from tests.mistakes.row import row

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
    "inference mode in forward": row(
        Untaught, lambda m: nrfx.trace(m, X), TraceError, "The forward", "torch.inference_mode", "Use torch.no_grad"
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
        "5 (BatchNorm2d) normalises 20 channels", "gives it 12",
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
        lambda gm: rejuvenator(gm, optimizer=SGD([nn.Parameter(X)], lr=0.1)),
        TrainingWarning, "None of the network's 36 gammas can die", "it is frozen", "trained as it is",
    ),
    "no norm": row(
        lambda: traced(nn.Sequential(nn.Conv2d(3, 8, 1))), rejuvenated, None, "unchanged", "no norm with a gamma"
    ),
    "a norm without gammas": row(
        lambda: traced(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, affine=False), nn.Conv2d(8, 2, 1))),
        rejuvenated, None, "unchanged", "no norm with a gamma",
    ),
    "weight_norm": row(
        lambda: with_computed_weight(weight_normed), pins, None, "0.0: torch.nn.utils.weight_norm computes its weight"
    ),
    "weight_norm as a parametrization": row(
        lambda: with_computed_weight(parametrizations.weight_norm), pins,
        None, "0.0: its weight is computed by a parametrization"
    ),
    "spectral_norm": row(
        lambda: with_computed_weight(parametrizations.spectral_norm), rejuvenated,
        None, "Held: 4", "computed by a parametrization"
    ),
    "a pruned layer": row(
        lambda: with_computed_weight(lambda layer: prune.random_unstructured(layer, "weight", 0.5)),
        rejuvenated, None, "Held: 4", "torch.nn.utils.prune masks its weight",
    ),
    "a hook": row(hooked, pins, None, "0: it has forward hooks (<lambda>), which may do anything"),
    "a weight in the middle of a training graph": row(
        lambda: traced(with_weight_on_a_tape()), rejuvenated,
        None, "changed", "its weight is computed from other tensors"
    ),
    "an empty graph": row(
        lambda: nrfx.trace(nn.Sequential(), X), lambda gm: " ".join(nrfx.rejuvenate(gm, nrfx.Budget(params=9)).notes),
        None, "no norm with a gamma", "Nothing was changed",
    ),
    "nothing dead": row(
        lambda: traced(zoo.vgg_bn()), rejuvenated, None, "unchanged", "Nothing is dead", "3,205 params"
    ),
    "an exported program": row(
        lambda: torch.export.export(plain().eval(), (X,)).module(), not_understood,
        None, "nrfx has no rule for",
    ),
    "round_to where every layer has its old width back": row(
        traced, lambda gm: rejuvenated(gm, reallocate=False, round_to=8), None, "round_to has no meaning"
    ),
}  # fmt: skip
