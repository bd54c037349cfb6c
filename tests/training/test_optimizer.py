"""The state of an optimizer after a rejuvenation, against gathers by hand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import StepLR

from nrfx.errors import TrainingError
from nrfx.training.optimizer import check_optimizer, migrate
from tests.training.unknown import Unknown

Dims = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Result:
    """What `migrate` reads of a Rejuvenation."""

    module: nn.Module
    origins: Mapping[str, Dims]
    parents: Mapping[str, str | None]
    factors: Mapping[str, Dims]


def copy_of(module: nn.Module, **changed: Dims) -> Result:
    """A result whose module is `module`, each parameter its own successor."""
    names = [name for name, _ in module.named_parameters()]
    dims = {name: (None,) * parameter.dim() for name, parameter in module.named_parameters()}
    factors = {name: changed.get(name.replace(".", "_"), dims[name]) for name in names}
    return Result(module, dims, dict(zip(names, names, strict=True)), factors)


def widened() -> tuple[nn.Sequential, Result]:
    """Three hidden channels, of which 2 and 0 survive (2 scaled by 4, 0 rewritten) among two new ones."""
    old = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    new = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1))
    hidden = torch.tensor([2, -1, 0, -1])
    scale = torch.tensor([4.0, 1.0, 0.0, 1.0]).double()
    origins = {"0.weight": (hidden, None), "0.bias": (hidden,), "1.weight": (None, hidden), "1.bias": (None,)}
    factors = {"0.weight": (scale, None), "0.bias": (scale,), "1.weight": (None, None), "1.bias": (None,)}
    return old, Result(new, origins, {name: name for name in origins}, factors)


def train(module: nn.Module, optimizer: Optimizer, steps: int = 1) -> None:
    generator = torch.Generator().manual_seed(0)
    first = next(module.parameters())
    for _ in range(steps):
        x = torch.randn(8, first.shape[1], generator=generator, dtype=first.dtype)
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()


# What must not happen


def test_an_optimizer_of_unknown_state_is_refused_and_nothing_changes() -> None:
    old, result = widened()
    unknown, known = Unknown(old[0].parameters()), SGD(old[1].parameters(), lr=0.1)
    train(old, unknown)
    before = list(known.param_groups[0]["params"]), list(unknown.param_groups[0]["params"])
    with pytest.raises(
        TrainingError,
        match=r"Unknown keeps 'trace' of shape \[3, 2\] for 0\.weight.*register_optimizer\(Unknown, \{'trace': 1\}\)"
        r".*clear optimizer\.state",
    ):
        migrate([known, unknown], old, result)
    assert before == (known.param_groups[0]["params"], unknown.param_groups[0]["params"])
    assert set(unknown.state) == set(old[0].parameters())


def test_an_optimizer_of_unknown_kind_is_refused_before_its_first_step() -> None:
    old, _ = widened()
    with pytest.raises(TrainingError, match=r"unknown\.Unknown is no optimizer.*register_optimizer\(Unknown, "):
        check_optimizer([SGD(old.parameters(), lr=0.1), Unknown(old.parameters())])


def test_an_optimizer_that_keeps_single_numbers_alone_needs_no_knowledge() -> None:
    old, result = widened()
    optimizer = Unknown(old.parameters())
    for parameter in old.parameters():
        optimizer.state[parameter] = {"step": torch.tensor(3.0), "norm": torch.ones(1), "name": "a"}
    optimizer.state[old[1].bias] = {"step": 3}  # a parameter of one number: its own shape says nothing
    check_optimizer(optimizer)
    migrate(optimizer, old, result)
    assert optimizer.state[result.module[0].weight]["norm"] == 1


def test_tensors_in_a_list_of_the_state_are_seen() -> None:
    old, result = widened()
    optimizer = SGD(old.parameters(), lr=0.1)
    optimizer.state[old[0].weight]["Q"] = [torch.eye(3), torch.eye(2)]
    with pytest.raises(TrainingError, match=r"SGD keeps 'Q' of shape \[3, 3\] for 0\.weight"):
        migrate(optimizer, old, result)


def test_an_unknown_tensor_in_the_state_of_a_known_optimizer_is_refused() -> None:
    old, result = widened()
    optimizer = SGD(old.parameters(), lr=0.1, momentum=0.9)
    optimizer.state[old[1].bias]["trace"] = torch.zeros(1)
    with pytest.raises(TrainingError, match=r"SGD keeps 'trace' of shape \[1\] for 1\.bias"):
        migrate(optimizer, old, result)


def test_an_unknown_optimizer_without_state_is_carried_over() -> None:
    old, result = widened()
    optimizer = Unknown(old.parameters())
    migrate(optimizer, old, result)
    assert optimizer.param_groups[0]["params"] == list(result.module.parameters())


def test_the_parameters_of_other_modules_are_left_alone() -> None:
    old, result = widened()
    other = nn.Linear(2, 2)
    optimizer = SGD([*other.parameters(), *old.parameters()], lr=0.1, momentum=0.9)
    train(old, optimizer)
    train(other, optimizer)
    kept = optimizer.state[other.weight]["momentum_buffer"]
    migrate(optimizer, old, result)
    assert optimizer.param_groups[0]["params"] == [*other.parameters(), *result.module.parameters()]
    assert optimizer.state[other.weight]["momentum_buffer"] is kept


def test_a_parameter_that_was_not_trained_is_not_added() -> None:
    old, result = widened()
    optimizer = SGD(old[0].parameters(), lr=0.1)
    migrate(optimizer, old, result)
    assert optimizer.param_groups[0]["params"] == list(result.module[0].parameters())


def test_no_trace_of_the_old_parameters_stays_behind() -> None:
    old, result = widened()
    optimizer = Adam(old.parameters())
    train(old, optimizer)
    migrate(optimizer, old, result)
    assert not set(optimizer.state) & set(old.parameters())
    assert set(optimizer.state) == set(result.module.parameters())


# Groups


def test_the_groups_and_their_options_stay_the_same_objects() -> None:
    old, result = widened()
    groups = [{"params": old[0].parameters(), "lr": 0.3}, {"params": old[1].parameters(), "weight_decay": 0.1}]
    optimizer = SGD(groups, lr=0.1)
    held, state = list(optimizer.param_groups), optimizer.state
    options = [{key: value for key, value in group.items() if key != "params"} for group in held]
    migrate(optimizer, old, result)
    assert optimizer.state is state
    assert all(now is then for now, then in zip(optimizer.param_groups, held, strict=True))
    assert options == [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    assert [group["params"] for group in held] == [list(layer.parameters()) for layer in result.module]


def test_a_scheduler_that_holds_the_optimizer_goes_on() -> None:
    old, result = widened()
    optimizer = SGD(old.parameters(), lr=0.8, momentum=0.9)
    scheduler = StepLR(optimizer, step_size=1, gamma=0.5)
    train(old, optimizer)
    scheduler.step()
    migrate(optimizer, old, result)
    before = [parameter.detach().clone() for parameter in result.module.parameters()]
    train(result.module, optimizer)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)
    assert all(not torch.equal(a, b) for a, b in zip(before, result.module.parameters(), strict=True))


def test_a_split_weight_gives_all_its_blocks_to_its_group_at_its_place() -> None:
    old = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False))
    new = nn.Sequential(nn.ParameterList([torch.zeros(1, 2), torch.zeros(2, 2)]), nn.Linear(3, 1, bias=False))
    origins: dict[str, Dims] = {
        "0.0": (torch.tensor([2]), None),
        "0.1": (torch.tensor([0, -1]), None),
        "1.weight": (None, None),
    }
    parents = {"0.0": "0.weight", "0.1": "0.weight", "1.weight": "1.weight"}
    optimizer = SGD(old.parameters(), lr=0.1, momentum=0.9)
    train(old, optimizer)
    buffer = optimizer.state[old[0].weight]["momentum_buffer"]
    migrate(optimizer, old, Result(new, origins, parents, {}))
    assert optimizer.param_groups[0]["params"] == [*new[0], new[1].weight]
    assert torch.equal(optimizer.state[new[0][0]]["momentum_buffer"], buffer[2:3])
    assert torch.equal(optimizer.state[new[0][1]]["momentum_buffer"], torch.stack([buffer[0], torch.zeros(2)]))


def test_a_parameter_without_an_ancestor_joins_the_group_of_its_module_without_state() -> None:
    old = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    new = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=True))
    result = copy_of(new)
    groups = [{"params": old[0].parameters()}, {"params": old[1].parameters()}]
    optimizer = Adam(groups)
    train(old, optimizer)
    migrate(optimizer, old, Result(new, result.origins, {**result.parents, "1.bias": None}, result.factors))
    assert optimizer.param_groups[1]["params"] == [new[1].weight, new[1].bias]
    assert new[1].bias not in optimizer.state
    train(new, optimizer)


def test_tied_parameters_stay_one_entry_of_the_optimizer() -> None:
    old, new = (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2))
    for net in (old, new):
        net[1].weight = net[0].weight
    optimizer = SGD(old.parameters(), lr=0.1, momentum=0.9)
    train(old, optimizer)
    migrate(optimizer, old, copy_of(new))
    assert optimizer.param_groups[0]["params"] == list(new.parameters())


def test_the_names_that_an_optimizer_keeps_follow_its_parameters() -> None:
    old, result = widened()
    optimizer = SGD(old.named_parameters(), lr=0.1)
    migrate(optimizer, old, result)
    assert optimizer.param_groups[0]["param_names"] == [name for name, _ in result.module.named_parameters()]


# Several optimizers, and how they are made


def test_two_optimizers_over_one_network_follow_each_its_own_parameters() -> None:
    old, result = widened()
    matrices, vectors = Muon([old[0].weight, old[1].weight]), AdamW([old[0].bias, old[1].bias])
    both = (matrices, vectors)
    train(old, matrices)
    vectors.step()
    notes = migrate(both, old, result)
    assert matrices.param_groups[0]["params"] == [result.module[0].weight, result.module[1].weight]
    assert vectors.param_groups[0]["params"] == [result.module[0].bias, result.module[1].bias]
    assert set(matrices.state) | set(vectors.state) == set(result.module.parameters())
    assert [note.partition(":")[0] for note in notes] == ["Muon"]
    train(result.module, matrices)
    vectors.step()


def test_a_new_parameter_joins_the_optimizer_of_the_nearest_relative_with_as_many_dims() -> None:
    """Muon takes no vector."""
    old, new = nn.Linear(2, 2), nn.Linear(2, 2)
    new.extra = nn.Parameter(torch.zeros(2))
    result = copy_of(new)
    muon, adam = Muon([old.weight]), AdamW([old.bias])
    migrate([muon, adam], old, Result(new, result.origins, {**result.parents, "extra": None}, result.factors))
    assert len(muon.param_groups[0]["params"]) == 1
    first, second = adam.param_groups[0]["params"]
    assert first is new.bias and second is new.extra


def test_the_old_parameters_may_be_given_by_name() -> None:
    old, result = widened()
    optimizer = SGD(old.parameters(), lr=0.1)
    migrate(optimizer, dict(old.named_parameters(remove_duplicate=False)), result)
    assert optimizer.param_groups[0]["params"] == list(result.module.parameters())


@pytest.mark.parametrize("options", [{"foreach": True}, {"fused": True}, {"maximize": True}])
def test_the_ways_to_compute_a_step_stay_and_go_on(options: dict[str, bool]) -> None:
    old, result = widened()
    optimizer = Adam(old.parameters(), lr=torch.tensor(0.01) if "foreach" not in options else 0.01, **options)
    calls: list[Optimizer] = []
    optimizer.register_step_post_hook(lambda which, *_: calls.append(which))
    train(old, optimizer, 2)
    migrate(optimizer, old, result)
    assert {key: optimizer.param_groups[0][key] for key in options} == options
    before = [parameter.detach().clone() for parameter in result.module.parameters()]
    train(result.module, optimizer)
    assert all(not torch.equal(a, b) for a, b in zip(before, result.module.parameters(), strict=True))
    assert calls == [optimizer] * 3


def test_a_compiled_step_goes_on_with_the_new_parameters() -> None:
    old, result = widened()
    optimizer = SGD(old.parameters(), lr=0.1, momentum=0.9)
    step = torch.compile(optimizer.step, backend="eager")
    for module in (old, result.module):
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)
        before = [parameter.detach().clone() for parameter in module.parameters()]
        step()
        assert all(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
        if module is old:
            migrate(optimizer, old, result)


def test_hooks_of_parameters_are_told() -> None:
    old, result = widened()
    old[0].weight.register_post_accumulate_grad_hook(lambda _: None)
    notes = migrate(SGD(old.parameters(), lr=0.1), old, result)
    assert notes == ("1 parameters had hooks, which their successors have not: register them again.",)


# State


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_gathered_divided_by_the_factor_and_zero_where_new_or_rewritten(nesterov: bool) -> None:
    old, result = widened()
    optimizer = SGD(old.parameters(), lr=0.1, momentum=0.9, nesterov=nesterov)
    train(old, optimizer, 3)
    weight, bias, columns, last = (optimizer.state[p]["momentum_buffer"].clone() for p in old.parameters())
    migrate(optimizer, old, result)
    momenta = [optimizer.state[p]["momentum_buffer"] for p in result.module.parameters()]
    nothing = torch.zeros(2)
    assert torch.equal(momenta[0], torch.stack([weight[2] / 4, nothing, nothing, nothing]))
    assert torch.equal(momenta[1], torch.stack([bias[2] / 4, *torch.zeros(3)]))
    assert torch.equal(
        momenta[2], torch.stack([columns[0, 2], torch.tensor(0.0), columns[0, 0], torch.tensor(0.0)])[None]
    )
    assert torch.equal(momenta[3], last)


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_the_averages_of_adam_are_divided_by_the_factor_and_its_square(kind: type[Adam]) -> None:
    old, result = widened()
    optimizer = kind(old.parameters(), amsgrad=True)
    train(old, optimizer, 3)
    before = {key: value.clone() for key, value in optimizer.state[old[0].weight].items()}
    migrate(optimizer, old, result)
    after = optimizer.state[result.module[0].weight]
    assert float(after["step"]) == 3
    assert after["step"] is not optimizer.state[result.module[0].bias]["step"]
    for key, scale in {"exp_avg": 4, "exp_avg_sq": 16, "max_exp_avg_sq": 16}.items():
        assert torch.equal(after[key][0], before[key][2] / scale)
        assert not after[key][1:].any()
    train(result.module, optimizer)


def test_a_momentum_that_has_not_begun_stays_so() -> None:
    old, result = widened()
    optimizer = SGD(old.parameters(), lr=0.1)
    train(old, optimizer)
    optimizer.state[old[0].weight]["momentum_buffer"] = None
    migrate(optimizer, old, result)
    assert optimizer.state[result.module[0].weight]["momentum_buffer"] is None


def test_factors_along_two_dims_multiply() -> None:
    old, new = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    optimizer = SGD(old.parameters(), lr=0.1, momentum=0.9)
    train(old, optimizer)
    buffer = optimizer.state[old.weight]["momentum_buffer"].clone()
    migrate(optimizer, old, copy_of(new, weight=(torch.tensor([2.0, 1.0]), torch.tensor([1.0, -4.0]))))
    assert torch.equal(
        optimizer.state[new.weight]["momentum_buffer"], buffer / torch.tensor([[2.0, -8.0], [1.0, -4.0]])
    )


def test_the_state_takes_the_layout_in_memory_of_its_parameter() -> None:
    old, new = (nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last) for _ in range(2))
    optimizer = SGD(old.parameters(), lr=0.1, momentum=0.9)
    old(torch.randn(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    result = copy_of(new)
    origins = {**result.origins, "weight": (torch.tensor([3, -1, 0, 1]), None, None, None)}
    migrate(optimizer, old, Result(new, origins, result.parents, result.factors))
    assert optimizer.state[new.weight]["momentum_buffer"].stride() == new.weight.stride()


# Scaling laws


def rescaled_pair(build: Callable[[list[nn.Parameter]], Optimizer]) -> tuple[Tensor, Tensor, Tensor]:
    """The next step of a hidden weight without and with a rescaling by s, in float64, and s [hidden, 1]."""
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    optimizer = build(list(net.parameters()))
    train(net, optimizer, 5)
    twin = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    twin.load_state_dict(net.state_dict())
    s = torch.tensor([0.5, 1.0, 3.0, 10.0]).double()
    with torch.no_grad():
        twin[0].weight.mul_(s[:, None])
        twin[0].bias.mul_(s)
        twin[2].weight.div_(s)
    other = build(list(net.parameters()))
    other.load_state_dict(optimizer.state_dict())
    factors = copy_of(twin, **{"0_weight": (s, None), "0_bias": (s,), "2_weight": (None, 1 / s)})
    migrate(other, net, factors)
    before, twin_before = net[0].weight.detach().clone(), twin[0].weight.detach().clone()
    train(net, optimizer)
    train(twin, other)
    return net[0].weight.detach() - before, twin[0].weight.detach() - twin_before, s[:, None]


@pytest.mark.parametrize("nesterov", [False, True])
def test_after_a_rescaling_by_s_the_next_step_of_sgd_is_the_old_one_divided_by_s(nesterov: bool) -> None:
    step, rescaled, s = rescaled_pair(lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=nesterov))
    assert step.abs().min() > 0
    torch.testing.assert_close(rescaled, step / s, rtol=1e-10, atol=0)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_after_a_rescaling_the_next_step_of_adam_is_the_old_one(amsgrad: bool) -> None:
    """Adam's steps do not depend on the scale of the gradient, but for its eps (taken to be 1e-30 here)."""
    step, rescaled, _ = rescaled_pair(lambda p: Adam(p, lr=0.01, eps=1e-30, amsgrad=amsgrad))
    torch.testing.assert_close(rescaled, step, rtol=1e-8, atol=0)
