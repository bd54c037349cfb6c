"""Tracing: what must not happen to the model, what a traced module keeps, and what is refused."""

import copy
import pickle
import random
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, fx, nn

from nrfx.errors import TraceError
from nrfx.tracing import ByMode, TracedModule, as_traced, propagate, trace

MODES = ("train", "eval")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


class FunctionalDropout(nn.Module):
    """Train and eval differ in a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.fc(x), 0.5, self.training)


class AuxHead(nn.Module):
    """Train and eval differ in structure; `unread` and the buffer of `spare` are read by no graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.aux, self.fc, self.spare = nn.Linear(4, 2), nn.Linear(4, 2), nn.BatchNorm1d(5)
        self.unread = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = F.relu(self.bn(self.conv(x))).mean((2, 3))
        return (self.fc(y), self.aux(y)) if self.training else self.fc(y)


class Tied(nn.Module):
    """One weight under two names, one module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4)
        self.b.weight, self.again = self.a.weight, self.norm

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.b(self.norm(self.a(x))))


class TransposedConv3d(nn.Conv3d):
    """A subclass outside torch.nn with torch's own forward."""


class Standardized(nn.Conv2d):
    """A subclass that changes what torch's forward calls."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight - weight.mean((1, 2, 3), keepdim=True), bias)


class Function(nn.Module):
    """A module around one function of (module, x)."""

    def __init__(self, function: object, **children: nn.Module) -> None:
        super().__init__()
        self.function = [function]
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> object:
        return self.function[0](self, x)  # type: ignore[operator]


SMALL = {
    "dropout": (FunctionalDropout, (3, 4)),
    "aux": (AuxHead, (4, 3, 8, 8)),
    "tied": (Tied, (3, 4)),
    "sequential": (lambda: nn.Sequential(FunctionalDropout(), nn.Dropout(), FunctionalDropout()), (3, 4)),
}


def output(module: nn.Module, x: Tensor) -> list[Tensor]:
    """The flat outputs of a copy under a fixed seed: running statistics stay."""
    torch.manual_seed(7)
    result = copy.deepcopy(module)(x)
    return [result] if isinstance(result, Tensor) else [item for item in result if item is not None]


def assert_behaves_like(traced: nn.Module, model: nn.Module, x: Tensor) -> None:
    for mode in (True, False, True):
        found, expected = output(traced.train(mode), x), output(model.train(mode), x)
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b)


# What must not happen


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


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda gm: pickle.loads(pickle.dumps(gm))])
def test_copies_behave_like_the_model_and_keep_names_and_shapes(name: str, copied: object) -> None:
    build, shape = SMALL[name]
    model = build()
    gm = trace(model, torch.zeros(shape))
    twin = copied(gm)  # type: ignore[operator]
    assert isinstance(twin, TracedModule)
    assert list(twin.state_dict()) == list(model.state_dict())
    assert twin.inputs == gm.inputs
    assert twin.gamma0 == gm.gamma0
    for mode in MODES:
        names = [(node.name, node.op) for node in gm.graphs[mode].nodes]
        assert [(node.name, node.op) for node in twin.graphs[mode].nodes] == names
        assert all("val" in node.meta for node in twin.graphs[mode].nodes)
    assert_behaves_like(twin, model, torch.randn(shape))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_exported_and_compiled_modules_behave_like_the_model(name: str, training: bool) -> None:
    build, shape = SMALL[name]
    model, x = build().train(training), torch.randn(shape)
    gm = trace(model, torch.zeros(shape))
    expected = output(model, x)
    exported = torch.export.export(copy.deepcopy(gm), (x,)).module()
    compiled = torch.compile(copy.deepcopy(gm), backend="eager", fullgraph=True)
    for module in (exported, compiled):
        torch.manual_seed(7)
        found = module(x)
        found = [found] if isinstance(found, Tensor) else found
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_compiled_module_follows_the_mode() -> None:
    gm = trace(AuxHead(), torch.zeros(4, 3, 8, 8))
    compiled = torch.compile(gm, backend="eager", fullgraph=True)
    assert isinstance(compiled(torch.zeros(4, 3, 8, 8)), tuple)
    gm.eval()
    assert isinstance(compiled(torch.zeros(4, 3, 8, 8)), Tensor)


@pytest.mark.parametrize("name", SMALL)
def test_all_parameters_and_buffers_keep_their_names_and_are_the_model_s_own(name: str) -> None:
    build, shape = SMALL[name]
    model = build()
    gm = trace(model, torch.zeros(shape))
    assert list(gm.state_dict()) == list(model.state_dict())
    ours, theirs = dict(gm.named_parameters()), dict(model.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(ours[key] is theirs[key] for key in theirs)
    assert [id(b) for b in gm.buffers()] == [id(b) for b in model.buffers()]


def test_an_optimizer_of_the_model_trains_the_traced_module() -> None:
    model = AuxHead()
    gm, optimizer = trace(model, torch.zeros(4, 3, 8, 8)), torch.optim.SGD(model.parameters(), 0.1)
    before = gm.conv.weight.clone()
    sum(y.square().sum() for y in gm(torch.randn(4, 3, 8, 8))).backward()
    optimizer.step()
    assert not torch.equal(gm.conv.weight, before)


def test_a_constant_that_depends_on_the_mode_is_a_module_without_state() -> None:
    gm = trace(FunctionalDropout(), torch.zeros(3, 4))
    assert gm.graphs["train"] is gm.graphs["eval"]
    assert isinstance(gm.by_mode, ByMode)
    assert [node.args for node in gm.graph.nodes if node.target == "by_mode"] == [(True, False)]


def test_a_submodule_that_is_switched_alone_keeps_its_own_constant() -> None:
    model, x = nn.Sequential(FunctionalDropout(), FunctionalDropout()).train(), torch.randn(3, 4)
    gm = trace(model, x)
    model[0].eval()
    gm.get_submodule("0").eval()
    assert torch.equal(output(gm, x)[0], output(model, x)[0])
    model[1].eval()
    assert torch.equal(output(trace(model, x), x)[0], output(model, x)[0])


def test_mixed_modes_are_kept_and_graphs_of_different_structure_are_two() -> None:
    model = AuxHead().train()
    model.bn.eval()
    gm = trace(model, torch.zeros(4, 3, 8, 8))
    for module in (gm, copy.deepcopy(gm), pickle.loads(pickle.dumps(gm))):
        assert module.training
        assert not module.bn.training
        assert module.graph is module.graphs["train"]
        assert module.graphs["train"] is not module.graphs["eval"]


class FrozenNorm(nn.Sequential):
    def train(self, mode: bool = True) -> "FrozenNorm":
        super().train(mode)
        self[1].eval()
        return self


def test_a_train_method_of_the_model_s_own_is_followed() -> None:
    model = FrozenNorm(nn.Linear(4, 4), nn.BatchNorm1d(4))
    gm = trace(model, torch.zeros(3, 4)).train()
    assert not gm.get_submodule("1").training
    assert_behaves_like(gm, model, torch.randn(3, 4))
    nested = nn.Sequential(model, nn.ReLU())
    assert_behaves_like(trace(nested, torch.zeros(3, 4)), nested, torch.randn(3, 4))


def test_tied_parameters_stay_tied_in_every_copy() -> None:
    gm = trace(Tied(), torch.zeros(3, 4))
    for module in (gm, copy.deepcopy(gm), pickle.loads(pickle.dumps(gm))):
        assert module.a.weight is module.b.weight
        assert module.again is module.norm


def test_gamma0_holds_the_norms_that_are_constant_and_not_zero() -> None:
    model = nn.Sequential(*(nn.BatchNorm1d(4) for _ in range(3)), nn.LayerNorm(4, elementwise_affine=False))
    nn.init.constant_(model[1].weight, 0.5)
    nn.init.zeros_(model[2].weight)
    assert trace(model, torch.zeros(2, 4)).gamma0 == {"0.weight": 1.0, "1.weight": 0.5}
    nn.init.normal_(model[0].weight)
    assert trace(model, torch.zeros(2, 4)).gamma0 == {"1.weight": 0.5}


def test_a_model_on_meta_is_traced() -> None:
    gm = trace(AuxHead().to("meta"), torch.zeros(1, 3, 8, 8, device="meta"))
    assert gm.gamma0 == {}
    assert all("val" in node.meta for node in gm.graph.nodes)


# Shapes


def vals(graph: fx.Graph) -> list[Tensor]:
    return [node.meta["val"] for node in graph.nodes if isinstance(node.meta["val"], Tensor)]


@pytest.mark.parametrize("mode", MODES)
def test_the_value_of_every_node_has_the_shape_and_dtype_of_the_real_one(mode: str) -> None:
    model, x = torchvision.models.shufflenet_v2_x0_5().train(mode == "train"), torch.randn(2, 3, 64, 64)
    gm = trace(model, x)
    real: dict[str, object] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            real[n.name] = super().run_node(n)
            return real[n.name]

    Recorder(copy.deepcopy(gm)).run(x)
    for node in gm.graph.nodes:
        val, value = node.meta["val"], real[node.name]
        if isinstance(val, Tensor):
            assert isinstance(value, Tensor)
            assert val.is_meta
            assert (val.shape, val.dtype) == (value.shape, value.dtype), node.name
        elif node.op != "output" and not isinstance(val, tuple | list):
            assert val == value


def test_a_batch_norm_over_one_value_per_channel_has_a_shape() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3)).train()
    assert vals(trace(model, torch.zeros(1, 3, 4, 4)).graph)[-1].shape == (1, 3, 1, 1)


def test_a_norm_of_a_transposed_tensor_can_be_viewed() -> None:
    gm = trace(
        Function(lambda m, x: m.norm(x.transpose(1, 2)).view(-1, 4), norm=nn.LayerNorm(4)),
        torch.zeros(2, 4, 3),
    )
    assert vals(gm.graph)[-1].shape == (6, 4)


def test_an_in_place_change_of_shape_leaves_the_value_before_it() -> None:
    gm = trace(Function(lambda m, x: (x + 0).unsqueeze_(1)), torch.zeros(2, 4))
    assert [tuple(val.shape) for val in vals(gm.graph)[:3]] == [(2, 4), (2, 4), (2, 1, 4)]


def test_propagate_follows_an_edited_graph() -> None:
    gm = trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.zeros(2, 4))
    gm.add_module("0", nn.Linear(4, 7))
    propagate(gm)
    assert vals(gm.graph)[-1].shape == (2, 7)


# What is traced into, and what is recorded


def test_leaves_are_the_modules_whose_forward_is_torch_s_own() -> None:
    gm = trace(nn.Sequential(nn.Sequential(TransposedConv3d(3, 4, 3))), torch.zeros(1, 3, 5, 5, 5))
    assert [node.target for node in gm.graph.nodes if node.op == "call_module"] == ["0.0"]
    gm = trace(nn.Sequential(Standardized(3, 4, 3)), torch.zeros(1, 3, 5, 5))
    assert [node.op for node in gm.graph.nodes if node.op == "call_module"] == []
    parametrized = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)))
    gm = trace(parametrized, torch.zeros(1, 3, 5, 5))
    assert torch.nn.functional.conv2d in {node.target for node in gm.graph.nodes}
    assert torch.equal(gm(torch.ones(1, 3, 5, 5)), parametrized(torch.ones(1, 3, 5, 5)))


def test_parameters_and_buffers_that_a_forward_computes_with_are_nodes() -> None:
    model = Function(lambda m, x: x * (m.bn.weight + m.bn.running_mean), bn=nn.BatchNorm1d(4))
    gm = trace(model, torch.zeros(2, 4))
    assert {n.target for n in gm.graph.nodes if n.op == "get_attr"} == {"bn.weight", "bn.running_mean"}
    nn.init.constant_(model.bn.running_mean, 3.0)
    assert torch.equal(gm(torch.ones(2, 4)), torch.full((2, 4), 4.0))


def test_tensors_made_in_the_forward_are_kept_and_add_no_state() -> None:
    model = Function(lambda m, x: x + (torch.arange(4) if m.training else torch.arange(4) * 2))
    gm = trace(model, torch.zeros(2, 4))
    assert not gm.state_dict()
    for module in (gm, copy.deepcopy(gm)):
        assert_behaves_like(module, model, torch.randn(2, 4))


def test_an_if_on_sizes_is_decided_and_sizes_in_views_stay_symbolic() -> None:
    def pad_if_odd(m: nn.Module, x: Tensor) -> Tensor:
        rows, width = x.shape
        assert rows > 0
        x = F.pad(x, (0, 1)) if width % 2 else x
        return x.view(rows, -1, 2)

    def after_parameters_and_composite_leaves(m: nn.Module, x: Tensor) -> Tensor:
        return pad_if_odd(m, m.layer(x) + m.layer.norm1.weight)

    layer = nn.TransformerEncoderLayer(5, 1, 8, batch_first=True)
    gm = trace(Function(after_parameters_and_composite_leaves, layer=layer), torch.zeros(2, 5))
    assert gm(torch.zeros(7, 5)).shape == (7, 3, 2)
    gm = trace(Function(pad_if_odd), torch.zeros(2, 5))
    assert not [node for node in gm.graph.nodes if not node.users and node.op != "output"]
    assert gm(torch.zeros(7, 5)).shape == (7, 3, 2)


def test_nodes_know_their_module_and_the_line_of_code() -> None:
    gm = trace(nn.Sequential(FunctionalDropout()), torch.zeros(3, 4))
    node = next(node for node in gm.graph.nodes if node.target is F.dropout)
    for module in (gm, copy.deepcopy(gm), pickle.loads(pickle.dumps(gm))):
        node = next(node for node in module.graph.nodes if node.target is F.dropout)
        assert list(node.meta["nn_module_stack"].values())[-1] == ("0", FunctionalDropout)
        assert "test_capture.py" in node.meta["stack_trace"]
        assert "in forward" in node.meta["stack_trace"]


def test_arguments_beyond_the_example_inputs_take_their_defaults() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 2.0) -> Tensor:
            return x * scale if mask is None else x * mask

    assert torch.equal(trace(Masked(), torch.ones(2))(torch.ones(2)), torch.full((2,), 2.0))
    assert torch.equal(trace(Masked(), (torch.ones(2), torch.ones(2)))(torch.ones(2), torch.zeros(2)), torch.zeros(2))


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


def test_a_node_knows_its_line_in_torchvision_whose_folder_begins_like_torchs() -> None:
    gm = trace(torchvision.models.resnet18(), torch.zeros(1, 3, 32, 32))
    node = next(node for node in gm.graph.nodes if node.name == "layer1_0_conv2")
    assert "resnet.py" in node.meta["stack_trace"] and ", in forward" in node.meta["stack_trace"]
