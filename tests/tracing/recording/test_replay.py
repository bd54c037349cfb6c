"""A submodule that does the same in both modes is recorded in eval mode, and repeated in train mode."""

import copy
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrfx.errors import SizeError
from nrfx.rules import OPS, opaque
from nrfx.tracing import TracedModule, trace
from nrfx.tracing.graph.guards import is_guard
from nrfx.tracing.recording.replay import Replay

LEFT: list[Tensor] = []
"""What forwards hand on outside of modules."""

Step = Callable[[Any, Tensor], Tensor]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    LEFT.clear()
    yield
    LEFT.clear()


@pytest.fixture
def repeated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the submodules that are repeated."""
    paths: list[str] = []
    ask = Replay.repeated

    def noting(self: Replay, path: str, *rest: Any) -> Any:
        node = ask(self, path, *rest)
        paths.extend([path] if node is not None else [])
        return node

    monkeypatch.setattr(Replay, "repeated", noting)
    return paths


class Block(nn.Module):
    """`step` is what it does behind its layer."""

    def __init__(self, step: Step = lambda block, x: x) -> None:
        super().__init__()
        self.fc, self.step = nn.Linear(4, 4), step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self, torch.relu(self.fc(x)))


class Net(nn.Module):
    """Asks for the mode. `eval_way` and `train_way` are how the block is called."""

    def __init__(
        self,
        step: Step = lambda block, x: x,
        train_way: Step = lambda net, x: net.block(x),
        eval_way: Step = lambda net, x: net.block(x),
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.block, self.aux, self.last = Block(), Block(step), nn.Linear(4, 4), nn.Linear(4, 2)
        self.train_way, self.eval_way = train_way, eval_way

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.training:
            x = self.train_way(self, x)
            x = x + self.aux(x)
        else:
            x = self.eval_way(self, x)
        return self.last(x)


X = torch.linspace(-1, 1, 12).view(3, 4)


def traced(net: nn.Module, x: Tensor = X) -> TracedModule:
    """The traced net, which gives in both modes what the net gives, and has the shapes that are met."""
    gm = trace(net, x)
    for training in (True, False):
        pair = []
        for module in (net, gm):
            LEFT.clear()
            torch.manual_seed(1)
            pair.append(copy.deepcopy(module).train(training)(x))
        assert torch.equal(*pair)
    return gm


def told(gm: TracedModule) -> list[Any]:
    return [
        (
            *(node.name, node.op, node.target, str(node.args), node.meta["val"].shape),
            *(node.meta.get("nn_module_stack"), node.meta.get("stack_trace")),
        )
        for node in gm.graphs["train"].nodes
    ]


def scaled(x: Tensor, by: float = 2.0) -> Tensor:
    return torch.mul(x, by)


ALIKE: dict[str, Net] = {
    "nothing else": Net(),
    "functions of a file": Net(lambda block, x: scaled(x).clamp(max=max(1.0, abs(-2)))),
    "numbers of a module": Net(lambda block, x: x.flatten(1) * block.fc.in_features),
    "a loop": Net(lambda block, x: sum([x.mul(factor) for factor in range(3)])),
}


@pytest.mark.parametrize("name", ALIKE)
def test_what_is_the_same_in_both_modes_is_repeated(name: str, repeated: list[str]) -> None:
    gm = traced(ALIKE[name])
    assert repeated == ["first", "block"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replay, "repeated", lambda *_: None)
        assert told(gm) == told(trace(ALIKE[name], X))


def noted(block: Any, x: Tensor) -> Tensor:
    x.note = x * 3
    return x


def handed_over(net: Any, x: Tensor) -> Tensor:
    LEFT[:] = [net.aux(x)] if net.training else [x]
    return net.block(x)


def kept(block: Any, x: Tensor) -> Tensor:
    block.seen = x * 3
    return x


def left(block: Any, x: Tensor) -> Tensor:
    LEFT.append(x * 3)
    return x


FACTOR = [1.0]
SETTINGS = types.ModuleType("settings")
SEEN: Any = None


def by_factor(net: Any, x: Tensor) -> Tensor:
    FACTOR[0] = SETTINGS.factor = 2.0 if net.training else 3.0  # type: ignore[attr-defined]
    return net.block(x)


def by_attribute(net: Any, x: Tensor) -> Tensor:
    net.block.factor = 2.0 if net.training else 3.0
    result = net.block(x)
    net.block.factor = 1.0
    return result


class Factor(Block):
    def __init__(self) -> None:
        super().__init__(lambda block, x: x * block.factor)
        self.factor = 1.0


class ByAttribute(Net):
    def __init__(self) -> None:
        super().__init__(train_way=by_attribute, eval_way=by_attribute)
        self.block = Factor()


def by_exchange(net: Any, x: Tensor) -> Tensor:
    own = net.block._modules["fc"]
    net.block._modules["fc"] = net.aux if net.training else own
    result = net.block(x)
    net.block._modules["fc"] = own
    return result


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Block()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def below(net: Any, x: Tensor) -> Tensor:
    own = net.block.inner._modules["fc"]
    net.block.inner._modules["fc"] = net.aux
    result = net.block(x)
    net.block.inner._modules["fc"] = own
    return result


class ExchangedBelow(Net):
    def __init__(self) -> None:
        super().__init__(train_way=below)
        self.block = Outer()


def exchanged(net: Any, x: Tensor) -> Tensor:
    own = net.block._modules["fc"]
    net.block._modules["fc"] = net.aux
    result = net.block(x)
    net.block._modules["fc"] = own
    return result


class Hooked(Net):
    def __init__(self) -> None:
        super().__init__(train_way=by_factor, eval_way=by_factor)
        self.block.register_forward_hook(lambda block, args, x: x * FACTOR[0])


class Calling(Block):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) * 2


class WithCall(Net):
    def __init__(self) -> None:
        super().__init__()
        self.block = Calling()


class Replaced(Net):
    def __init__(self) -> None:
        super().__init__()
        self.block.forward = lambda x: x * 2


class ByProperty(Net):
    class Sized(Block):
        @property
        def scale(self) -> float:
            return FACTOR[0]

    def __init__(self) -> None:
        super().__init__(train_way=by_factor, eval_way=by_factor)
        self.block = self.Sized(lambda block, x: x * block.scale)


def closing(factor: list[float]) -> Step:
    return lambda block, x: x * factor[0]


def defaulting(block: Any, x: Tensor, factor: list[float] = FACTOR) -> Tensor:
    return x * factor[0]


def setting(block: Any, x: Tensor) -> Tensor:
    global SEEN  # noqa: PLW0603  which is what is tested
    SEEN = x * 3
    return x


def registering(block: Any, x: Tensor) -> Tensor:
    block.register_parameter("later", None)
    return x


def with_a_note(net: Any, x: Tensor) -> Tensor:
    x.note = 2.0 if net.training else 3.0
    return net.block(x)


class Noted(Net):
    def __init__(self) -> None:
        super().__init__(train_way=with_a_note, eval_way=with_a_note)
        self.block = ByNote()


class ByNote(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) * x.note  # type: ignore[attr-defined]


class Times(nn.Module):
    def forward(self, x: Tensor, by: Any) -> Any:
        return x * by


class TimesNet(Net):
    def __init__(self, train: Step, evaluated: Step) -> None:
        super().__init__(train_way=train, eval_way=evaluated)
        self.block = Times()


class Relu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, x * 3


class PairNet(Net):
    def __init__(self) -> None:
        super().__init__(train_way=lambda net, x: net.block(x)[0], eval_way=lambda net, x: net.block(x)[0])
        self.block = Pair()


def shown(block: Any, x: Tensor) -> Tensor:
    print(x.dim())
    return x


def of_a_file(scale: Callable[[Tensor], Tensor]) -> nn.Module:
    """A block of the same code each time, in a file of its own."""
    scope: dict[str, Any] = {"__name__": "a_file", "nn": nn, "torch": torch, "scale": scale}
    exec("class Scaled(nn.Module):\n    def forward(self, x):\n        return torch.relu(scale(x))\n", scope)
    scaled: nn.Module = scope["Scaled"]()
    return scaled


class OfTwoFiles(Net):
    def __init__(self) -> None:
        super().__init__(train_way=by_factor, eval_way=by_factor)
        self.first, self.block = of_a_file(scaled), of_a_file(lambda x: x * FACTOR[0])


APART: dict[str, Net] = {
    "asks for the mode": Net(lambda block, x: x * 2 if block.training else x),
    "hands the mode on": Net(lambda block, x: F.dropout(x, 0.5, block.training)),
    "gets something else": Net(train_way=lambda net, x: net.block(x + 1)),
    "leaves a value": Net(left, train_way=lambda net, x: net.block(x) + LEFT[-1]),
    "notes a value at its result": Net(noted, train_way=lambda net, x: net.block(x).note),
    "keeps a value": Net(kept, train_way=lambda net, x: net.block(x) + net.block.seen),
    "reads a value of others": Net(lambda block, x: x + LEFT[0], handed_over, handed_over),
    "makes a tensor": Net(lambda block, x: x * torch.tensor([1.0, 2.0, 3.0, 4.0])),
    "reads a parameter": Net(lambda block, x: x * block.fc.weight.sum()),
    "reads a note at its argument": Noted(),
    "gets a number": TimesNet(lambda net, x: net.block(x, 2.0), lambda net, x: net.block(x, 2.0)),
    "gets a number in train mode": TimesNet(lambda net, x: net.block(x, 2.0), lambda net, x: net.block(x, x)),
    "gives two values": PairNet(),
    "sets a global variable": Net(setting, train_way=lambda net, x: net.block(x) + SEEN),
    "registers a parameter": Net(registering, train_way=lambda net, x: net.block(x) * len(net.block._parameters)),
    "reads a number by what is behind a function": Net(
        lambda block, x: x * block.step.__globals__["FACTOR"][0], by_factor, by_factor
    ),
    "reads a number of a file": Net(lambda block, x: x * SETTINGS.factor, by_factor, by_factor),  # type: ignore[attr-defined]
    "reads a global number": Net(lambda block, x: x * FACTOR[0], by_factor, by_factor),
    "reads a number of a closure": Net(closing(FACTOR), by_factor, by_factor),
    "reads a number of a default": Net(defaulting, by_factor, by_factor),
    "reads a number by a property": ByProperty(),
    "has an attribute set": ByAttribute(),
    "has a module exchanged in train mode": Net(train_way=by_exchange, eval_way=by_exchange),
    "has a module exchanged in eval mode": Net(eval_way=exchanged),
    "has a module exchanged below it": ExchangedBelow(),
    "has a hook": Hooked(),
    "has a call of its own": WithCall(),
    "has a forward of its own": Replaced(),
    "does something else": Net(shown),
    "has the code of another file": OfTwoFiles(),
}


@pytest.mark.parametrize("name", APART)
def test_what_may_differ_runs_in_both_modes(name: str, repeated: list[str]) -> None:
    traced(APART[name])
    assert "block" not in repeated


@pytest.mark.parametrize("name", ["gets a number", "gives two values", "asks for the mode"])
def test_others_are_repeated_beside_it(name: str, repeated: list[str]) -> None:
    traced(APART[name])
    assert repeated == ["first"]


def twice(net: Any, x: Tensor) -> Tensor:
    return net.block(net.block(x))


def twice_the_same(net: Any, x: Tensor) -> Tensor:
    return net.block(x) + net.block(x)


@pytest.mark.parametrize(
    "ways", [(twice, Net().train_way), (Net().train_way, twice), (twice, twice), (twice_the_same, twice)]
)
def test_of_two_runs_the_first_is_repeated(ways: tuple[Step, Step], repeated: list[str]) -> None:
    traced(Net(lambda block, x: x, *ways))
    assert repeated == ["first", "block"]


def test_hooks_of_all_modules_are_not_passed_over(repeated: list[str]) -> None:
    def scaling(module: nn.Module, args: Any, x: Tensor) -> Any:
        return x * FACTOR[0] if isinstance(module, Relu) else None

    net = Net(train_way=by_factor, eval_way=by_factor)
    net.block = Relu()
    hook = nn.modules.module.register_module_forward_hook(scaling)
    try:
        traced(net)
    finally:
        hook.remove()
    assert repeated == []


def test_modules_of_a_node_are_those_of_its_mode() -> None:
    class Around(nn.Module):
        def __init__(self, block: Block) -> None:
            super().__init__()
            self.block = block

        def forward(self, x: Tensor) -> Tensor:
            return self.block(x)

    net = Net(eval_way=lambda net, x: net.around(x))
    block = net._modules.pop("block")
    net.around, net.block = Around(block), block
    stacks = {
        mode: [tuple(node.meta["nn_module_stack"]) for node in graph.nodes if node.target is torch.relu][1:]
        for mode, graph in traced(net).graphs.items()
    }
    assert stacks == {"train": [("around.block",)], "eval": [("around", "around.block")]}


class Decides(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) if x.shape[0] > 2 else -x


def test_a_decision_is_checked_in_the_mode_that_goes_by_it() -> None:
    net = Net(eval_way=lambda net, x: net.block(x) if x.shape[0] > 2 else x)
    net.block = Decides()
    gm = traced(net)
    assert [sum(map(is_guard, graph.nodes)) for graph in gm.graphs.values()] == [1, 1]
    with pytest.raises(SizeError):
        gm.train()(X[:2])


def in_region(net: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return net.block(x).float()


@pytest.mark.parametrize("way", ["train_way", "eval_way"])
def test_what_is_in_a_region_in_one_mode_runs_in_both(way: str, repeated: list[str]) -> None:
    traced(Net(**{way: in_region}))
    assert "block" not in repeated


class Halved(nn.Module):
    """A leaf that gives another shape in train mode."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, ::2] if self.training else x


class HalfNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.halved = Block(), Halved()

    def forward(self, x: Tensor) -> Tensor:
        x = self.halved(self.block(x))
        return x + 1 if self.training else x


def test_a_leaf_may_give_another_shape_in_train_mode() -> None:
    opaque(Halved)
    try:
        graphs = traced(HalfNet()).graphs
    finally:
        del OPS[Halved]
    last = {mode: next(reversed(graph.nodes)).meta["val"].shape for mode, graph in graphs.items()}
    assert last == {"train": (3, 2), "eval": (3, 4)}


def mode_of(net: nn.Module) -> bool:
    return net.training


class AsksElsewhere(nn.Module):
    """Names the mode in no code of its class."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.aux = Block(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        return self.aux(x) if mode_of(self) else x


def test_a_model_that_names_no_mode_is_not_watched(repeated: list[str]) -> None:
    traced(AsksElsewhere())
    assert repeated == []
