"""Verification against the user's own model, and the check that every rewrite gets."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.errors import VerificationError
from nrfx.rewrite import drawn, rejuvenate
from nrfx.rewrite.verify import verified

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def unit(i: int, o: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())


class Net(nn.Module):
    def __init__(self, head: Callable[[Tensor], Tensor] = lambda x: x.mean((2, 3))) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = unit(3, 8), unit(8, 8), nn.Conv2d(8, 4, 1)
        self.head = head
        with torch.no_grad():
            self.a[1].weight[:3] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(self.b(self.a(x))))


def rewritten(model: nn.Module, x: Any = X, **options: Any) -> tuple[nrfx.TracedModule, nrfx.Rejuvenation]:
    gm = nrfx.trace(model, x)
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), **options)
    assert result.changed
    return gm, result


def test_the_model_runs_at_its_size_and_at_others() -> None:
    model = Net()
    gm, result = rewritten(model)
    found = verified(gm, result, X, model=model)
    assert found.difference < 1e-4
    assert not found.refused
    sizes = ["[3, 3, 8, 8]", "[1, 3, 8, 8]", "[2, 3, 12, 8]", "[2, 3, 8, 12]", "[2, 3, 12, 12]"]
    for size in sizes:
        for what in ("the model and the traced network", "the networks before and after"):
            assert any(line.startswith(f"{what} on {size}:") for line in found.compared)
    assert len(found.compared) == 12
    assert nrfx.verify(gm, result, X, model=model) == found.difference


def test_sizes_that_the_model_does_not_take_are_passed_over() -> None:
    model = nn.Sequential(unit(3, 8), unit(8, 8), nn.Flatten(), nn.Linear(512, 4))
    with torch.no_grad():
        model[0][1].weight[:3] = 0
    gm, result = rewritten(model)
    found = verified(gm, result, X, model=model)
    assert len(found.compared) == 6  # the traced size and two batches, each twice


class BySize(Net):
    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out * 2 if x.shape[-1] > 8 else out


def test_sizes_that_the_traced_network_refuses_are_reported() -> None:
    model = BySize()
    gm, result = rewritten(model)
    found = verified(gm, result, X, model=model)
    assert [line.partition(":")[0] for line in found.refused] == ["[2, 3, 8, 12]", "[2, 3, 12, 12]"]


def test_a_network_that_differs_from_the_model_in_silence_is_seen() -> None:
    model = Net()
    gm, result = rewritten(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.c.bias.add_(1)
    with pytest.raises(VerificationError, match="output differs by"):
        nrfx.verify(gm, result, X, model=other)
    nrfx.verify(gm, result, X)


def test_a_difference_at_another_size_alone_is_seen_with_the_size() -> None:
    model = BySize()
    gm = nrfx.trace(Net(), X)  # what a trace without guards would be
    gm.load_state_dict(model.state_dict())
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))
    with pytest.raises(VerificationError, match=r"On \[2, 3, 8, 12\]: output differs by"):
        nrfx.verify(gm, result, X, model=model)


class Counts(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return super().forward(x) + torch.rand(1) * 0


def test_the_model_is_left_as_it_is() -> None:
    model = Counts()
    model.b.eval()
    gm, result = rewritten(Net())
    before, modes = copy.deepcopy(model.state_dict()), [part.training for part in model.modules()]
    state = torch.get_rng_state()
    nrfx.verify(gm, result, X, model=model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("model", "message"),
    [("a name", "model is a str; expected the module"), (nn.Linear(5, 5), r"The model \(Linear\) does not run")],
)
def test_what_is_no_model_is_refused(model: Any, message: str) -> None:
    gm, result = rewritten(Net())
    with pytest.raises(VerificationError, match=message):
        nrfx.verify(gm, result, X, model=model)


def break_build(monkeypatch: pytest.MonkeyPatch, name: str = "c.bias") -> None:
    """Makes new networks differ from the old ones, as a wrong rule would."""
    original = rejuvenate.build

    def broken(*args: Any) -> Any:
        built = original(*args)
        with torch.no_grad():
            built.module.get_parameter(name).add_(1.0)
        return built

    monkeypatch.setattr(rejuvenate, "build", broken)


def test_a_wrong_rewrite_is_refused_and_not_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net()
    gm = nrfx.trace(model, X)
    budget = nrfx.Budget.relative(gm, params=1.0)
    break_build(monkeypatch)
    state = copy.deepcopy(gm.state_dict())
    for rewrite in (lambda: nrfx.rejuvenate(gm, budget), lambda: nrfx.compact(gm)):
        with pytest.raises(VerificationError, match=r"output differs by .*Nothing was changed.*check=False"):
            rewrite()
    assert all(torch.equal(value, state[name]) for name, value in gm.state_dict().items())
    assert nrfx.rejuvenate(gm, budget, check=False).changed
    optimizer = torch.optim.SGD(gm.parameters(), 0.1)
    nr = nrfx.Rejuvenator(gm, optimizer, budget, trigger=1.0, interval=1)
    with pytest.raises(VerificationError, match="output differs by"):
        nr.step()
    assert nr.module is gm
    assert nrfx.Rejuvenator(gm, optimizer, budget, trigger=1.0, interval=1, check=False).step() is not None


class Embedding(Net):
    def __init__(self, rows: int = 4) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(self.table(ids).permute(0, 3, 1, 2))


@pytest.mark.parametrize("ids", [torch.ones(2, 8, 8, dtype=torch.int64), torch.ones(2, 8, 8, dtype=torch.int32)])
def test_whole_numbers_are_drawn_as_ids(ids: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    _, result = rewritten(Embedding(), ids)
    assert not any("compared" in note for note in result.notes)
    break_build(monkeypatch)
    with pytest.raises(VerificationError, match="output differs by"):
        rewritten(Embedding(), ids)


def dropped(x: Tensor) -> Tensor:
    return nn.functional.dropout(x, 0.5, training=True).mean((2, 3))


UNCOMPARED: dict[str, tuple[Callable[[], nn.Module], Any, str]] = {
    "an embedding of one row": (lambda: Embedding(1), torch.zeros(2, 8, 8, dtype=torch.int64), "not run on drawn"),
    "a root of what may be negative": (lambda: Net(lambda x: x.log().mean((2, 3))), X, "no finite output"),
    "a choice": (lambda: Net(lambda x: x.mean((2, 3)).argmax(1)), X, "no finite output"),
}


@pytest.mark.parametrize("case", UNCOMPARED.values(), ids=UNCOMPARED)
def test_where_drawn_inputs_prove_nothing_a_note_says_so(case: Any) -> None:
    model, x, reason = case
    _, result = rewritten(model(), x)
    assert any(note.startswith("Outputs were not compared") and reason in note for note in result.notes)
    _, result = rewritten(model(), x, check=False)
    assert not any("compared" in note for note in result.notes)


def test_a_network_that_draws_is_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    break_build(monkeypatch)
    _, result = rewritten(Net(dropped))
    assert any("draws random numbers" in note for note in result.notes)


def test_large_networks_are_compared_on_small_images_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    large = torch.zeros(1, 3, 160, 160)
    monkeypatch.setattr(drawn, "FULL_SIZE", 1e6)
    monkeypatch.setattr(drawn, "CHEAP", 1e6)
    seen: list[Any] = []
    original = drawn.drawn
    monkeypatch.setattr(drawn, "drawn", lambda inputs, *rest: seen.append(inputs) or original(inputs, *rest))
    _, result = rewritten(Net(), large)
    assert {shape for inputs in seen for shape, _ in inputs} == {(1, 3, 64, 64)}
    assert not any("compared" in note for note in result.notes)
    monkeypatch.setattr(drawn, "FLOPS", 1e6)
    _, result = rewritten(Net(), large)
    assert any("the network is large" in note for note in result.notes)


def test_a_network_of_one_size_is_compared_at_that_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "CHEAP", 1e6)
    seen: list[Any] = []
    original = drawn.drawn
    monkeypatch.setattr(drawn, "drawn", lambda inputs, *rest: seen.append(inputs[0][0]) or original(inputs, *rest))
    model = nn.Sequential(Net(lambda x: x.flatten(1)), nn.Linear(4 * 80 * 80, 3))
    _, result = rewritten(model, torch.zeros(1, 3, 80, 80))
    # 64 x 64 in channels_last and as traced, which the network refuses; then both networks as large as the trace
    assert seen == [(1, 3, 64, 64)] * 2 + [(1, 3, 80, 80)] * 2
    assert not any("compared" in note for note in result.notes)


class Counting(Net):
    """Counts its calls in a buffer, by assignment and in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("assigned", torch.zeros(()))
        self.register_buffer("added", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.assigned = self.assigned + 1
        self.added += 1
        return super().forward(x)


def test_the_check_leaves_buffers_as_they_were() -> None:
    gm, result = rewritten(Counting())
    for module in (gm, result.module):
        assert {float(module.get_buffer(name)) for name in ("assigned", "added")} == {0.0}


def test_the_check_changes_nothing() -> None:
    model = Net()
    model.b.eval()
    gm = nrfx.trace(model, X)
    gm.get_submodule("a").eval()
    modes, state = [part.training for part in gm.modules()], torch.get_rng_state()
    tensors = [id(tensor) for tensor in (*gm.parameters(), *gm.buffers())]
    nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), generator=torch.Generator().manual_seed(0))
    assert [part.training for part in gm.modules()] == modes
    assert [id(tensor) for tensor in (*gm.parameters(), *gm.buffers())] == tensors
    assert torch.equal(torch.get_rng_state(), state)


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Net()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out if bool(out.detach().sum() > 0) else -out


def test_parts_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    gm = nrfx.trace(Wrapped(), X, partial=True)
    budget = nrfx.Budget.relative(gm, params=1.0)
    assert not any("compared" in note for note in nrfx.rejuvenate(gm, budget).notes)
    break_build(monkeypatch, "inner.c.bias")
    with pytest.raises(VerificationError, match=r"inner.*differs by"):
        nrfx.rejuvenate(gm, budget)
