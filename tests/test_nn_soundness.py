"""The random calls that `python -m benchmarks sanitizers` makes: a few of them with the kernels of this machine."""

import random

import pytest
import torch

from benchmarks.soundness import calls, sanitizers
from nrfx.nn import CrossLinear, implementation, native


def test_right_calls_agree_and_wrong_ones_raise() -> None:
    counted = calls.run(25, seed=1)
    assert counted["right"] == counted["wrong"] == 25
    assert all(counted[way] > 2 for way in ("direct", "attend"))


def test_wrong_numbers_and_wrong_calls_that_return_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = CrossLinear((64, 64), (64, 64)), torch.randn(512, 128)
    call = calls.Call(layer, x, torch.randn(512, 128), "direct", 1)
    calls.check(call)
    monkeypatch.setitem(calls.WRONG, "right", lambda draw, call: call.layer(call.x))
    with pytest.raises(AssertionError, match="it returned"):
        calls.check_wrong(call, "right", random.Random(0))
    whole = native.Direct.forward

    def off(self: native.Direct, *operands: object) -> object:
        out, kept = whole(self, *operands)
        return out + 0.1, kept

    monkeypatch.setattr(native.Direct, "forward", off)
    with pytest.raises(AssertionError, match=r"out is off by 0\.1"):
        calls.check(call)
    with implementation("reference"):
        calls.check(calls.Call(layer, x, call.grad, "reference", 1))


def test_the_summary_names_the_call_and_what_was_noticed() -> None:
    errors = "CrossLinear by direct\nCrossConv2d by attend\n\nx.c:3: runtime error: shift\n  #0 here\n"
    assert sanitizers.summary(errors).splitlines() == [
        "CrossConv2d by attend",
        "x.c:3: runtime error: shift",
        "  #0 here",
    ]
