"""Recurrent layers: their cost against a formula and against the same layer unrolled, and where constants go."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import nrfx
from nrfx.rules import OPS, Call, Effect, Family
from nrfx.rules.recurrent import recurrent
from tests.zoo import cbr

STEPS, FEATURES, HIDDEN, DEAD = 7, 8, 5, 3
GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}
IMAGES = (2, 3, 6, STEPS)
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")


class Net(nn.Module):
    """A recurrent layer over the columns of a map, and a norm behind it."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.before, self.rnn = cbr(3, FEATURES), kind(FEATURES, HIDDEN, **options)
        width = (options.get("proj_size") or HIDDEN) * (2 if options.get("bidirectional") else 1)
        self.norm, self.head = nn.BatchNorm1d(width), nn.Linear(width, 3)
        self.batch_first = options.get("batch_first", False)

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        x = self.before(x).mean(2).mT
        out, state = self.rnn(x if self.batch_first else x.transpose(0, 1))
        out = out if self.batch_first else out.transpose(0, 1)
        return self.head(self.norm(out.mT).mT), state


class Unrolled(nn.Module):
    """The same layer in linear maps, step by step; for [N, steps, features]."""

    def __init__(self, rnn: Any) -> None:
        super().__init__()
        self.rnn = rnn

    def linear(self, name: str, x: Tensor) -> Tensor:
        y = nn.functional.linear(x, getattr(self.rnn, f"weight_{name}"))
        return y + bias if (bias := getattr(self.rnn, f"bias_{name}", None)) is not None else y

    def step(self, suffix: str, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        read, kept = self.linear(f"ih{suffix}", x), self.linear(f"hh{suffix}", h)
        if isinstance(self.rnn, nn.LSTM):
            i, f, g, o = (read + kept).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            return (self.linear(f"hr{suffix}", h) if self.rnn.proj_size else h), c
        if isinstance(self.rnn, nn.GRU):
            (ri, zi, ni), (rh, zh, nh) = read.chunk(3, 1), kept.chunk(3, 1)
            z, n = (zi + zh).sigmoid(), (ni + (ri + rh).sigmoid() * nh).tanh()
            return (1 - z) * n + z * h, c
        return (read + kept).tanh(), c

    def forward(self, x: Tensor) -> Tensor:
        for layer in range(self.rnn.num_layers):
            sides = []
            for suffix in [f"_l{layer}", f"_l{layer}_reverse"][: 1 + self.rnn.bidirectional]:
                h, c, outs = x.new_zeros(len(x), self.rnn.proj_size or HIDDEN), x.new_zeros(len(x), HIDDEN), []
                for at in range(x.shape[1])[:: -1 if suffix.endswith("reverse") else 1]:
                    h, c = self.step(suffix, x[:, at], h, c)
                    outs.append(h)
                sides.append(torch.stack(outs[::-1] if suffix.endswith("reverse") else outs, 1))
            x = torch.cat(sides, 2)
        return x


def network(kind: type[nn.RNNBase], **options: Any) -> tuple[nn.Module, Tensor]:
    """In float64; DEAD of the features are dead, and their constants are not 0."""
    torch.manual_seed(0)
    model = Net(kind, **options).double().eval()
    with torch.no_grad():
        model.before[1].weight[:DEAD] = 0
        model.before[1].bias[:] = torch.linspace(0.2, 1, FEATURES)
        model.norm.running_mean.normal_()
    return model, torch.randn(IMAGES, dtype=torch.float64)


def flops(module: nn.Module, *args: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*args)
    return int(counter.get_total_flops()) // 2


TWO_WAYS = {"batch_first": (True, False), "num_layers": (1, 3), "bidirectional": (False, True), "bias": (True, False)}
OPTIONS = [  # half of all: any four options are met in every way, without a projection any three
    {name: ways[at] for (name, ways), at in zip(TWO_WAYS.items(), bits, strict=True)} | {"proj_size": sum(bits) % 2 * 2}
    for bits in itertools.product((0, 1), repeat=4)
]
CASES = [
    (kind, {name: value for name, value in options.items() if kind is nn.LSTM or name != "proj_size"})
    for kind in GATES
    for options in OPTIONS
    if kind is nn.LSTM or not options["proj_size"]
]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_it_costs_what_it_costs_unrolled_and_keeps_the_function(kind: Any, options: dict[str, Any]) -> None:
    model, images = network(kind, **options)
    gm = nrfx.trace(model, images)
    usage = nrfx.utilization(gm)
    sides, given = 1 + options["bidirectional"], options.get("proj_size") or HIDDEN
    widths = [FEATURES, *[sides * given] * (options["num_layers"] - 1)]
    each = [GATES[kind] * HIDDEN * (width + given) + options.get("proj_size", 0) * HIDDEN for width in widths]
    (row,) = [each for each in usage.rows if each.name == "rnn"]
    assert row.flops == STEPS * sides * sum(each)
    sequence = torch.randn(1, STEPS, FEATURES, dtype=torch.float64)
    own: Any = model.rnn
    with torch.no_grad():
        whole = own(sequence if own.batch_first else sequence.transpose(0, 1))[0]
        assert torch.allclose(Unrolled(own)(sequence), whole if own.batch_first else whole.transpose(0, 1), rtol=1e-12)
    assert row.flops == flops(Unrolled(own), sequence)
    assert usage.flops.total == flops(model, images[:1])
    assert usage.params.total == sum(parameter.numel() for parameter in model.parameters())
    results = [
        nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, flops=1), scheme=s) for s in ("dense", "attention", "removed")
    ]
    for result in (nrfx.compact(gm), *results):
        assert nrfx.verify(gm, result, images) < 1e-12
        assert result.after.flops.total == flops(result.module.eval(), images[:1])
        assert result.after.params.total == sum(parameter.numel() for parameter in result.module.parameters())
        rnn: Any = result.module.get_submodule("rnn")
        assert rnn.input_size == rnn.weight_ih_l0.shape[1]
    # into a bias all dead features go; without one a carrier stays
    assert nrfx.compact(gm).module.get_submodule("rnn").input_size == FEATURES - DEAD + (not options["bias"])


def without(effect: Effect, part: str) -> Effect:
    return replace(effect, sites=tuple(site for site in effect.sites if part not in site.parameter))


def without_bias(effect: Effect) -> Effect:
    assert effect.reading is not None
    fixed = (*effect.fixed, "bias_ih_l0", "bias_ih_l0_reverse")
    return replace(without(effect, "bias"), fixed=fixed, reading=replace(effect.reading, bias=None), also=())


@pytest.mark.parametrize(("slip", "said"), [
    (lambda effect: without(effect, "bias"), "the bias rnn.bias_ih_l0 has no site"),
    (lambda effect: without(effect, "reverse"), "rnn.bias_ih_l0_reverse has no site"),
    (lambda effect: replace(effect, also=()), "dim 1 of rnn.weight_ih_l0_reverse follows channels, and no reading"),
    (lambda effect: replace(effect, reading=None, also=()), "its family is CONTRACTION, and it has no reading"),
    (
        lambda effect: replace(effect, family=Family.MIXED, reading=None, also=()),
        "dim 1 of rnn.weight_ih_l0 follows channels, and no reading names it",
    ),
])  # fmt: skip
def test_a_slip_is_named(slip: Callable[[Effect], Effect], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def slipped(call: Call) -> Effect:
        return slip(recurrent(call))

    monkeypatch.setitem(OPS, nn.LSTM, replace(OPS[nn.LSTM], rule=slipped))
    gm = nrfx.trace(*network(nn.LSTM, batch_first=True, bidirectional=True))
    with pytest.raises(nrfx.AnalysisError, match=said):
        nrfx.utilization(gm)


def test_a_bias_that_the_rule_forgets_takes_nothing_and_no_norm_behind_the_gates_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(OPS, nn.LSTM, replace(OPS[nn.LSTM], rule=lambda call: without_bias(recurrent(call))))
    model, images = network(nn.LSTM, batch_first=True)
    gm = nrfx.trace(model, images)
    result = nrfx.compact(gm)
    assert nrfx.verify(gm, result, images) < 1e-12
    assert result.module.get_submodule("rnn").input_size == FEATURES - DEAD + 1


def test_training_goes_on_and_a_saved_network_comes_back(tmp_path: Any) -> None:
    model, images = network(nn.LSTM, batch_first=True, num_layers=2)
    gm = nrfx.trace(model, images)
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, flops=1))
    nrfx.save(tmp_path / "net.safetensors", result.module)
    module = nrfx.load(tmp_path / "net.safetensors", network(nn.LSTM, batch_first=True, num_layers=2)[0])
    with torch.no_grad():
        assert torch.equal(module.eval()(images)[0], result.module.eval()(images)[0])
    module.train()(images)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
