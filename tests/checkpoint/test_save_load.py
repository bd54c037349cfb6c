"""save and load: what fits goes on as if it had never been away."""

import functools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, fx, nn
from torch.optim import SGD, AdamW, Optimizer

import nrfx
from benchmarks.soundness import trained
from nrfx.errors import CheckpointError
from nrfx.nn import CrossConv2d
from nrfx.training.optimizer import migrate
from nrfx.training.rejuvenator import Rejuvenator
from tests.checkpoint.saved import MODELS, assert_same, damage, image, rejuvenated
from tests.zoo import IMAGE, calibrated, cbr, mobilenet, norms, resnet, vgg_bn, with_dead


@pytest.mark.parametrize(
    ("name", "scheme"),
    [*((name, "attention") for name in MODELS), *((name, "removed") for name in MODELS), ("mobilenet", "dense")],
)
def test_a_rejuvenated_network_comes_back_equal(tmp_path: Path, name: str, scheme: str) -> None:
    gm = rejuvenated(MODELS[name], scheme)
    nrfx.save(tmp_path / "net", gm)
    fresh = MODELS[name]()
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    loaded = nrfx.load(tmp_path / "net", fresh)
    assert_same(gm, loaded, image())
    assert nrfx.utilization(loaded).to_json() == nrfx.utilization(gm).to_json()
    assert all(torch.equal(before[key], value) for key, value in fresh.state_dict().items())


@pytest.mark.parametrize("scheme", ["attention", "removed"])
def test_two_rejuvenations_in_a_row_come_back_equal_and_can_be_followed_by_a_third(tmp_path: Path, scheme: str) -> None:
    gm = rejuvenated(resnet, scheme, times=2)
    generations = max(len(m.in_generations) for m in gm.modules() if isinstance(m, CrossConv2d))
    assert generations == 3
    nrfx.save(tmp_path / "net", gm)
    loaded = nrfx.load(tmp_path / "net", resnet())
    assert_same(gm, loaded, image())
    budget = nrfx.Budget.relative(loaded, params=1.2)
    result = nrfx.rejuvenate(loaded, budget)
    nrfx.verify(loaded, result, image())


def test_an_unchanged_network_comes_back_equal(tmp_path: Path) -> None:
    gm = nrfx.trace(mobilenet(), image(torch.float32))
    nrfx.save(tmp_path / "net", gm)
    assert_same(gm, nrfx.load(tmp_path / "net", mobilenet()), image(torch.float32))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_stored_dtype_comes_back_into_a_float32_model(tmp_path: Path, dtype: torch.dtype) -> None:
    gm = nrfx.compact(nrfx.trace(with_dead(resnet()).to(dtype), image(dtype))).module
    nrfx.save(tmp_path / "net", gm)
    fresh = resnet()
    assert_same(gm, nrfx.load(tmp_path / "net", fresh), image(dtype))
    assert fresh.conv1.weight.dtype == torch.float32


def test_channels_last_comes_back_as_channels_last(tmp_path: Path) -> None:
    gm = rejuvenated(resnet).to(memory_format=torch.channels_last)
    nrfx.save(tmp_path / "net", gm)
    assert_same(gm, nrfx.load(tmp_path / "net", resnet()), image())


def test_frozen_parameters_and_modes_come_back(tmp_path: Path) -> None:
    gm = rejuvenated(resnet).train()
    gm.get_submodule("bn1").eval()
    gm.get_parameter("fc.weight").requires_grad_(False)
    nrfx.save(tmp_path / "net", gm)
    loaded = nrfx.load(tmp_path / "net", resnet())
    assert loaded.training and not loaded.get_submodule("bn1").training
    assert_same(gm, loaded, image())


class Tied(nn.Module):
    """Two heads that share their weight, and one of them under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.body = vgg_bn(classes=6)
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight, self.again = self.a.weight, self.a

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.a(x) + self.b(x).relu() + self.again(x).tanh()


def test_tied_parameters_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    gm = rejuvenated(Tied)
    nrfx.save(tmp_path / "net", gm)
    loaded = nrfx.load(tmp_path / "net", Tied())
    assert loaded.get_parameter("a.weight") is loaded.get_parameter("b.weight")
    assert loaded.get_submodule("again") is loaded.get_submodule("a")
    assert not {"b.weight", "again.weight"} & load_file(tmp_path / "net").keys()
    assert_same(gm, loaded, image())


def slashed(name: str = "body/norm") -> nn.Module:
    """A network whose layers have names with slashes, as those of some papers' code do."""
    torch.manual_seed(0)
    layers = {"conv": nn.Conv2d(3, 8, 3), name: nn.BatchNorm2d(8), "act": nn.ReLU(), "head/conv": nn.Conv2d(8, 2, 1)}
    return nn.Sequential(OrderedDict(layers))


def test_names_may_hold_slashes_but_not_begin_as_the_other_parts_of_a_file(tmp_path: Path) -> None:
    gm = nrfx.trace(with_dead(slashed()), image(torch.float32))
    gm = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0)).module
    optimizer = SGD(gm.parameters(), lr=0.1, momentum=0.9)
    gm(image(torch.float32)).square().sum().backward()
    optimizer.step()
    nrfx.save(tmp_path / "net", gm, optimizer, extra={"a/b": torch.ones(2)})
    fresh, found = slashed(), dict[str, Any]()
    other = SGD(fresh.parameters(), lr=0.1, momentum=0.9)
    loaded = nrfx.load(tmp_path / "net", fresh, other, extra=found)
    assert_same(gm, loaded, image(torch.float32))
    ours, theirs = (one.state[net.get_parameter("body/norm.weight")] for one, net in ((optimizer, gm), (other, loaded)))
    assert torch.equal(ours["momentum_buffer"], theirs["momentum_buffer"]) and torch.equal(found["a/b"], torch.ones(2))
    with pytest.raises(CheckpointError, match=r"begin with optimizer/, rejuvenator/, extra/.* extra/norm\.bias, extra"):
        nrfx.save(tmp_path / "other", nrfx.trace(slashed("extra/norm"), image(torch.float32)))


def test_ties_that_the_model_cannot_have_are_refused(tmp_path: Path) -> None:
    model = Tied()
    model.again = nn.Linear(6, 6)
    nrfx.save(tmp_path / "net", nrfx.trace(model, image(torch.float32)))
    with pytest.raises(CheckpointError, match=r"not tied in the same way in the model: again"):
        nrfx.load(tmp_path / "net", Tied())


def test_a_graph_module_of_the_users_own_is_saved_and_loaded_into(tmp_path: Path) -> None:
    gm = fx.symbolic_trace(calibrated(vgg_bn()))
    next(iter(gm.graph.nodes)).meta["val"] = image()
    nrfx.save(tmp_path / "net", gm)
    for model in (fx.symbolic_trace(vgg_bn()), vgg_bn(), nrfx.trace(vgg_bn(), image(torch.float32))):
        torch.testing.assert_close(nrfx.load(tmp_path / "net", model)(image()), gm(image()), rtol=0, atol=0)


def test_a_model_without_data_is_loaded_on_the_cpu(tmp_path: Path) -> None:
    gm = rejuvenated(resnet)
    nrfx.save(tmp_path / "net", gm)
    with torch.device("meta"):
        fresh = resnet()
    assert_same(gm, nrfx.load(tmp_path / "net", fresh), image())


def test_a_file_replaces_another_also_the_one_that_was_loaded(tmp_path: Path) -> None:
    nrfx.save(tmp_path / "net", rejuvenated(resnet, "dense"))
    gm = rejuvenated(resnet)
    first = nrfx.load(tmp_path / "net", resnet())
    nrfx.save(tmp_path / "net", gm)
    assert_same(first, first, image())
    assert_same(gm, nrfx.load(tmp_path / "net", resnet()), image())
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


# A run that goes on


def train(module: nn.Module, optimizer: Optimizer, steps: range, nr: Rejuvenator | None = None) -> None:
    trained.train(trained.Company(module, optimizer, nr), steps, (4, *IMAGE[1:]))


def sgd(module: nn.Module) -> Optimizer:
    return SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4, nesterov=True)


def adamw(module: nn.Module) -> Optimizer:
    return AdamW(module.parameters(), lr=1e-3, betas=(0.8, 0.99), amsgrad=True)


def in_two_groups(module: nn.Module) -> Optimizer:
    norms = [p for name, p in module.named_parameters() if p.dim() == 1]
    rest = [p for name, p in module.named_parameters() if p.dim() > 1]
    return SGD([{"params": rest, "lr": 0.1}, {"params": norms, "weight_decay": 0.0}], lr=0.05, momentum=0.9)


def by_name(module: nn.Module) -> Optimizer:
    return AdamW(module.named_parameters(), lr=torch.tensor(1e-3), foreach=False)


@pytest.mark.parametrize(
    ("make", "remake", "scheme"),
    [
        (sgd, sgd, "attention"),
        (sgd, sgd, "removed"),
        (adamw, adamw, "attention"),
        (adamw, adamw, "removed"),
        (in_two_groups, in_two_groups, "removed"),
        (in_two_groups, sgd, "removed"),
        (by_name, by_name, "removed"),
    ],
)
def test_training_goes_on_as_if_it_had_never_stopped(
    tmp_path: Path, make: Callable[..., Optimizer], remake: Callable[..., Optimizer], scheme: str
) -> None:
    gm = nrfx.trace(with_dead(resnet()).train(), image(torch.float32))
    optimizer = make(gm)
    train(gm, optimizer, range(2))
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.1), scheme=scheme)
    migrate(optimizer, gm, result)
    train(result.module, optimizer, range(2, 4))
    optimizer.param_groups[0]["lr"] *= 0.5
    nrfx.save(tmp_path / "net", result.module, optimizer)

    fresh = resnet()
    resumed = remake(fresh)
    loaded = nrfx.load(tmp_path / "net", fresh, resumed)
    train(result.module, optimizer, range(4, 7))
    train(loaded, resumed, range(4, 7))
    assert_same(result.module.eval(), loaded.eval(), image(torch.float32))
    assert [len(g["params"]) for g in resumed.param_groups] == [len(g["params"]) for g in optimizer.param_groups]
    assert resumed.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def rejuvenator(module: nn.Module, optimizer: Optimizer) -> Rejuvenator:
    return Rejuvenator(module, optimizer, nrfx.Budget(params=9_000), 0.9, 3, threshold=0.1, max_events=2, until=9)


def train_to_an_event(nr: Rejuvenator, steps: range) -> None:
    """Kills half of the channels, and trains over the next measurement and a step beyond."""
    with torch.no_grad():
        for norm in norms(nr.module):
            norm.weight[::2] = 0
    torch.manual_seed(5)
    train(nr.module, nr.optimizer, steps, nr)


def test_a_rejuvenator_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    gm = nrfx.trace(resnet().train(), image(torch.float32))
    nr = rejuvenator(gm, SGD(gm.parameters(), lr=1e-3, momentum=0.9))
    train_to_an_event(nr, range(4))
    assert nr.events == 1
    nrfx.save(tmp_path / "net", nr.module, nr.optimizer, nr)

    fresh = nrfx.trace(resnet().train(), image(torch.float32))
    resumed = rejuvenator(fresh, SGD(fresh.parameters(), lr=1e-3, momentum=0.9))
    loaded = nrfx.load(tmp_path / "net", fresh, resumed.optimizer, resumed)
    assert resumed.module is loaded
    assert resumed.state_dict() == nr.state_dict()
    train_to_an_event(nr, range(4, 8))
    train_to_an_event(resumed, range(4, 8))
    assert nr.events == 2
    assert resumed.state_dict() == nr.state_dict()
    assert_same(nr.module.eval(), resumed.module.eval(), image(torch.float32))


def test_what_the_last_measurement_found_of_the_gammas_goes_along(tmp_path: Path) -> None:
    gm = nrfx.trace(resnet().train(), image(torch.float32))
    nr = rejuvenator(gm, SGD(gm.parameters(), lr=1e-3, momentum=0.9))
    train_to_an_event(nr, range(3))
    train(nr.module, nr.optimizer, range(3, 7), nr)
    saved = nr.state_dict()
    assert nr.events == 1 and saved.get("mean") and saved.get("weights")
    nrfx.save(tmp_path / "net", nr.module, nr.optimizer, nr)

    fresh = nrfx.trace(resnet().train(), image(torch.float32))
    resumed = rejuvenator(fresh, SGD(fresh.parameters(), lr=1e-3, momentum=0.9))
    nrfx.load(tmp_path / "net", fresh, resumed.optimizer, resumed)
    assert resumed.module is fresh and resumed.state_dict() == saved


def test_a_rejuvenator_state_that_is_refused_leaves_the_optimizer_alone(tmp_path: Path) -> None:
    gm = nrfx.trace(resnet(), image(torch.float32))
    optimizer = sgd(gm)
    nr = rejuvenator(gm, optimizer)
    nrfx.save(tmp_path / "net", gm, optimizer, nr)
    damage(tmp_path / "net", lambda content, _: content["rejuvenator"]["dict"].pop("lam"))
    with pytest.raises(CheckpointError, match="rejuvenator's state is refused"):
        nrfx.load(tmp_path / "net", gm, optimizer, nr)
    assert nr.module is gm
    assert all(a is b for a, b in zip(optimizer.param_groups[0]["params"], gm.parameters(), strict=True))


def _with_answers(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A decorator that gives an argument by name, whatever the caller gave."""

    @functools.wraps(forward)
    def wrapped(self: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        return forward(self, *args, **{"doubled": True, **kwargs})

    return wrapped


class Decorated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = cbr(3, 8)

    @_with_answers
    def forward(self, x: Tensor, mask: Tensor | None = None, doubled: bool | None = None) -> Tensor:
        x = self.body(x) if mask is None else self.body(x * mask)
        return x * 2 if doubled else x


def test_an_argument_that_a_decorator_gives_is_not_given_twice(tmp_path: Path) -> None:
    model, x = Decorated().eval(), torch.randn(2, 3, 6, 6)
    nrfx.save(tmp_path / "one", nrfx.trace(model, x))
    nrfx.save(tmp_path / "two", nrfx.trace(model, (x, x.abs())))
    assert torch.equal(nrfx.load(tmp_path / "one", Decorated().eval())(x), model(x))
    assert torch.equal(nrfx.load(tmp_path / "two", Decorated().eval())(x, x.abs()), model(x, x.abs()))
