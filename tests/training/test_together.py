"""Two processes of gloo train one network: one decision, the same weights, and an error in both where one differs."""

import hashlib
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

import nrfx
from nrfx.errors import TrainingError
from nrfx.training import change
from nrfx.training.rejuvenator import Rejuvenator
from nrfx.training.restart import restart
from tests.many import in_processes

SHAPE = (3, 8, 8)


def network(groups: int = 0) -> nn.Module:
    """Two convolutions with batch norms, or group norms of one channel each (then a batch can be cut in parts)."""

    def norm(width: int) -> nn.Module:
        return nn.GroupNorm(width, width) if groups else nn.BatchNorm2d(width)

    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1, bias=False), norm(8), nn.ReLU()),
        *(nn.Conv2d(8, 6, 3, padding=1, bias=False), norm(6), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)),
    )


@torch.no_grad()
def kill(gm: nn.Module) -> None:
    for path in ("1", "4"):
        gamma = gm.get_parameter(f"{path}.weight")
        gamma[: gamma.numel() // 2] = 0


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, *SHAPE, generator=generator), torch.randint(4, (8,), generator=generator)


def rejuvenator(gm: Any, optimizer: Any, inside: Any = None, **options: Any) -> Rejuvenator:
    budget = nrfx.Budget.relative(gm if inside is None else inside, params=1.0)
    return Rejuvenator(gm, optimizer, budget, **{"interval": 2, "max_events": 2, **options}).attach()


def digest(module: nn.Module, buffers: bool = True) -> str:
    whole = hashlib.sha256()
    for name, tensor in (*module.named_parameters(), *(module.named_buffers() if buffers else ())):
        whole.update(name.encode() + tensor.detach().numpy().tobytes())
    return whole.hexdigest()


def trained(rank: int, count: int, groups: int = 1, wrap: str = "given") -> tuple[Any, ...]:
    """Six steps with two events, in DDP or in one process; the generator of new weights differs by process."""
    gm = nrfx.trace(network(groups), torch.zeros(2, *SHAPE))
    optimizer = SGD(gm.parameters(), lr=0.05, momentum=0.9)
    model: nn.Module = gm
    if wrap == "given":
        model = DistributedDataParallel(gm)
        model.register_comm_hook(None, allreduce_hook)
    seen: list[Any] = []
    nr = rejuvenator(model, optimizer, gm, generator=torch.Generator().manual_seed(rank), on_event=seen.append)
    if wrap == "behind":  # as a trainer does it
        model = DistributedDataParallel(gm, static_graph=True, gradient_as_bucket_view=True)
    reducer = getattr(model, "reducer", None)
    for step in range(6):
        if step in (1, 3):
            kill(gm)
        x, y = (part.chunk(count)[rank] for part in batch(step))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert nr.module is gm
    if wrap:
        assert getattr(model, "reducer", None) is not reducer
        assert isinstance(model, DistributedDataParallel) and len(model._comm_hooks) == (wrap == "given")
    return [event.step for event in seen], digest(gm), [each.detach().clone() for each in gm.parameters()]


def test_ddp_goes_on_through_two_events_with_the_weights_of_one_process() -> None:
    (steps, one, weights), (_, other, _) = in_processes(trained, 2)
    assert steps == [2, 4] and one == other
    _, _, alone = trained(0, 1, wrap="")
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(weights, alone, strict=True))


def test_a_wrapper_that_somebody_else_made_is_found_and_each_process_may_have_statistics_of_its_own() -> None:
    (steps, _, ours), (_, _, theirs) = in_processes(trained, 2, 0, "behind")
    assert steps == [2, 4] and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def pulled(rank: int) -> list[dict[str, list[float]]]:
    """Weights of the penalty, at the first step and behind a measurement, where a constant is held in one process."""
    torch.manual_seed(0)

    def depthwise(width: int) -> list[nn.Module]:
        return [nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU()]

    def unit(i: int, o: int, kernel: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(o), nn.ReLU()]

    head = [*unit(16, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    net = nn.Sequential(*unit(3, 16, 3), *depthwise(16), *depthwise(16), *head)
    with torch.no_grad():
        net[1].weight[:8], net[1].bias[:] = 0, -0.1
    gm = nrfx.trace(net, torch.zeros(2, *SHAPE))
    model = DistributedDataParallel(gm, broadcast_buffers=False)
    gm.get_buffer("4.running_mean").fill_(-0.5 if rank else 0.5)
    gm.get_submodule("4").momentum = 0.001
    optimizer = SGD(model.parameters(), lr=0.05)
    nr = rejuvenator(model, optimizer, gm, interval=2, trigger=0.01, delta_lambda=0.05, wait=5)
    found = []
    for count in (1, 3):
        steps(model, optimizer, rank, count)
        found.append({name: weight.tolist() for name, weight in nr._watched.penalty.weights.items()})
        with torch.no_grad():
            net[1].weight[8:10] = 0
    return found


def test_processes_pull_gammas_alike_whatever_their_own_statistics_say() -> None:
    ours, theirs = in_processes(pulled)
    assert [list(each) for each in ours] == [["1.weight", "4.weight", "7.weight", "10.weight"]] * 2, ours
    assert ours == theirs and ours[0] != ours[1]


def differing(rank: int) -> list[str]:
    """The errors of processes that differ in their interval, weights, steps and in how an event goes."""
    return [error_of(work, rank) for work in (other_interval, other_weights, other_steps, failing_event, absent)]


def error_of(work: Any, rank: int) -> str:
    try:
        work(rank)
    except TrainingError as error:
        return str(error)
    return "no error"


def set_up(rank: int, ddp: bool = True, **options: Any) -> tuple[Any, Any, Any]:
    gm = nrfx.trace(network(), torch.zeros(2, *SHAPE))
    optimizer = SGD(gm.parameters(), lr=0.05, momentum=0.9)
    model = DistributedDataParallel(gm) if ddp else gm
    return model, optimizer, rejuvenator(model, optimizer, gm, **{"wait": 3, **options})


def steps(model: nn.Module, optimizer: Any, rank: int, count: int) -> None:
    for step in range(count):
        x, y = (part.chunk(2)[rank] for part in batch(step))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def other_interval(rank: int) -> None:
    model, optimizer, _ = set_up(rank, interval=2 + rank)
    steps(model, optimizer, rank, 6)


def other_weights(rank: int) -> None:
    model, optimizer, _ = set_up(rank, ddp=False)
    steps(model, optimizer, rank, 6)


def other_steps(rank: int) -> None:
    model, optimizer, nr = set_up(rank)
    steps(model, optimizer, rank, 1)
    nr.load_state_dict({**nr.state_dict(), "steps": 1 + 2 * rank})
    steps(model, optimizer, rank, 6)


def no_restart(scheduler: Any) -> None:
    raise OSError("no schedule")


def failing_event(rank: int) -> None:
    """In one process alone the schedule cannot be set back, when the network has changed already."""
    model, optimizer, nr = set_up(rank)
    nr.scheduler = StepLR(optimizer, 1)
    kill(nr.module)
    with patch.object(change, "restart", no_restart if rank else restart):
        try:
            steps(model, optimizer, rank, 2)
        except (OSError, TrainingError) as error:
            momentum = optimizer.state[nr.module.get_parameter("0.weight")]["momentum_buffer"]
            assert nr.events == 0 and momentum.shape == (8, 3, 3, 3) == nr.module.get_parameter("0.weight").shape
            nr.detach()
            before = digest(nr.module, buffers=False)
            steps(model, optimizer, rank, 2)  # and training goes on, in both
            assert digest(nr.module, buffers=False) != before
            raise TrainingError(str(error) + digest(nr.module, buffers=False)) from error


def absent(rank: int) -> None:
    """One process leaves its loop before the measurement; nothing else makes the other one wait."""
    _, optimizer, nr = set_up(rank, ddp=False)
    for _ in range(1 if rank else 2):
        for parameter in nr.module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    if rank:
        raise TrainingError("left")


def test_a_process_that_differs_is_an_error_in_all_that_names_the_difference() -> None:
    ours, theirs = in_processes(differing)
    assert not isinstance(ours, str), ours
    said = "At the first step after the Rejuvenator was built or loaded process 1 differs from process 0 in "
    for index, what in enumerate(("interval: 3 there, 2 in process 0", "digest of 0.weight: ", "steps: 4 there, 2 in")):
        assert ours[index].startswith(said + what) and ours[index] == theirs[index]
    assert "wrap the network in DistributedDataParallel" in ours[1]
    assert ours[3].startswith("Process 1 failed at step 2 with OSError: no schedule") and "no schedule" in theirs[3]
    assert ours[3][-64:] == theirs[3][-64:]  # the weights, some steps later
    assert ours[4].startswith("Process 1 of 2 did not come to a measurement within 3 s") and theirs[4] == "left"
