"""An event changes the network in place: whoever holds the module, its model or its parameters goes on."""

import copy
import gc
import inspect
import io
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel

import nrfx
from nrfx.errors import RewriteError, TrainingError, TrainingWarning
from nrfx.nn import CrossConv2d
from nrfx.training.events import Event
from nrfx.training.rejuvenator import Rejuvenator
from tests.training.small_loop import contents, equal, kill
from tests.zoo import IMAGE, aux_net, norms, resnet, vgg_bn

X = torch.randn(8, *IMAGE[1:], generator=torch.Generator().manual_seed(1))
Y = torch.randint(5, (8,), generator=torch.Generator().manual_seed(2))


def rejuvenator(given: nn.Module, gm: nrfx.TracedModule, **options: Any) -> tuple[Rejuvenator, SGD]:
    optimizer = SGD(gm.parameters(), lr=0.05, momentum=0.9)
    fixed = {"interval": 1, "max_events": 2, "residual": "coupled", "trigger": 0.9}
    generator = torch.Generator().manual_seed(0)
    budget = nrfx.Budget.relative(gm, params=1.0)
    return Rejuvenator(given, optimizer, budget, **{**fixed, "generator": generator, **options}).attach(), optimizer


def train(
    run: Callable[..., Any], nr: Rejuvenator, optimizer: SGD, steps: int = 14, events: Any = (3, 8)
) -> list[float]:
    """The losses of a loop that knows of no Rejuvenator. In the steps named, 40 % of the channels die."""
    losses = []
    for step in range(steps):
        if step in events:
            kill(nr, 0.4)
        loss = F.cross_entropy(run(X), Y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


WAYS: dict[str, Callable[[nrfx.TracedModule, nn.Module, Any], Callable[..., Any]]] = {
    "the traced module": lambda gm, model, backend: gm,
    "the model": lambda gm, model, backend: model,
    "torch.compile(gm)": lambda gm, model, backend: torch.compile(gm, backend=backend),
    "torch.compile(model)": lambda gm, model, backend: torch.compile(model, backend=backend),
    "model.compile()": lambda gm, model, backend: model.compile(backend=backend) or model,
}


@pytest.mark.parametrize(("way", "scheme"), [
    *((way, "attention") for way in WAYS), ("the model", "removed"), ("the model", "dense"),
])  # fmt: skip
def test_whoever_holds_the_network_trains_it_across_two_events_and_compiles_it_once_for_each(
    way: str, scheme: str
) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = vgg_bn() if "compile" in way else resnet()
    gm = nrfx.trace(model, torch.zeros(IMAGE))
    counter = CompileCounter()
    run = WAYS[way](gm, model, counter)
    nr, optimizer = rejuvenator(gm, gm, scheme=scheme)
    losses = train(run, nr, optimizer)
    assert nr.events == 2 and nr.module is gm
    assert losses[-1] < losses[9]
    assert counter.frame_count == (3 if "compile" in way else 0)
    for holder in (run, gm, model):
        assert torch.allclose(holder(X), run(X), atol=1e-5)
    assert {p for group in optimizer.param_groups for p in group["params"]} == set(model.parameters())


def test_an_event_in_place_is_the_event_that_replaces_the_module() -> None:
    torch.manual_seed(0)
    model = resnet()
    twin = copy.deepcopy(model)
    one = rejuvenator(gm := nrfx.trace(model, torch.zeros(IMAGE)), gm)
    other = rejuvenator(gm := nrfx.trace(twin, torch.zeros(IMAGE)), gm, inplace=False)
    losses = [train(lambda x, nr=nr: nr.module(x), nr, optimizer) for nr, optimizer in (one, other)]
    assert losses[0] == losses[1]
    assert one[0].module is not other[0].module
    for a, b in zip(one[0].module.state_dict().items(), other[0].module.state_dict().items(), strict=True):
        assert a[0] == b[0] and torch.equal(a[1], b[1])


def test_parameters_modules_hooks_and_attributes_stay_the_same_objects() -> None:
    model = resnet()
    gm = nrfx.trace(model, torch.zeros(IMAGE))
    nr, optimizer = rejuvenator(gm, gm, trigger=1.0)
    parameters, modules = dict(gm.named_parameters()), dict(gm.named_modules())
    conv, seen = model.layer1[0].conv1, []
    conv.note = object()
    note = conv.note
    parameters["layer1.0.conv1.weight"].register_post_accumulate_grad_hook(lambda p: seen.append(tuple(p.shape)))
    kill(nr, 0.4)
    with torch.no_grad():
        model.layer1[0].bn1.weight[:6] = 0  # so that widths are not what they were
    held = F.cross_entropy(gm(X), Y)  # a loss that is kept keeps the graph of before
    held.backward()
    optimizer.step()
    assert isinstance(nr.last, Event)
    F.cross_entropy(gm(X), Y).backward()
    now = dict(gm.named_parameters())
    assert all(now[name] is parameter for name, parameter in parameters.items() if name in now)
    assert all(gm.get_submodule(path) is module for path, module in modules.items())
    assert conv is gm.get_submodule("layer1.0.conv1") is model.layer1[0].conv1
    assert type(conv) is CrossConv2d and conv.note is note
    assert (
        seen[0]
        != seen[1]
        == tuple(now["layer1.0.conv1.weight"].shape)
        == tuple(now["layer1.0.conv1.weight"].grad.shape)
    )


def test_a_model_of_the_users_own_is_traced_joined_and_runs_on_as_its_graphs() -> None:
    model = resnet()
    optimizer = SGD(model.parameters(), lr=0.05)
    budget = nrfx.Budget.relative(model, params=1.0, example_inputs=X)
    nr = Rejuvenator(model, optimizer, budget, interval=1, trigger=0.9, example_inputs=X).attach()
    kill(nr, 0.4)
    F.cross_entropy(model(X), Y).backward()
    optimizer.step()
    assert nr.events == 1 and model.state_dict().keys() == nr.module.state_dict().keys()
    again = Rejuvenator(torch.compile(model, backend="eager"), optimizer, budget)
    assert again.module is nr.module


def test_a_compiled_model_changes_its_mode_after_an_event() -> None:
    model = vgg_bn()
    gm = nrfx.trace(model, torch.zeros(IMAGE))
    nr, optimizer = rejuvenator(gm, gm)
    run = torch.compile(model, backend="eager")
    train(run, nr, optimizer, 2, (0,))
    assert nr.events == 1
    run.eval()
    with torch.no_grad():
        assert torch.equal(run(X), model(X)) and not gm.training
    assert run.train()(X).requires_grad and gm.training


def test_a_model_after_an_event_is_copied_saved_switched_and_converted_like_any_other() -> None:
    model = resnet()
    gm = nrfx.trace(model, torch.zeros(IMAGE))
    nr, optimizer = rejuvenator(gm, gm)
    train(model, nr, optimizer, 6, (4,))
    model.eval()
    expected = model(X)
    twin, file = copy.deepcopy(model), io.BytesIO()
    torch.save(model, file)
    loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    assert torch.equal(twin(X), expected) and torch.equal(loaded(X), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.1)
    assert torch.equal(model(X), expected) and not torch.allclose(twin(X), expected)
    frozen = model.get_submodule("bn1")
    model.train()
    frozen.eval()
    model(X)
    assert gm.training and not frozen.training
    expected = model.eval()(X).double()
    assert torch.allclose(model.double()(X.double()), expected, atol=1e-4)


def test_modes_with_graphs_of_their_own_follow_the_model() -> None:
    model = aux_net()
    gm = nrfx.trace(model, torch.zeros(IMAGE))
    nr, optimizer = rejuvenator(gm, gm)
    kill(nr, 0.4)
    F.cross_entropy(model(X)[0], Y).backward()
    optimizer.step()
    assert nr.events == 1
    assert isinstance(model.train()(X), tuple) and isinstance(model.eval()(X), torch.Tensor)


class Routed(nn.Module):
    """A part that can be traced, behind a decision on values."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = vgg_bn(), nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        return self.head(x) if float(x.detach().sum()) > -1e9 else x


def test_a_model_in_parts_is_changed_in_place_too() -> None:
    model = Routed()
    gm = nrfx.trace(model, torch.zeros(IMAGE), partial=True)
    assert isinstance(gm, nrfx.tracing.PartialModule)
    nr, optimizer = rejuvenator(gm, gm)
    losses = train(model, nr, optimizer, 14, (4,))
    assert nr.events == 1 and losses[-1] < losses[0]
    assert torch.equal(model.eval()(X), gm.eval()(X))


def test_a_model_that_has_other_tensors_by_now_is_left_alone_with_a_warning() -> None:
    model = resnet()
    gm = nrfx.trace(model, torch.zeros(IMAGE))
    head = model.fc = nn.Linear(model.fc.in_features, 5)
    with pytest.warns(TrainingWarning, match=r"ResNet .* no longer share fc\.weight: an event will not change"):
        nr, optimizer = rejuvenator(gm, gm)
    train(gm, nr, optimizer, 6, (4,))
    assert nr.events == 1 and model.fc is head and "forward" not in vars(model)


def test_without_inplace_the_old_module_stays_and_its_loss_is_an_error_in_the_next_step() -> None:
    gm = nrfx.trace(resnet(), torch.zeros(IMAGE))
    nr, optimizer = rejuvenator(gm, gm, inplace=False)
    kill(nr, 0.4)
    with pytest.raises(
        nrfx.TrainingError, match="no gamma has a gradient: the loss was not computed with this network"
    ):
        train(gm, nr, optimizer, 4, ())
    assert nr.events == 1 and nr.module is not gm


PLACES = (
    "change.migrate",
    "in_place.hold_instead",
    "in_place.follow",
    "rejuvenator.Watched",
    "rejuvenator.Whole.cut_again",
)


@pytest.mark.parametrize("error", [RewriteError, KeyboardInterrupt])
def test_an_event_that_fails_anywhere_leaves_model_module_and_optimizer_as_they_were(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = resnet()
    gm = nrfx.trace(model, torch.zeros(IMAGE))
    nr, optimizer = rejuvenator(gm, gm, penalty="sign")  # which moves nothing in `step`
    train(model, nr, optimizer, 3)
    kinds = {path: type(module) for path, module in model.named_modules()}
    kill(nr, 0.4)
    with torch.no_grad():
        model.layer1[0].bn1.weight[:6] = 0  # so that widths change
    before = contents(nr, optimizer)
    expected = model(X)

    def fails(*_: object, **__: object) -> None:
        raise error("no")

    nr.detach()
    for place in PLACES:
        nr.penalize()
        with monkeypatch.context() as patched, pytest.raises(error):
            patched.setattr(f"nrfx.training.{place}", fails)
            nr.step()
        assert equal(before, contents(nr, optimizer)), place
        assert {path: type(module) for path, module in model.named_modules()} == kinds, place
        assert torch.equal(model(X), expected) and torch.equal(gm(X), expected), place
        assert all(mask.shape == gm.get_parameter(name).shape for name, mask in nr._watched.penalty.gammas.items())
    nr.penalize()
    assert isinstance(nr.step(), Event)
    assert len(list(norms(gm))) == len(list(norms(model)))


# Followers


@pytest.mark.parametrize("scheme", ["attention", "removed", "dense"])
def test_averages_and_teachers_follow_in_place_and_compute_what_they_did(scheme: str) -> None:
    torch.manual_seed(0)
    model = resnet()
    gm = nrfx.trace(model, torch.zeros(IMAGE))
    average, of_model, teacher = AveragedModel(gm), AveragedModel(model), copy.deepcopy(model).requires_grad_(False)
    followers = [average, of_model, teacher]
    nr, optimizer = rejuvenator(gm, gm, scheme=scheme, followers=followers)
    held = [list(follower.parameters()) for follower in followers]
    for event in range(2):
        losses = train(model, nr, optimizer, 3, ())
        average.update_parameters(gm), of_model.update_parameters(model)
        kill(nr, 0.4)
        for follower in (average.module, of_model.module, teacher):
            for norm in norms(follower):
                norm.weight.data[: int(norm.num_features * 0.4)] = 0
        expected = [follower.eval()(X) for follower in followers]
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
        assert nr.events == event + 1 and all(math.isfinite(loss) for loss in losses)
        for follower, before in zip(followers, expected, strict=True):
            assert torch.allclose(follower(X), before, atol=1e-5)
    now = {id(p) for follower in followers for p in follower.parameters()}
    assert scheme == "removed" or all(id(p) in now for parameters in held for p in parameters)
    average.update_parameters(gm)
    assert int(average.n_averaged) == 3 and not any(p.requires_grad for p in teacher.parameters())


def test_a_follower_of_another_network_stops_the_event_and_nothing_has_changed() -> None:
    gm = nrfx.trace(resnet(), torch.zeros(IMAGE))
    nr, optimizer = rejuvenator(gm, gm, followers=[AveragedModel(vgg_bn())])
    kill(nr, 0.4)
    before = contents(nr, optimizer)
    with pytest.raises(nrfx.TrainingError, match="The twin has"):
        train(gm, nr, optimizer, 1, ())
    assert nr.module is before["module"] and nr.events == 0
    with pytest.raises(nrfx.TrainingError, match="followers holds 3"):
        rejuvenator(gm, gm, followers=[3])


@pytest.mark.parametrize("scheme", ["attention", "removed"])
def test_an_optimizer_over_all_parameters_holds_them_in_the_order_of_the_network(scheme: str) -> None:
    """For torch saves the state of an optimizer by positions."""
    gm = nrfx.trace(resnet(), torch.zeros(IMAGE))
    nr, optimizer = rejuvenator(gm, gm, scheme=scheme)
    train(gm, nr, optimizer)
    assert nr.events == 2
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in gm.parameters()]
    fresh = SGD(gm.parameters(), lr=0.05, momentum=0.9)
    fresh.load_state_dict(optimizer.state_dict())
    for parameter in gm.parameters():
        assert torch.equal(fresh.state[parameter]["momentum_buffer"], optimizer.state[parameter]["momentum_buffer"])


def test_a_run_that_is_loaded_goes_on_in_place_for_whoever_holds_the_model(tmp_path: Path) -> None:
    def fresh() -> tuple[nn.Module, Rejuvenator, SGD]:
        torch.manual_seed(0)
        model = resnet()
        gm = nrfx.trace(model, torch.zeros(IMAGE))
        return model, *rejuvenator(gm, gm, max_events=1)

    model, nr, optimizer = fresh()
    train(model, nr, optimizer, 6, (4,))
    nrfx.save(tmp_path / "run", nr.module, optimizer, nr)
    rest = train(model, nr, optimizer, 4, ())
    again, resumed, other = fresh()
    held = dict(again.named_parameters())
    loaded = nrfx.load(tmp_path / "run", resumed.module, other, resumed)
    assert loaded is resumed.module and torch.equal(loaded.eval()(X), again.eval()(X))
    assert all(dict(again.named_parameters())[name] is parameter for name, parameter in held.items())
    again.train()
    assert train(again, resumed, other, 4, ()) == rest and resumed.events == 1


def test_a_forward_that_is_wrapped_after_the_trace_is_refused_and_one_wrapped_behind_an_event_goes_on() -> None:
    model = resnet()
    gm = nrfx.trace(model, torch.zeros(IMAGE))
    nr, optimizer = rejuvenator(gm, gm)
    own = model.forward
    model.forward = lambda x: own(x).float()  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"The forward of \w+ was replaced by .*lambda.* after the trace"):
        train(gm, nr, optimizer, 6, (4,))
    assert nr.events == 0
    del model.forward
    train(model, nr, optimizer, 2, ())
    assert nr.events == 1
    graphs = model.forward
    model.forward = lambda x: 2 * graphs(x)  # type: ignore[method-assign]
    train(gm, nr, optimizer, 6, (1,))
    assert nr.events == 2 and torch.allclose(model(X), 2 * gm(X))


def test_a_model_that_runs_its_graphs_has_the_signature_of_its_own_forward() -> None:
    model = resnet()
    gm = nrfx.trace(model, torch.zeros(IMAGE))
    before = inspect.signature(model.forward)
    train(model, *rejuvenator(gm, gm), 6, (4,))
    assert "forward" in vars(model) and inspect.signature(model.forward) == before


def test_a_network_that_an_event_replaced_is_kept_by_nobody() -> None:
    nr, optimizer = rejuvenator(gm := nrfx.trace(resnet(), torch.zeros(IMAGE)), gm, inplace=False)
    gone = weakref.ref(gm)
    del gm
    for number in range(6):
        train(nr.module, nr, optimizer, 1, (0,) if number == 4 else ())
    assert nr.events == 1
    gc.collect()
    assert gone() is None
