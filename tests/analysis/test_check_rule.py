"""Rules against runs of their ops: ours tell the truth, and each kind of slip is found."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nrfx
from nrfx.nn import ChannelScale
from nrfx.rules import OPS, Call, Effect, Family, Site, along, channelwise, elementwise, layout, register, tensors
from tests.rules import outside


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


MAPS = (3, 4, 6, 5)
APART, LINEAR = "channels stay apart", "it is linear"
COLUMNS, ROWS = "weights read the channels of their columns", "weights give the channels of their rows"
WORK, APPLY = "its work is what FlopCounterMode counts", "constants are what its apply gives"
SCALES, ABOVE = "it scales with its input", "it scales with its input, by factors above 0"
POOLS, BETA = "constants stay at their positions", "a gamma of 0 leaves the beta"


@pytest.mark.parametrize(("op", "inputs", "claims"), [
    (nn.ReLU(), drawn(*MAPS), (APART, ABOVE, APPLY)),
    (nn.Hardswish(), drawn(*MAPS), (APART, APPLY)),
    (torch.log, drawn(*MAPS), (APART, APPLY)),
    (torch.mul, (drawn(*MAPS), drawn(*MAPS)), (APART, APPLY)),
    (torch.maximum, (drawn(*MAPS), drawn(*MAPS)), (APART, ABOVE, APPLY)),
    (F.pixel_shuffle, (drawn(*MAPS), 2), (APART, SCALES, APPLY)),
    (torch.flip, (drawn(*MAPS), (1,)), (APART, SCALES, APPLY)),
    (torch.sort, (drawn(*MAPS), 3), (APART, APPLY)),
    (torch.softmax, (drawn(*MAPS), 2), (APART, APPLY)),
    (torch.amax, (drawn(*MAPS), (2, 3)), (APART, ABOVE, POOLS)),
    (nn.AvgPool2d(3, 1, 1), drawn(*MAPS), (APART, SCALES, POOLS)),
    (nn.MaxPool2d(2), drawn(*MAPS), (APART, ABOVE, POOLS)),
    (nn.BatchNorm2d(4), drawn(*MAPS), (APART, BETA)),
    (nn.InstanceNorm2d(4, affine=True), drawn(*MAPS), (APART, BETA)),
    (nn.GroupNorm(2, 4), drawn(*MAPS), (APART, BETA)),
    (ChannelScale(4), drawn(*MAPS), (APART, BETA)),
    (nn.PReLU(4), drawn(*MAPS), (APART, ABOVE, APPLY)),
    (nn.Conv2d(4, 6, 3, padding=1), drawn(*MAPS), (LINEAR, COLUMNS, ROWS, WORK)),
    (nn.Conv2d(4, 4, 3, groups=2), drawn(*MAPS), (APART, LINEAR, WORK)),
    (nn.ConvTranspose2d(4, 3, 2), drawn(*MAPS), (LINEAR, COLUMNS, ROWS, WORK)),
    (nn.Linear(4, 3), drawn(5, 4), (LINEAR, COLUMNS, ROWS, WORK)),
    (F.linear, (drawn(5, 4), nn.Parameter(drawn(3, 4)), nn.Parameter(drawn(3))), (LINEAR, COLUMNS, ROWS, WORK)),
    (torch.matmul, (drawn(5, 4), nn.Parameter(drawn(4, 3))), (LINEAR, COLUMNS, ROWS, WORK)),
    (outside.Mirror(4, 3), drawn(5, 4), (LINEAR, COLUMNS, ROWS, WORK)),
])  # fmt: skip
def test_our_rules_tell_the_truth(op: Any, inputs: Any, claims: tuple[str, ...]) -> None:
    module = op.double() if isinstance(op, nn.Module) else op
    assert nrfx.check_rule(module, inputs) == claims


def test_a_recurrent_layer_reads_its_features_by_its_weights() -> None:
    claims = nrfx.check_rule(nn.LSTM(4, 3, batch_first=True).double(), drawn(3, 5, 4), axis=2)
    assert COLUMNS in claims and LINEAR not in claims


def mixing(x: Tensor) -> Tensor:
    return x - 0.1 * x.mean(1, keepdim=True)


def saturating(x: Tensor) -> Tensor:
    return torch.tanh(x)


def shifted(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2) + 1


def squared(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight).square()


def product(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight) + 0.1 * x.flip(1)[:, : weight.shape[0]]


def turned(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight.flip(1))


def upside_down(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight.flip(0))


def heavy(x: Tensor) -> Tensor:
    return x + x @ x.mT


class Offset(nn.Module):
    """gamma * x + beta + 1."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma[:, None, None] * x + self.beta[:, None, None] + 1


def as_norm(call: Call) -> Effect:
    channels, gamma, beta = layout(call.args[0], 1), call.own("gamma"), call.own("beta")
    norm = nrfx.rules.Norm("op", "op", channels, 1, gamma, beta, mean=None, var=None, eps=0.0)
    sites = (Site(str(gamma), 0, channels), Site(str(beta), 0, channels))
    return Effect(Family.NORM, out=along(channels, 1, call.args[0].shape), sites=sites, norm=norm)


def as_linear(call: Call) -> Effect:
    layer = nrfx.rules.Layer.given(call, 1, None)
    assert layer is not None
    return nrfx.rules.weighted(call, layer, call.args[0], 1)


def as_pool(call: Call) -> Effect:
    labels = call.args[0]
    return Effect(Family.POOL, out=along(layout(labels, 1), 1, tensors(call.val)[0].shape))


def of_pairs(rule: Callable[[Call], Effect], **fields: Any) -> Callable[[Call], Effect]:
    return lambda call: replace(rule(call), **fields)


MATRIX = nn.Parameter(drawn(3, 4))


@pytest.mark.parametrize(("op", "rule", "inputs", "said"), [
    (mixing, None, drawn(*MAPS), "changes with channel 0 of its input, and carries channel 1"),
    (saturating, of_pairs(elementwise, homogeneous=True), drawn(*MAPS), "2.5 times its input does not give 2.5 times"),
    (saturating, of_pairs(elementwise, apply=torch.sin), drawn(*MAPS), "what its `apply` makes of constants is not"),
    (shifted, as_pool, drawn(*MAPS), "a constant channel does not stay as it is, and its family is POOL"),
    (Offset().double(), as_norm, drawn(*MAPS), "with op.gamma at 0 it does not give op.beta on dim 1"),
    (squared, as_linear, (drawn(5, 4), MATRIX), r"f\(x\) \+ f\(y\) is not f\(x \+ y\)"),
    (product, as_linear, (drawn(5, 4), MATRIX), "with its columns of channel 1 at 0 it still reads this channel"),
    (turned, as_linear, (drawn(5, 4), MATRIX), "with its columns of channel 0 at 0 it still reads this channel"),
    (upside_down, as_linear, (drawn(5, 4), MATRIX), "with row 0 of given1 at 0 it does not give zeros at the row's"),
    (heavy, of_pairs(elementwise, apply=None, family=Family.MIXED), drawn(3, 4, 4), "carries channel 1"),
])  # fmt: skip
def test_a_rule_that_tells_something_else_is_an_error_that_says_what(
    op: Any, rule: Any, inputs: Any, said: str
) -> None:
    key = type(op) if isinstance(op, nn.Module) else op
    channelwise(key) if rule is None else register(rule, key, weights=(1,))
    try:
        with pytest.raises(nrfx.AnalysisError, match=said):
            nrfx.check_rule(op, inputs)
    finally:
        del OPS[key]


def test_work_that_no_rule_tells_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPS, nn.Linear, replace(OPS[nn.Linear], rule=half_the_work))
    with pytest.raises(
        nrfx.AnalysisError, match="FlopCounterMode counts 12 multiply-adds of one example, and the rule 8"
    ):
        nrfx.check_rule(nn.Linear(4, 3).double(), drawn(5, 4))


def half_the_work(call: Call) -> Effect:
    effect = nrfx.rules.contraction.linear(call)
    return replace(effect, work=(replace(effect.work[0], times=2, rows=None),))


def test_what_has_no_rule_or_no_channels_is_refused() -> None:
    with pytest.raises(nrfx.AnalysisError, match="mixing has no rule: register one"):
        nrfx.check_rule(mixing, drawn(2, 3))
    with pytest.raises(nrfx.AnalysisError, match=r"input 0 has shape \[2, 1\]: give it two channels on dim 1"):
        nrfx.check_rule(nn.ReLU(), drawn(2, 1))
