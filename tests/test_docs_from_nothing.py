"""The core from nothing: the script keeps functions and budgets, its checks catch mistakes, the page is its code."""

import ast
import copy
import importlib.util
import operator
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import nrfx

DOCS = Path(__file__).parent.parent / "docs"
SCRIPT, PAGE = DOCS / "from_nothing.py", DOCS / "from_nothing.md"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("from_nothing", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


core: Any = load()


class Dense(nn.Module):
    """Behind the concatenation, one convolution reads two spaces and another is added to both."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.b, self.norm_b = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.c, self.norm_c = nn.Conv2d(3, 10, 1), nn.BatchNorm2d(10)
        self.pool, self.d = nn.AdaptiveAvgPool2d(1), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.norm_a(self.a(x)))
        b = torch.relu(self.norm_b(self.b(a)))
        y = torch.cat([a, b], dim=1) + torch.relu(self.norm_c(self.c(x)))
        return self.d(torch.flatten(self.pool(y), 1))


class Joined(nn.Module):
    """A layer whose result is added to the flattened or to the doubled result of a norm: two labels a channel."""

    def __init__(self, joint: Callable[[Tensor], Tensor], layer: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.a, self.norm, self.relu, self.flat = nn.Conv2d(1, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()
        self.joint, self.layer, self.last = joint, layer, last
        with torch.no_grad():
            self.norm.weight[1:3], self.norm.bias[1:3] = 0.0, 0.0

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.joint(self.relu(self.norm(self.a(x)))) + self.layer(x))


def params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def params_of(stream: int, hidden: int, last: int) -> int:
    """Of a SmallResNet: conv1, conv2, conv3, conv4, the norms and the classifier, by hand."""
    kernels = 9 * (3 * stream + stream * hidden + hidden * stream + stream * last)
    return kernels + 2 * (stream + hidden + stream + last) + (4 * last + 1) * 5


def widths(network: nn.Module) -> tuple[int, int, int]:
    conv1, conv2, conv4 = (network.get_submodule(path).weight.shape[0] for path in ("conv1", "conv2", "conv4"))
    return conv1, conv2, conv4


def silenced(model: nn.Module, **count: int) -> nn.Module:
    """A copy in eval mode with the first gammas of some norms at 0."""
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        for path, number in count.items():
            twin.get_submodule(path).weight[:number] = 0.0
    return twin


def difference(one: nn.Module, other: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((one(x) - other(x)).abs().max())


def without_ties(walk: Any, _: object, *labels: Tensor) -> Tensor:
    return labels[-1]


def positions_first(walk: Any, op: Callable[..., Tensor], labels: Tensor, *args: object) -> Tensor:
    return op(labels.movedim(1, -1), *args)


@pytest.mark.parametrize(
    ("kind", "wrong", "error", "message"),
    [
        (operator.add, without_ties, RuntimeError, r"size of tensor a \(8\) must match the size of tensor b \(9\)"),
        (torch.flatten, positions_first, AssertionError, "outputs differ"),
    ],
)
def test_a_wrong_rule_is_caught(
    kind: Any, wrong: Any, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = core.trained()
    monkeypatch.setitem(core.RULES, kind, wrong)
    with pytest.raises(error, match=message):
        core.rejuvenate(model, x, params(model))


def test_new_channels_that_survivors_read_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = core.trained()
    kept = core.start

    def everywhere(tensor: Tensor, places: list[Tensor], level: float) -> Tensor:
        started = kept(tensor, places, level)
        fresh = places[-1] == core.NEW
        return started.index_fill(len(places) - 1, fresh.nonzero().flatten(), 0.1)

    monkeypatch.setattr(core, "start", everywhere)
    with pytest.raises(AssertionError, match="outputs differ"):
        core.rejuvenate(model, x, params(model))


def test_constants_that_are_dropped_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = core.trained()
    monkeypatch.setattr(core, "absorb", lambda *_: None)
    with pytest.raises(AssertionError, match="outputs differ"):
        core.rejuvenate(model, x)


def test_a_tensor_that_is_not_rewritten_is_caught_by_its_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = core.trained()
    gather = core.gather
    monkeypatch.setattr(core, "gather", lambda t, places: t if t.shape[0] == 16 and t.dim() == 1 else gather(t, places))
    with pytest.raises(AssertionError, match=r"bn2\.weight dim 0 does not hold the 9 channels"):
        core.rejuvenate(model, x)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Conv2d(4, 4, 1, groups=2)], "has groups"),
        ([nn.Conv2d(4, 4, 1), nn.Softmax(1)], "no rule for .*Softmax"),
        ([nn.Conv2d(4, 4, 1), nn.Flatten(0, 1), nn.Linear(3, 3)], "several channels"),
        ([twice := nn.Conv2d(4, 4, 1), nn.ReLU(), twice], "called twice"),
    ],
)
def test_what_it_does_not_know_is_refused(layers: list[nn.Module], message: str) -> None:
    with pytest.raises(NotImplementedError, match=message):
        core.rejuvenate(nn.Sequential(*layers), torch.randn(2, 4, 3, 3))


def test_a_plan_in_which_different_channels_would_meet_is_refused() -> None:
    """The new channels of a doubled activation stand in two places, those of the layer added to it in one."""
    net = Joined(lambda y: torch.cat([y, y], dim=1), nn.Conv2d(1, 12, 1), nn.Conv2d(12, 2, 1)).double()
    x = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    with pytest.raises(NotImplementedError, match="different channels meet in an addition"):
        core.rejuvenate(net, x, 2 * params(net))


def test_a_birth_has_several_new_labels_for_a_channel_that_has_several_there() -> None:
    layer = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1, 24))
    net = Joined(lambda y: torch.flatten(y, 1), layer, nn.Linear(24, 2)).double()
    network = core.rejuvenate(net, torch.randn(2, 1, 2, 2, dtype=torch.float64), 2 * params(net))
    rows = network.get_submodule("layer.2").weight.shape[0]
    assert rows == 4 * network.a.weight.shape[0] == network.last.weight.shape[1] > 24


def test_ties_connect_over_many_edges_in_any_order() -> None:
    ties = [(torch.tensor(left), torch.tensor(right)) for left, right in (([1, 5], [2, 6]), ([0], [1]), ([6], [2]))]
    assert core.components(7, ties).unique(return_counts=True)[1].sort()[0].tolist() == [1, 1, 5]
    assert len(core.components(7, ties)[[0, 1, 2, 5, 6]].unique()) == 1


def test_a_budget_below_what_is_live_is_refused() -> None:
    model, x = core.trained()
    with pytest.raises(ValueError, match=r"What is live costs 1,713, and the budget is 1,712\."):
        core.rejuvenate(model, x, 1712)


def test_a_label_tensor_has_the_shape_of_its_activation_and_flatten_repeats_each_label_for_its_positions() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
    walk = core.Walk(core.trace(net, torch.randn(2, 1, 2, 2)))
    assert walk.labels["_1"].tolist() == [[[[i] * 2] * 2 for i in (1, 2, 3)]] * 2
    assert walk.labels["_2"].tolist() == [[1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]] * 2
    assert [axis.tolist() for axis in walk.axes["3.weight"]] == [[4, 5], walk.labels["_2"][0].tolist()]
    model, x = core.trained()
    traced = core.trace(model, x)
    labels = core.Walk(traced).labels
    shapes = {node.name: node.meta["tensor_meta"].shape for node in traced.graph.nodes}
    assert {name: tensor.shape for name, tensor in labels.items()} == shapes


def test_elements_carry_a_channel_exactly_where_the_channel_changes_them() -> None:
    model, x = core.trained()
    traced = core.trace(model, x)
    walk = core.Walk(traced)
    columns, layout = walk.labels["flatten"], walk.axes["bn4.weight"][0]
    read: list[Tensor] = []
    traced.fc.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    for channel in range(12):
        for shift in (100.0, -100.0):
            with torch.no_grad():
                traced.bn4.bias[channel] += shift
                traced(x)
        assert torch.equal(read[-2] != read[-1], columns == layout[channel])


def test_the_shrunk_and_the_rejuvenated_network_compute_what_the_network_before_did() -> None:
    model, x = core.trained()
    before = silenced(model, bn1=2, bn2=7, bn3=2, bn4=5)  # of bn2 two stay: 0.2 goes into a padded convolution
    images = torch.randn(16, 3, 8, 8, dtype=torch.float64)
    for budget in (None, params(model), 2 * params(model)):
        network = core.rejuvenate(model, x, budget)
        assert difference(before, network, images) < 1e-12
    assert difference(silenced(model), before, images) > 1e-6  # it is the dead gammas, not nothing, that went


def test_params_are_the_planned_number_and_no_further_channel_fits_the_budget() -> None:
    model, x = core.trained()
    assert params(model) == params_of(8, 16, 12)
    small, network = core.rejuvenate(model, x), core.rejuvenate(model, x, params(model))
    stream, hidden, last = widths(network)
    assert widths(small) == (6, 9, 7) and params(small) == params_of(6, 9, 7)
    assert params(network) == params_of(stream, hidden, last) <= params(model)
    wider = (stream + 1, hidden, last), (stream, hidden + 1, last), (stream, hidden, last + 1)
    assert min(params_of(*more) for more in wider) > params(model)
    fitting = [a / 1000 for a in range(1000, 3000) if params_of(*(int(a * w) // 1000 for w in (6, 9, 7))) <= 3717]
    alpha = max(fitting)
    assert all(width >= int(alpha * live) for width, live in zip(widths(network), (6, 9, 7), strict=True))


def test_the_cost_is_what_torch_counts() -> None:
    model, x = core.trained()
    traced = core.trace(model, x)
    found = core.Channels(core.Walk(traced))
    network = core.rejuvenate(model, x, params(model))
    stream, hidden, last = widths(network)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x)
    cost = core.cost(traced, found, torch.tensor([3, stream, hidden, last, 5]))
    assert cost == (params(network), counter.get_total_flops() // 2 // len(x))


def test_new_channels_feed_nobody_at_first_and_can_learn() -> None:
    model, x = core.trained()
    network = core.rejuvenate(model, x, params(model))
    assert not network.conv2.weight[:9, 6:].any() and not network.fc.weight[:, 4 * 7 :].any()
    for step in range(2):
        network.zero_grad()
        network(x).square().sum().backward()
        assert bool(network.fc.weight.grad[:, 4 * 7 :].any())
        assert bool(network.bn2.weight.grad[9:].any()) == (step == 1)
        torch.optim.SGD(network.parameters(), lr=1e-3).step()


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_dead_the_function_and_the_budget_are_kept(seed: int) -> None:
    torch.manual_seed(seed)
    model: Any = (Dense if seed % 2 else core.SmallResNet)().double()
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.weight.copy_(torch.rand_like(norm.weight) + 0.5).mul_(torch.rand_like(norm.weight).gt(0.5) + 1e-4)
            norm.bias.normal_().sub_(0.5)
            norm.running_mean.normal_()
    small = core.rejuvenate(model, x)
    assert params(small) < params(model)
    again = core.rejuvenate(core.rejuvenate(model, x, params(model)), x, params(model))
    assert params(small) < params(again) <= params(model)


def test_with_nothing_dead_and_no_budget_every_tensor_is_the_old_one() -> None:
    model, x = core.trained()
    for norm in (model.bn1, model.bn2, model.bn3, model.bn4):
        nn.init.ones_(norm.weight)
    after = core.rejuvenate(model, x).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in model.state_dict().items())


def test_nrfx_finds_the_same_widths() -> None:
    """Where no constant needs a carrier, which the script does not have."""
    model, x = core.trained()
    nn.init.constant_(model.bn2.bias, -0.2)
    gm = nrfx.trace(model, x)
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme="dense", residual="coupled")
    network = core.rejuvenate(model, x, params(model))
    assert widths(network) == widths(result.module) and params(network) == params(result.module) > 0.95 * params(model)


def test_of_the_constants_that_a_padded_convolution_reads_nrfx_keeps_one() -> None:
    model, x = core.trained()
    small = nrfx.compact(nrfx.trace(model, x), residual="coupled").module
    assert widths(core.rejuvenate(model, x)) == (6, 9, 7) and widths(small) == (6, 8, 7)


def code_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)


def test_the_page_has_all_of_the_script_in_order() -> None:
    text, end = SCRIPT.read_text(), 0
    for block in code_blocks():
        assert block in text, f"not in the script:\n{block}"
        start = text.index(block, end)
        assert text[end:start].strip() == "" or end == 0, f"missing on the page:\n{text[end:start]}"
        end = start + len(block)
    page = "".join(code_blocks())
    defined = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    places = [re.search(rf"^(def|class) {node.name}\b", page, flags=re.M) for node in defined]
    assert all(places), [node.name for node, place in zip(defined, places, strict=True) if not place]
    assert [place.start() for place in places if place] == sorted(place.start() for place in places if place)


def test_the_page_shows_what_the_script_prints(capsys: pytest.CaptureFixture[str]) -> None:
    core.main()
    assert f"```text\n$ python docs/from_nothing.py\n{capsys.readouterr().out}```" in PAGE.read_text()


def test_the_figures_on_the_page_are_those_of_the_script() -> None:
    page = re.sub(r"\s+", " ", PAGE.read_text())
    model, x = core.trained()
    traced = core.trace(model, x)
    found = core.Channels(core.Walk(traced))
    live = core.liveness(traced, found, core.Constants(traced, x))
    planned = core.resize(traced, found, live, torch.tensor([3, *widths(core.rejuvenate(model, x, params(model))), 5]))
    old, new = found.walk.births["conv1"], planned.births["conv1"]
    for numbers in (found.walk.births["conv3"], old, new, core.origins(old, new)):
        assert " ".join(map(str, numbers.tolist())) in page
    columns = planned.axes["fc.weight"][1].tolist()
    assert f"{len(columns)} columns" in page
    assert f"{columns[:4]} ... {columns[24:32]} ... {columns[-4:]}".translate(str.maketrans("", "", "[],")) in page
    assert (found.width.tolist(), found.free.tolist()) == ([3, 8, 16, 12, 5], [False, True, True, True, False])
    assert min(params_of(10, 14, 11), params_of(9, 15, 11), params_of(9, 14, 12)) == 3816 and "3,816" in page
    assert f"{params_of(6, 9, 7) / params_of(8, 16, 12):.0%}" == "46%" and "46 %" in page
    assert (~live).sum() == 14 and int(
        planned.births["conv4"].max()
    ) == 66  # 14 dead; 52 to 66 new, three of them twice


def test_the_script_imports_nothing_but_torch() -> None:
    body = [node for node in ast.walk(ast.parse(SCRIPT.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in body}
    assert {str(name).partition(".")[0] for name in names} - sys.stdlib_module_names == {"torch"}
