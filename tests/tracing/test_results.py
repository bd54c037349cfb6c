"""What a model gives: objects of its own classes come back as what they are."""

import copy
import pickle
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import nrfx
from nrfx.analysis.spaces import channels_of
from nrfx.nests import Maker, tensors_of

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Logits(OrderedDict):  # type: ignore[type-arg]
    """A dictionary whose items are attributes too."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)


@dataclass
class Output(OrderedDict):  # type: ignore[type-arg]
    """A dataclass that is a dictionary of the fields that are not None, as model hubs have them."""

    logits: Any = None
    hidden: Any = None
    inner: Any = None

    def __post_init__(self) -> None:
        assert isinstance(self.logits, Tensor)
        for each in fields(self):
            if (value := getattr(self, each.name)) is not None:
                self[each.name] = value

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self.values())


@dataclass
class Answer:
    logits: Tensor
    mean: Tensor | None = field(init=False, default=None)
    note: str = "plain"

    def __post_init__(self) -> None:
        self.mean = self.logits.mean(1)


@dataclass(frozen=True)
class Frozen:
    logits: Tensor
    none: Any = None


@dataclass(slots=True)
class Slots:
    logits: Tensor


class Images:
    """A plain object, as torchvision's detection networks hand around."""

    def __init__(self, tensors: Tensor, sizes: list[tuple[int, int]]) -> None:
        raise AssertionError("the graph does not run it again")


class Mapped(UserDict):  # type: ignore[type-arg]
    pass


Pair = namedtuple("Pair", ["logits", "second"])


def images(x: Tensor) -> Images:
    made = Images.__new__(Images)
    made.tensors, made.sizes = x, [(6, 6)]  # type: ignore[attr-defined]
    return made


RESULTS: dict[str, Callable[[Tensor], Any]] = {
    "a dictionary with attributes": lambda x: Logits(logits=x, more=[x + 1]),
    "a dictionary that is a dataclass": lambda x: Output(x, hidden=(x, x * 2)),
    "one inside another": lambda x: Output(x, inner=Output(x * 2, inner={"a": [Frozen(x)]})),
    "an ordered dictionary": lambda x: OrderedDict(out=x, aux=x * 2),
    "a dataclass": Answer,
    "a frozen dataclass": Frozen,
    "a dataclass with slots": Slots,
    "a named tuple": lambda x: Pair(x, Frozen(x)),
    "a plain object": images,
    "a mapping of another class": lambda x: Mapped(logits=x),
    "a tuple of all kinds": lambda x: (x, Answer(x), {"a": Logits(b=x)}),
}


class Net(nn.Module):
    def __init__(self, result: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU()),
            nn.Conv2d(8, 4, 1),
        )
        self.result = result

    def forward(self, x: Tensor) -> Any:
        return self.result(self.body(x).mean((2, 3)))


def assert_equal(actual: Any, expected: Any, tolerance: float = 0.0) -> None:
    """The same classes, keys, constants and tensors, all the way down."""
    assert type(actual) is type(expected)
    assert_same_state(actual, expected, tolerance)


def assert_same_state(actual: Any, expected: Any, tolerance: float) -> None:
    if isinstance(expected, Tensor):
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
        return
    inside = [dict(value) if isinstance(value, dict) else value for value in (actual, expected)]
    for a, b in (inside, [getattr(actual, "__dict__", {}), getattr(expected, "__dict__", {})]):
        if isinstance(b, dict):
            assert list(a) == list(b)
            for key in b:
                assert_equal(a[key], b[key], tolerance)
        elif isinstance(b, tuple | list):
            assert len(a) == len(b)
            for left, right in zip(a, b, strict=True):
                assert_equal(left, right, tolerance)
        elif isinstance(b, Slots):
            assert_equal(a.logits, b.logits, tolerance)
        elif not hasattr(b, "__dict__"):
            assert a == b


def made(result: Callable[[Tensor], Any]) -> tuple[nn.Module, nrfx.TracedModule]:
    torch.manual_seed(0)
    model = Net(result).eval()
    with torch.no_grad():
        model.body[1].weight[:3] = 0
    return model, nrfx.trace(model, X).eval()


SURVIVES: dict[str, Callable[[nrfx.TracedModule], Any]] = {
    "as it is": lambda gm: gm,
    "deepcopy": copy.deepcopy,
    "pickle": lambda gm: pickle.loads(pickle.dumps(gm)),
    "torch.fx": fx.symbolic_trace,
    "torch.fx and nrfx": lambda gm: nrfx.trace(fx.symbolic_trace(gm), X),
    "compile": lambda gm: torch.compile(gm, fullgraph=True, backend="eager"),
}
every_result = pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)


@every_result
@pytest.mark.parametrize("change", SURVIVES.values(), ids=SURVIVES)
def test_an_object_comes_back_as_what_it_is(change: Callable[..., Any], result: Callable[[Tensor], Any]) -> None:
    torch._dynamo.reset()
    model, gm = made(result)
    assert_equal(change(gm)(X), model(X))


@every_result
def test_rewrites_and_files_keep_it(result: Callable[[Tensor], Any], tmp_path: Path) -> None:
    model, gm = made(result)
    small = nrfx.compact(gm)
    assert small.changed
    assert nrfx.verify(gm, small, X) < 1e-5
    assert_equal(small.module(X), model(X), 1e-5)
    nrfx.save(tmp_path / "net.safetensors", small.module)
    loaded = nrfx.load(tmp_path / "net.safetensors", Net(result)).eval()
    assert_equal(loaded(X), model(X), 1e-5)


@every_result
def test_what_it_holds_is_the_network_s_output(result: Callable[[Tensor], Any]) -> None:
    _, gm = made(result)
    (space,) = (space for space in channels_of(gm).spaces if "body.6" in space.births)
    assert space.pinned is not None
    plain = nrfx.utilization(nrfx.trace(Net(lambda x: x), X))
    assert nrfx.utilization(gm).flops.total == plain.flops.total
    assert nrfx.utilization(gm).uncounted == plain.uncounted == ()


def test_a_wrong_value_in_an_object_is_seen() -> None:
    _, gm = made(RESULTS["one inside another"])
    result = nrfx.compact(gm)
    with torch.no_grad():
        result.module.get_parameter("body.6.bias").add_(1.0)
    with pytest.raises(nrfx.VerificationError, match=r"\.logits differs by"):
        nrfx.verify(gm, result, X)


class TakenApart(nn.Module):
    """Modules inside hand over objects, and the forward takes them apart in each way there is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = Net(lambda x: Output(x, hidden=(x, x * 2)))
        self.b = Net(Answer)
        self.c = Net(lambda x: Logits(logits=x))

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.a(x), self.b(x), self.c(x)
        first, (second, third) = a.to_tuple()
        assert isinstance(a, dict)
        assert a.inner is None
        assert b.mean is not None
        out: Tensor = (
            a.logits + a["logits"] + first + second - third + b.logits + b.mean[:, None] + c.logits + c["logits"]
        )
        return out


def test_objects_that_are_taken_apart_again_leave_nothing_behind() -> None:
    model = TakenApart().eval()
    gm = nrfx.trace(model, X).eval()
    assert not [node for node in gm.graph.nodes if isinstance(node.target, Maker)]
    assert torch.equal(gm(X), model(X))


def test_a_value_that_stands_in_two_places_is_one_object() -> None:
    _, gm = made(RESULTS["one inside another"])
    out = gm(X)
    assert out.inner is out["inner"]
    assert len([node for node in gm.graph.nodes if isinstance(node.target, Maker)]) == 3


def test_objects_export_where_their_class_is_registered() -> None:
    model, gm = made(RESULTS["an ordered dictionary"])
    exported = torch.export.export(gm, (X,)).module()(X)
    assert list(exported) == ["out", "aux"]
    torch.testing.assert_close(exported["aux"], model(X)["aux"])


def test_heads_give_one_object_each() -> None:
    _, gm = made(RESULTS["a dictionary that is a dataclass"])
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme="removed")
    outputs = nrfx.heads(result.module.train())(X)
    assert [type(output) for output in outputs] == [Output, Output]
    torch.testing.assert_close(sum(output.logits for output in outputs), result.module(X).logits, rtol=1e-4, atol=1e-5)


def test_tensors_of_objects_have_paths() -> None:
    assert list(tensors_of(Output(X, hidden=(X, [X])))) == [".logits", ".hidden[0]", ".hidden[1][0]"]
    assert list(tensors_of([images(X)])) == ["[0]['tensors']"]
    assert list(tensors_of(X)) == ["output"]
