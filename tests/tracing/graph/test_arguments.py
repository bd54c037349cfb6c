"""What a model may be called with, and that the traced module is called in the same way."""

import copy
import pickle
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import nrfx
from nrfx.errors import TraceError

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(1))


@dataclass
class Batch:
    image: Tensor
    depth: Tensor
    scale: float = 2.0


Pair = namedtuple("Pair", ["image", "depth"])


class Encoding(UserDict):  # type: ignore[type-arg]
    """A mapping with attribute access, as tokenizers give it."""

    def __getattr__(self, name: str) -> Any:
        if name == "data":
            raise AttributeError(name)
        return self.data[name]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.b = nn.Conv2d(1, 8, 1)
        self.c = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))

    def joined(self, image: Tensor, depth: Tensor, scale: float = 1.0) -> Tensor:
        out: Tensor = self.c(self.a(image) * scale + self.b(depth))
        return out


class OfDict(Net):
    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.joined(batch["image"], batch["depth"])


class OfList(Net):
    def forward(self, images: list[Tensor], *, scale: float = 1.0) -> Tensor:
        return self.joined(images[0], images[1], scale)


class OfNest(Net):
    def forward(self, x: tuple[Tensor, dict[str, Any]], options: dict[str, Any] | None = None) -> Tensor:
        image, rest = x
        return self.joined(image, rest["more"][0], 3.0 if options and options["strong"] else 1.0)


class OfBatch(Net):
    def forward(self, batch: Any) -> Tensor:
        return self.joined(batch.image, batch.depth, getattr(batch, "scale", 1.0))


class OfKeywords(Net):
    def forward(
        self, ids: Any = None, image: Any = None, mask: Any = None, *, depth: Any = None, flag: bool = False
    ) -> Any:
        assert ids is None
        out = self.joined(image, depth, 2.0 if flag else 1.0)
        return out if mask is None else out * mask


class OfAny(Net):
    def forward(self, **kwargs: Any) -> Tensor:
        return self.joined(kwargs["image"], kwargs["depth"])


class InOrder(Net):
    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        first, second = batch.values()
        return self.joined(first, second)


CALLS: dict[str, tuple[type[Net], tuple[Any, ...], dict[str, Any]]] = {
    "a dictionary": (OfDict, ({"image": X, "depth": Y},), {}),
    "an ordered dictionary": (OfDict, (OrderedDict(image=X, depth=Y),), {}),
    "a mapping of another class": (OfBatch, (Encoding(image=X, depth=Y, scale=3.0),), {}),
    "a dictionary by name": (OfDict, (), {"batch": {"image": X, "depth": Y}}),
    "a list": (OfList, ([X, Y],), {}),
    "a list and a number": (OfList, ([X, Y],), {"scale": 2.5}),
    "nests": (OfNest, ((X, {"more": [Y, None, "text"]}), {"strong": True}), {}),
    "a dataclass": (OfBatch, (Batch(X, Y),), {}),
    "a named tuple": (OfBatch, (Pair(X, Y),), {}),
    "keywords": (OfKeywords, (), {"image": X, "depth": Y}),
    "keywords in another order": (OfKeywords, (), {"flag": True, "depth": Y, "image": X}),
    "positions and keywords": (OfKeywords, (None, X, torch.ones(6)), {"depth": Y}),
    "any keywords": (OfAny, (), {"image": X, "depth": Y}),
    "a mapping in order": (InOrder, ({"a": X, "b": Y},), {}),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
Call = tuple[type[Net], tuple[Any, ...], dict[str, Any]]


def made(call: Call) -> tuple[nn.Module, nrfx.TracedModule, Tensor]:
    """The model with some dead channels, its trace, and what it gives."""
    torch.manual_seed(0)
    kind, args, kwargs = call
    model = kind().eval()
    with torch.no_grad():
        model.c[1].weight[:3] = 0
        return model, nrfx.trace(model, args, kwargs).eval(), model(*args, **kwargs)


def compiled(gm: nrfx.TracedModule) -> Callable[..., Any]:
    torch._dynamo.reset()
    return torch.compile(gm, fullgraph=True, backend="eager")


def saved_and_loaded(gm: nrfx.TracedModule, folder: Path, model: nn.Module) -> nrfx.TracedModule:
    nrfx.save(folder / "net.safetensors", gm)
    return nrfx.load(folder / "net.safetensors", model).eval()


def in_rejuvenator(gm: nrfx.TracedModule) -> nn.Module:
    optimizer = torch.optim.SGD(gm.parameters(), 0.1)
    return nrfx.Rejuvenator(gm, optimizer, nrfx.Budget.relative(gm, params=1.0)).module


SURVIVES: dict[str, Callable[[nrfx.TracedModule], Callable[..., Any]]] = {
    "as it is": lambda gm: gm,
    "deepcopy": copy.deepcopy,
    "pickle": lambda gm: pickle.loads(pickle.dumps(gm)),  # type: ignore[no-any-return]
    "compile": compiled,
    "train and eval": lambda gm: gm.train().eval(),
    "a rejuvenator": in_rejuvenator,
}


@every_call
@pytest.mark.parametrize("change", SURVIVES.values(), ids=SURVIVES)
def test_the_traced_module_is_called_as_the_model_is(change: Callable[..., Any], call: Call) -> None:
    _, gm, expected = made(call)
    _, args, kwargs = call
    assert torch.equal(change(gm)(*args, **kwargs), expected)


@every_call
def test_rewrites_keep_the_way_in(call: Call) -> None:
    _, gm, expected = made(call)
    _, args, kwargs = call
    for result in (nrfx.compact(gm), nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))):
        assert result.changed
        torch.testing.assert_close(result.module(*args, **kwargs), expected, rtol=1e-4, atol=1e-5)
        assert nrfx.verify(gm, result, args, kwargs) < 1e-4


@every_call
def test_export_and_fx_take_it_again(call: Call) -> None:
    _, gm, expected = made(call)
    _, args, kwargs = call
    assert torch.equal(torch.fx.symbolic_trace(gm)(*args, **kwargs), expected)
    if any(isinstance(value, Encoding | Batch) for value in args):
        return  # torch.export knows no classes that are not registered with it, the model's own run included
    in_signature = {name: kwargs[name] for name in ("image", "depth", "flag", "batch", "scale") if name in kwargs}
    exported = torch.export.export(gm, args, in_signature)
    torch.testing.assert_close(exported.module()(*args, **in_signature), expected)


def test_the_order_of_items_is_free_unless_the_forward_goes_through_them() -> None:
    _, gm, expected = made(CALLS["a dictionary"])
    assert torch.equal(gm({"depth": Y, "image": X}), expected)
    _, gm, _ = made(CALLS["a mapping in order"])
    with pytest.raises(
        TraceError, match=r"batch is a mapping of 'b', 'a'; .* it was a mapping of 'a', 'b' in this order"
    ):
        gm({"b": Y, "a": X})


NESTED = (X, {"more": [Y, None, "text"]})
WRONG: dict[str, tuple[str, Any, str]] = {
    "an item is missing": ("a dictionary", {"image": X}, "batch is a mapping of 'image'; .*'image', 'depth'"),
    "an item too many": ("a dictionary", {"image": X, "depth": Y, "z": X}, "'image', 'depth', 'z'"),
    "a tensor for a mapping": ("a dictionary", X, r"batch is \[2, 3, 6, 6\] float32; .* a mapping of"),
    "a number for a tensor": ("a dictionary", {"image": X, "depth": 1}, r"batch\['depth'\] is 1; .* a tensor"),
    "a longer list": ("a list", [X, Y, X], "images is a list of 3; .* a list of 2"),
    "a tuple for a list": ("a list", Pair(X, Y), "images is a Pair of 2; .* a list of 2"),
    "a number left out": ("a list and a number", [X, Y], "scale is 1.0; .* it was 2.5"),
    "another text": ("nests", (X, {"more": [Y, None, "other"]}), r"x\[1\]\['more'\]\[2\] is 'other'"),
    "an argument left out": ("nests", (X, {"more": [Y, None, "text"]}), "options is None; .* a mapping of 'strong'"),
    "another field": ("a dataclass", Batch(X, Y, 1.0), "batch.scale is 1.0; .* it was 2.0"),
    "a mapping for a dataclass": ("a dataclass", {"image": X}, "batch is a mapping of 'image'; .* it was a Batch"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_what_differs_from_the_trace_is_refused_by_the_name_of_the_argument(case: tuple[str, Any, str]) -> None:
    name, argument, message = case
    _, gm, _ = made(CALLS[name])
    with pytest.raises(TraceError, match=message):
        gm(argument)


def test_keywords_that_differ_from_the_trace_are_refused_by_name() -> None:
    _, gm, _ = made(CALLS["keywords"])
    with pytest.raises(TraceError, match=r"mask is .* it was None"):
        gm(image=X, depth=Y, mask=X)
    with pytest.raises(TraceError, match=r"flag is 0; .* it was False"):
        gm(image=X, depth=Y, flag=0)
    _, gm, _ = made(CALLS["any keywords"])
    with pytest.raises(TraceError, match="kwargs is a mapping"):
        gm(image=X, depth=Y, more=X)


TWO = torch.tensor(2.0)


class WithDefault(Net):
    def forward(self, image: Tensor, depth: Tensor, sizes: Any = (1, 2), scale: Any = TWO) -> Tensor:
        return self.joined(image, depth, scale * sizes[0])


def test_defaults_that_no_code_can_state_are_left_out() -> None:
    model = WithDefault().eval()
    gm = nrfx.trace(model, (X, Y)).eval()
    for change in (lambda gm: gm, copy.deepcopy, lambda gm: pickle.loads(pickle.dumps(gm)), fx.symbolic_trace):
        assert torch.equal(change(gm)(X, Y), model(X, Y))
    assert torch.equal(gm(X, Y, (1, 2)), model(X, Y))
    with pytest.raises(TraceError, match=r"sizes\[1\] is 3; .* it was 2"):
        gm(X, Y, (1, 3))
    with pytest.raises(TraceError, match=r"scale is \[\] float32; .* it was left out"):
        gm(X, Y, scale=torch.tensor(2.0))


class Holder:
    def __init__(self, image: Tensor) -> None:
        self.image = image


REFUSED: dict[str, tuple[type[Net], Any, dict[str, Any], str]] = {
    "an object": (OfKeywords, (None, Holder(X)), {"depth": Y}, "input image is a Holder; expected a tensor, a number"),
    "an object in a list": (OfList, [X, Holder(X)], {}, r"input images\[1\] is a Holder"),
    "no tensor at all": (OfList, [1, 2], {}, "hold no tensor"),
    "too little": (OfKeywords, (X, X), {"image": X}, "multiple values for argument 'image'"),
    "a keyword that there is not": (OfDict, {"image": X}, {"more": X}, "unexpected keyword argument 'more'"),
    "nothing": (OfDict, (), {}, r"inputs \(\) hold no tensor"),
    "an empty batch in a mapping": (
        OfDict,
        {"image": X, "depth": Y[:0]},
        {},
        r"batch\['depth'\] has shape \[0, 1, 6, 6\]",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_no_trace_can_take_is_refused(case: Any) -> None:
    kind, args, kwargs, message = case
    with pytest.raises(TraceError, match=message):
        nrfx.trace(kind(), args, kwargs)


def test_two_paths_of_one_name_are_two_inputs() -> None:
    class Twice(nn.Module):
        def forward(self, a: Any, a_b: Tensor) -> Tensor:
            out: Tensor = a["b"] - a_b
            return out

    gm = nrfx.trace(Twice(), ({"b": X}, X))
    assert torch.equal(gm({"b": X}, Y), X - Y)


def test_everything_that_takes_example_inputs_takes_nests() -> None:
    batch = {"image": X, "depth": Y}
    model, gm, _ = made(CALLS["a dictionary"])
    assert nrfx.utilization(model, example_inputs=batch) == nrfx.utilization(gm)
    assert nrfx.why(model, example_inputs=batch) == nrfx.why(gm)
    assert nrfx.compact(model, example_inputs=batch).changed
    budget = nrfx.Budget.relative(model, params=1.0, example_inputs=batch)
    assert nrfx.rejuvenate(model, budget, example_inputs=batch).changed
    plain = fx.symbolic_trace(model, concrete_args={"batch": dict.fromkeys(batch, fx.PH)})
    assert nrfx.utilization(plain, example_inputs=batch).params.total == nrfx.utilization(gm).params.total
    assert torch.equal(nrfx.insert_scales(model, batch).eval()(batch), gm(batch))


@pytest.mark.parametrize("name", ["a dictionary", "keywords", "nests", "a list and a number", "any keywords"])
def test_a_saved_network_is_loaded_with_its_way_in(name: str, tmp_path: Path) -> None:
    kind, args, kwargs = CALLS[name]
    _, gm, expected = made(CALLS[name])
    small = nrfx.compact(gm).module
    for fresh in (kind(), nrfx.trace(kind(), args, kwargs)):
        loaded = saved_and_loaded(small, tmp_path, fresh)
        torch.testing.assert_close(loaded(*args, **kwargs), expected, rtol=1e-4, atol=1e-5)


def test_a_file_whose_inputs_are_objects_is_loaded_into_a_traced_module(tmp_path: Path) -> None:
    _, gm, expected = made(CALLS["a dataclass"])
    nrfx.save(tmp_path / "net.safetensors", gm)
    with pytest.raises(nrfx.CheckpointError, match=r"a Batch.*nrfx.trace\(model, example_inputs\)"):
        nrfx.load(tmp_path / "net.safetensors", OfBatch())
    loaded = nrfx.load(tmp_path / "net.safetensors", nrfx.trace(OfBatch(), Batch(X, Y))).eval()
    assert torch.equal(loaded(Batch(X, Y)), expected)


def test_batches_of_mappings_recalibrate() -> None:
    _, gm, _ = made(CALLS["a dictionary"])
    before = gm.get_buffer("a.1.running_mean").clone()
    nrfx.recalibrate(gm, [{"image": X, "depth": Y}])
    assert not torch.equal(gm.get_buffer("a.1.running_mean"), before)


def test_partial_takes_keywords() -> None:
    class Chooses(OfKeywords):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(*args, **kwargs)
            return out if bool(out.detach().sum() > 0) else -out

    model = Chooses().eval()
    gm = nrfx.trace(model, (), {"image": X, "depth": Y}, partial=True).eval()
    torch.testing.assert_close(gm(image=X, depth=Y), model(image=X, depth=Y))
    assert partial(nrfx.utilization, gm)().params.total == sum(p.numel() for p in model.parameters())
