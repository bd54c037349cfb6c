"""Example inputs that do not fit."""

import numpy
import torch
from torch import fx

import nrfx
from nrfx.errors import TraceError, VerificationError
from tests import zoo
from tests.mistakes.broken import TwoInputs, X, plain, traced, verified
from tests.mistakes.row import row

EXAMPLES = {
    "images of 4 colours": row(
        plain, lambda m: nrfx.trace(m, torch.zeros(1, 4, 16, 16)), TraceError,
        "Node _0", "0 (Conv2d)", "[1, 4, 16, 16]", "Check that example_inputs fit",
    ),
    "images of another size": row(
        plain, lambda m: nrfx.trace(m, torch.zeros(1, 3, 32, 32)), TraceError, "13 (Linear)", "[1, 256]", "64x5"
    ),
    "an image without a batch": row(
        plain, lambda m: nrfx.trace(m, torch.zeros(3, 16, 16)), TraceError, "1 (BatchNorm2d)", "expected 4D", "3D"
    ),
    "an empty batch": row(plain, lambda m: nrfx.trace(m, X[:0]), TraceError, "[0, 3, 16, 16]", "at least one example"),
    "a nested tensor": row(
        plain, lambda m: nrfx.trace(m, torch.nested.as_nested_tensor([X[0]], layout=torch.jagged)),
        TraceError, "input input is a nested tensor",
    ),
    "whole numbers": row(
        plain, lambda m: nrfx.trace(m, X.long()),
        TraceError, "0 (Conv2d) reads int64", "weight is float32", "example_inputs"
    ),
    "no example inputs": row(
        plain, nrfx.utilization, TraceError, "Sequential is not traced", "pass example_inputs="
    ),
    "no example inputs to compact": row(plain, nrfx.compact, TraceError, "pass example_inputs="),
    "an empty tuple": row(
        plain, lambda m: nrfx.trace(m, ()), TraceError, "example inputs () hold no tensor", "a tuple of arguments"
    ),
    "a list": row(plain, lambda m: nrfx.trace(m, [X]), TraceError, "0 (Conv2d) cannot be run on", "example_inputs"),
    "a shape instead of a tensor": row(
        plain, lambda m: nrfx.trace(m, (1, 3, 16, 16)), TraceError, "(1, 3, 16, 16) hold no tensor"
    ),
    "a dictionary": row(plain, lambda m: nrfx.trace(m, {"x": X}), TraceError, "0 (Conv2d) cannot be run", "x=[2, 3,"),
    "an array": row(plain, lambda m: nrfx.trace(m, numpy.zeros(zoo.IMAGE)), TraceError, "hold no tensor", "a ndarray"),
    "one input too many": row(
        plain, lambda m: nrfx.trace(m, (X, X)), TraceError,
        "float32, [2, 3, 16, 16] float32) do not fit forward(input)", "too many",
    ),
    "one input too few": row(
        TwoInputs, lambda m: nrfx.trace(m, X), TraceError, "inputs ([2, 3, 16, 16] float32)", "missing", "'y'"
    ),
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
