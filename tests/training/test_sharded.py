"""Two processes of gloo train one network that fully_shard has cut over them."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.optim import SGD, AdamW, Optimizer

import nrfx
from nrfx.errors import TraceError, TrainingError
from nrfx.training import change
from nrfx.training.rejuvenator import Rejuvenator
from nrfx.training.sharded import _groups
from tests.many import in_processes
from tests.training.test_together import SHAPE, batch, network

MAKERS: dict[str, Any] = {
    "sgd": lambda parameters: SGD(parameters, lr=0.05, momentum=0.9),
    "adamw": lambda parameters: AdamW(parameters, lr=0.01),
}


@torch.no_grad()
def kill(gm: nn.Module) -> None:
    for path in ("1", "4"):
        gamma = gm.get_parameter(f"{path}.weight")
        mask = (torch.arange(gamma.numel()) >= gamma.numel() // 2).float()
        if isinstance(gamma, DTensor):
            start = torch.distributed.get_rank() * -(-gamma.numel() // 2)
            mask = mask[start : start + gamma._local_tensor.numel()]
            gamma._local_tensor.mul_(mask)
        else:
            gamma.mul_(mask)


def whole(tensor: Any) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def trained(rank: int, count: int, optimizer: str, layers: tuple[str, ...] = ()) -> tuple[Any, ...]:
    gm = nrfx.trace(network(1), torch.zeros(2, *SHAPE))
    budget = nrfx.Budget.relative(gm, params=1.0)
    if count > 1:
        for layer in layers:
            fully_shard(gm.get_submodule(layer))
        fully_shard(gm)
    inner: Optimizer = MAKERS[optimizer](gm.parameters())
    new = torch.Generator().manual_seed(rank)
    nr = Rejuvenator(gm, inner, budget, interval=2, max_events=2, delta_lambda=0.01, generator=new).attach()
    for step in range(7):
        if step in (3, 5):
            kill(gm)
        x, y = (part.chunk(count)[rank] for part in batch(step))
        inner.zero_grad()
        F.cross_entropy(gm(x), y).backward()
        inner.step()
    held = [each for group in inner.param_groups for each in group["params"]]
    assert all(a is b for a, b in zip(held, gm.parameters(), strict=True))
    if count > 1:
        assert isinstance(gm, FSDPModule) and all(isinstance(each, DTensor) for each in held)
        assert all(isinstance(gm.get_submodule(layer), FSDPModule) for layer in layers)
    state = [whole(value) for each in held for value in inner.state[each].values()]
    return nr.events, [whole(each) for each in gm.parameters()], state


@pytest.mark.parametrize(("optimizer", "layers"), [("sgd", ("0", "3", "8")), ("adamw", ())])
def test_two_events_give_the_weights_and_states_of_one_process(optimizer: str, layers: tuple[str, ...]) -> None:
    ours, theirs = in_processes(trained, 2, optimizer, layers)
    assert not isinstance(ours, str), ours
    alone = trained(0, 1, optimizer)
    assert ours[0] == alone[0] == 2
    for a, b, c in zip((*ours[1], *ours[2]), (*theirs[1], *theirs[2]), (*alone[1], *alone[2]), strict=True):
        assert torch.equal(a, b) and torch.allclose(a, c, atol=1e-5)


def searched(rank: int, count: int) -> tuple[float, list[torch.Tensor]]:
    """lambda, and the weights after a search in which no two gammas are alike."""
    gm = nrfx.trace(network(1), torch.zeros(2, *SHAPE))
    with torch.no_grad():
        for name, gamma in gm.named_parameters():
            if name.endswith("weight") and gamma.dim() == 1:
                gamma.copy_(torch.linspace(0.2, 2.0, gamma.numel()))
    budget = nrfx.Budget.relative(gm, params=1.0)
    if count > 1:
        fully_shard(gm)
    inner = SGD(gm.parameters(), lr=0.05, momentum=0.9)
    nr = Rejuvenator(gm, inner, budget, trigger=1e-6, interval=1, delta_lambda=0.02, weighted="alike").attach()
    for step in range(6):
        x, y = (part.chunk(count)[rank] for part in batch(step))
        inner.zero_grad()
        F.cross_entropy(gm(x), y).backward()
        inner.step()
    return nr.lam, [whole(each) for each in gm.parameters()]


def test_a_search_pulls_as_that_of_one_process_does() -> None:
    """The mean by which large gammas are spared is that of all, and not of the part that a process has."""
    ours, theirs = in_processes(searched, 2)
    assert not isinstance(ours, str), ours
    alone = searched(0, 1)
    assert ours[0] == theirs[0] == alone[0] > 0.05
    for a, b, c in zip(ours[1], theirs[1], alone[1], strict=True):
        assert torch.equal(a, b) and torch.allclose(a, c, atol=1e-5)


def refused(rank: int) -> list[str]:
    return [error_of(rank, *each) for each in REFUSALS]


def error_of(rank: int, error: type[Exception], arrange: Any) -> str:
    gm = nrfx.trace(network(1), torch.zeros(2, *SHAPE))
    with pytest.raises(error) as raised:
        arrange(gm, nrfx.Budget.relative(gm, params=1.0))
    return str(raised.value)


def given(gm: Any, budget: nrfx.Budget, **options: Any) -> Rejuvenator:
    return Rejuvenator(gm, SGD(gm.parameters(), lr=0.1), budget, interval=1, **options)


def behind(gm: Any, budget: nrfx.Budget) -> None:
    nrfx.utilization(fully_shard(gm))


def held(gm: Any, budget: nrfx.Budget) -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), nn.Flatten(), nn.Linear(144, 2))
    inner = nrfx.trace(model, torch.zeros(2, *SHAPE))
    fully_shard(inner.get_submodule("0"))
    given(inner, budget)


def in_parts(gm: Any, budget: nrfx.Budget) -> None:
    fully_shard(gm.get_submodule("8"))
    given(fully_shard(gm), budget, scheme="removed")


def sideways(gm: Any, budget: nrfx.Budget) -> None:
    given(
        fully_shard(gm, shard_placement_fn=lambda one: Shard(1) if one.dim() == 4 and one.shape[1] == 8 else None),
        budget,
    )


def replaced(gm: Any, budget: nrfx.Budget) -> None:
    given(fully_shard(gm), budget, inplace=False)


REFUSALS = (
    (TraceError, behind),
    (TrainingError, held),
    (TrainingError, in_parts),
    (TrainingError, sideways),
    (TrainingError, replaced),
)


def failing(rank: int) -> tuple[Any, ...]:
    """An event that fails in one process behind the cut leaves all as it was, and training goes on."""
    gm = nrfx.trace(network(1), torch.zeros(2, *SHAPE))
    budget = nrfx.Budget.relative(gm, params=1.0)
    fully_shard(gm.get_submodule("3"))
    fully_shard(gm, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32))
    gm.set_gradient_divide_factor(2.0)
    optimizer = SGD(gm.parameters(), lr=0.05, momentum=0.9)
    nr = Rejuvenator(gm, optimizer, budget, interval=2, wait=5).attach()
    before = list(gm.parameters())

    def steps(count: int) -> None:
        for step in range(count):
            x, y = (part.chunk(2)[rank] for part in batch(step))
            optimizer.zero_grad()
            F.cross_entropy(gm(x), y).backward()
            optimizer.step()

    kill(gm)
    with patch.object(change, "END", "the end" if rank else "an end"), pytest.raises(TrainingError, match="where"):
        steps(2)
    assert all(a is b for a, b in zip(before, gm.parameters(), strict=True)) and nr.events == 0
    assert all(a is b for a, b in zip(before, optimizer.param_groups[0]["params"], strict=True))
    steps(1)
    kill(gm)
    steps(1)  # the measurement at step 4
    (group,) = _groups(gm._get_fsdp_state())
    return (
        nr.events,
        group.gradient_divide_factor,
        str(group.mp_policy.reduce_dtype),
        [whole(p) for p in gm.parameters()],
    )


def test_what_cannot_be_is_refused_and_an_event_that_fails_changes_nothing() -> None:
    texts, other = in_processes(refused)
    assert texts == other, texts
    assert "before fully_shard" in texts[0] and "fully_shard was applied to 0, which the graph" in texts[1]
    assert "alone" in texts[2] and "another axis than its first" in texts[3] and "inplace=False" in texts[4]
    ours, theirs = in_processes(failing)
    assert ours[:3] == (1, 2.0, "torch.float32"), ours
    assert all(torch.equal(a, b) for a, b in zip(ours[3], theirs[3], strict=True))


def test_the_groups_of_a_state_are_found_under_both_names_that_torch_has_given_them() -> None:
    group = object()
    assert _groups(SimpleNamespace(_fsdp_param_groups=[group])) == [group]
    assert _groups(SimpleNamespace(_fsdp_param_group=group)) == [group]
    assert _groups(SimpleNamespace(_fsdp_param_group=None)) == []
