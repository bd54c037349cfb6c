"""Regions without gradients and of autocast in a forward are `with` blocks of the graph's code, and stay so."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

import nrfx
from nrfx.errors import TraceError
from tests.tracing.models import Joined, gradients


def no_grad(m: Joined, x: Tensor) -> Tensor:
    with torch.no_grad():
        gate = m.b(x).mean((2, 3), keepdim=True)
    return x * gate


@torch.no_grad()
def decorated(m: Joined, x: Tensor) -> Tensor:
    return m.b(x)  # type: ignore[no-any-return]


def by_the_mode(m: Joined, x: Tensor) -> Tensor:
    with torch.set_grad_enabled(m.training):
        return m.b(x)  # type: ignore[no-any-return]


def nested(m: Joined, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = m.b(x)
        with torch.enable_grad():
            return y + m.b(x)  # type: ignore[no-any-return]


def asks_for_the_mode(m: Joined, x: Tensor) -> Tensor:
    with torch.no_grad():
        return x if torch.is_grad_enabled() else m.b(x)  # type: ignore[no-any-return]


def float_island(m: Joined, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        y = m.b(x)
        with torch.autocast(x.device.type, enabled=False):
            return m.b(y.float())  # type: ignore[no-any-return]


@torch.autocast("cpu", dtype=torch.bfloat16)
def in_bfloat16(m: Joined, x: Tensor) -> Tensor:
    return (m.b(x.bfloat16()) @ x.mean(2, keepdim=True).mT @ x[:, :, :1]).float()  # type: ignore[no-any-return]


def reentrant(m: Joined, x: Tensor) -> Tensor:
    return checkpoint(m.b, x, use_reentrant=True)  # type: ignore[no-any-return]


REGIONS = (no_grad, decorated, by_the_mode, nested, asks_for_the_mode, float_island, in_bfloat16, reentrant)


@pytest.mark.parametrize("between", REGIONS, ids=lambda between: between.__name__)
def test_outputs_and_gradients_are_those_of_the_model_at_any_size(between: Any) -> None:
    model = Joined(between)
    gm = pickle.loads(pickle.dumps(copy.deepcopy(nrfx.trace(model, torch.zeros(2, 3, 8, 8)))))
    for x in (torch.randn(2, 3, 8, 8), torch.randn(1, 3, 6, 6)):
        assert torch.equal(gm.eval()(x), model.eval()(x))
        actual = gradients(gm, x)
        for name, expected in gradients(model, x).items():
            assert (actual[name] is None) == (expected is None), name
            assert expected is None or torch.equal(actual[name], expected), name


@pytest.mark.parametrize("between", REGIONS, ids=lambda between: between.__name__)
def test_a_rewritten_network_has_the_same_regions(between: Any) -> None:
    gm = nrfx.trace(Joined(between).eval(), torch.zeros(2, 3, 8, 8))
    with torch.no_grad():
        gm.b[1].weight[:3], gm.c[1].weight[:5] = 0, 0
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme="dense")
    assert result.changed and result.module.code.count("with torch.") == gm.code.count("with torch.")
    x = torch.randn(2, 3, 8, 8)
    rough = 0.1 if "bfloat16" in gm.code else 1e-5  # what autocast rounds to
    torch.testing.assert_close(result.module.eval()(x), gm.eval()(x), atol=rough, rtol=0)
    without = {name for name, grad in gradients(gm, x).items() if grad is None}
    assert {name for name, grad in gradients(result.module, x).items() if grad is None} == without


def test_the_code_is_what_one_would_write() -> None:
    code = nrfx.trace(Joined(float_island), torch.zeros(1, 3, 8, 8)).code
    assert [line for line in code.splitlines() if "with" in line or "float_1 = b" in line] == [
        "    with torch.autocast(getattr_2, dtype = torch.bfloat16):",
        "        with torch.autocast(getattr_4, enabled = False):",
        "            float_1 = b_2.float();  b_2 = None",
    ]


def test_a_region_that_lost_its_nodes_is_still_code() -> None:
    gm = nrfx.trace(nn.Sequential(Joined(decorated)), torch.zeros(1, 3, 8, 8))
    for node in reversed(gm.graph.nodes):
        if str(node.target).startswith("0.b"):
            node.replace_all_uses_with(node.args[0])
            gm.graph.erase_node(node)
    gm.recompile()
    assert "    with torch.no_grad():\n        pass\n" in gm.code
    assert gm(torch.zeros(1, 3, 8, 8)).requires_grad


def test_an_exception_leaves_the_region() -> None:
    for between in (decorated, in_bfloat16):
        gm = nrfx.trace(Joined(between), torch.zeros(1, 3, 8, 8))
        with pytest.raises(RuntimeError, match="channels"):
            gm(torch.zeros(1, 5, 8, 8))
        assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("between", [no_grad, float_island], ids=lambda between: between.__name__)
def test_what_runs_or_changes_graphs_finds_the_regions(between: Any) -> None:
    model, x = Joined(between).eval(), torch.randn(2, 3, 8, 8)
    gm = nrfx.trace(model, x)
    expected = model(x)
    assert torch.equal(fx.Interpreter(gm).run(x), expected) and torch.is_grad_enabled()
    assert torch.equal(torch.compile(gm, fullgraph=True, backend="eager")(x), expected)
    assert torch.equal(torch.export.export(gm, (x,)).module()(x), expected)
    assert torch.equal(nrfx.trace(gm, x)(x), expected)
    code = gm.code
    gm.graph.eliminate_dead_code()
    gm.recompile()
    assert gm.code == code


def test_a_region_around_questions_about_sizes_is_gone() -> None:
    def sizes(m: Joined, x: Tensor) -> Tensor:
        with torch.no_grad():
            wide = x.shape[1] > 4
        return m.b(x) if wide else x  # type: ignore[no-any-return]

    assert "with" not in nrfx.trace(Joined(sizes), torch.zeros(1, 3, 8, 8)).code


def test_a_part_of_a_model_has_its_regions() -> None:
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Joined(decorated)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) if x.sum() > -1e9 else x

    model, x = Deciding(), torch.randn(1, 3, 8, 8)
    gm = nrfx.trace(model, x, partial=True)
    assert "with torch.no_grad():" in gm.code
    assert {name for name, grad in gradients(gm, x).items() if grad is None} == {
        name for name, grad in gradients(model, x).items() if grad is None
    }
    gm.net.b[1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gm(x)
    assert torch.is_grad_enabled()


def switched_for_good(m: Joined, x: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    y = m.b(x)
    torch.set_grad_enabled(True)
    return y  # type: ignore[no-any-return]


def switched_back_in_a_region(m: Joined, x: Tensor) -> Tensor:
    with torch.no_grad():
        torch.set_grad_enabled(True)
        return m.b(x)  # type: ignore[no-any-return]


def in_inference_mode(m: Joined, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return m.b(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("between", "message"),
    [
        (switched_for_good, r"Node b_0.*no `with` block.*Write `with torch.no_grad\(\):`"),
        (switched_back_in_a_region, r"Node b_0.*no `with` block"),
        (in_inference_mode, r"inference_mode, which a graph does not record\. Use torch\.no_grad"),
    ],
)
def test_modes_that_are_changed_otherwise_are_refused(between: Any, message: str) -> None:
    before = torch.no_grad.__enter__, torch.autocast.__init__
    with pytest.raises(TraceError, match=message):
        nrfx.trace(Joined(between), torch.zeros(1, 3, 8, 8))
    assert torch.is_grad_enabled() and (torch.no_grad.__enter__, torch.autocast.__init__) == before
