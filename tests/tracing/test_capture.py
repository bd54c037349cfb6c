"""trace and as_traced: the model stays as it was, and the traced module behaves like it."""

import pickle
import random
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import fx, nn

from nrfx.errors import TraceError
from nrfx.tracing import as_traced, trace
from tests.tracing.models import SMALL, AuxHead, Function, Tied, assert_behaves_like, vals

# What must not happen


def test_threads_that_trace_at_once_wait_for_each_other() -> None:
    """torch.fx exchanges methods of nn.Module while it traces; two traces at once would leave them exchanged."""
    models = [SMALL[name] for name in list(SMALL)[:4]]
    built = [(build(), torch.zeros(shape)) for build, shape in models for _ in range(3)]
    before = nn.Module.__call__, nn.Module.__getattr__
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            traced = list(pool.map(lambda pair: trace(*pair), built))
    finally:
        sys.setswitchinterval(interval)
    assert (nn.Module.__call__, nn.Module.__getattr__) == before
    names = [[node.name for node in gm.graph.nodes] for gm in traced]
    assert names == [[node.name for node in trace(*pair).graph.nodes] for pair in built]


@pytest.mark.parametrize("name", SMALL)
def test_tracing_leaves_the_model_and_the_random_state_as_they_were(name: str) -> None:
    build, shape = SMALL[name]
    model = build().train()
    next(model.children()).eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    versions = [t._version for t in (*model.parameters(), *model.buffers())]
    modes = [module.training for module in model.modules()]
    ids = [id(t) for t in (*model.parameters(), *model.buffers())]
    attributes = {path: set(vars(module)) for path, module in model.named_modules()}
    random_states = torch.get_rng_state(), random.getstate()
    trace(model, torch.zeros(shape))
    assert torch.equal(torch.get_rng_state(), random_states[0])
    assert random.getstate() == random_states[1]
    assert [module.training for module in model.modules()] == modes
    assert [id(t) for t in (*model.parameters(), *model.buffers())] == ids
    assert [t._version for t in (*model.parameters(), *model.buffers())] == versions
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert {path: set(vars(module)) for path, module in model.named_modules()} == attributes
    assert torch.is_grad_enabled()


def test_a_failed_trace_leaves_the_model_the_random_state_and_torch_as_they_were() -> None:
    model = Function(lambda m, x: x * random.random() if bool(torch.rand(1) < 2) else x, bn=nn.BatchNorm1d(4)).train()
    states, forward = (torch.get_rng_state(), random.getstate()), nn.Module.__call__
    with pytest.raises(TraceError):
        trace(model, torch.zeros(2, 4))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert nn.Module.__call__ is forward
    assert torch.is_grad_enabled()
    assert model.training


def test_switching_the_traced_module_does_not_switch_the_model() -> None:
    model = AuxHead().train()
    trace(model, torch.zeros(4, 3, 8, 8)).eval()
    assert all(module.training for module in model.modules())


def test_a_leaf_is_not_run_for_real() -> None:
    seen: list[object] = []
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model[0].register_forward_hook(lambda *_: seen.append(1))
    gm = trace(model, torch.zeros(2, 4))
    assert not seen
    gm(torch.zeros(2, 4))
    assert seen == [1]


# What a traced module keeps


@pytest.mark.parametrize("name", SMALL)
def test_a_traced_module_behaves_like_its_model_in_both_modes(name: str) -> None:
    build, shape = SMALL[name]
    model = build()
    assert_behaves_like(trace(model, torch.zeros(shape)), model, torch.randn(shape))


def test_a_model_on_meta_is_traced() -> None:
    gm = trace(AuxHead().to("meta"), torch.zeros(1, 3, 8, 8, device="meta"))
    assert gm.gamma0 == {}
    assert all("val" in node.meta for node in gm.graph.nodes)


# as_traced


def test_as_traced_returns_a_traced_module_as_it_is() -> None:
    gm = trace(Tied(), torch.zeros(3, 4))
    assert as_traced(gm) is gm


def test_as_traced_takes_a_graph_module_by_its_own_graph_and_leaves_it_alone() -> None:
    model = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 5), nn.ReLU()))
    code, graph, metas = model.code, model.graph, [dict(node.meta) for node in model.graph.nodes]
    gm = as_traced(model, torch.zeros(2, 4))
    assert gm.code == code
    assert model.graph is graph
    assert [dict(node.meta) for node in model.graph.nodes] == metas
    assert gm.get_parameter("0.weight") is model.get_parameter("0.weight")
    assert vals(gm.graph)[-1].shape == (2, 5)
    assert gm.graphs["train"] is gm.graphs["eval"]
    assert_behaves_like(gm, model, torch.randn(2, 4))
    assert_behaves_like(pickle.loads(pickle.dumps(gm)), model, torch.randn(2, 4))


def test_as_traced_reads_shapes_from_placeholders_or_says_what_is_missing() -> None:
    model = fx.symbolic_trace(nn.Linear(4, 5))
    with pytest.raises(TraceError, match=r"no shape for its input input_1: pass example_inputs="):
        as_traced(model)
    with pytest.raises(TraceError, match=r"Linear is not traced.*pass example_inputs="):
        as_traced(nn.Linear(4, 5))
    fx.passes.shape_prop.ShapeProp(model).propagate(torch.zeros(2, 4))
    assert as_traced(model).inputs == (((2, 4), torch.float32),)
    with pytest.raises(TraceError, match="1 of 2 example inputs are more than the graph takes"):
        as_traced(model, (torch.zeros(2, 4), torch.zeros(2)))
