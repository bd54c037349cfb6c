"""A Rejuvenator with a criterion: it asks at every measurement, and recycles or reallocates what is dead."""

from collections import deque

import torch
from torch import Tensor, nn

import nrfx
from nrfx import liveness

X = torch.rand(32, 4, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([-9.0] * 3 + [1.0] * 5))  # three never fire, and have no gradient
        model[2].bias.fill_(1.0)
    return nrfx.trace(model, X[:2])


def trained(gm: nn.Module, optimizer: torch.optim.Optimizer, steps: int, recent: deque[Tensor]) -> None:
    for step in range(steps):
        x = X[4 * (step % 8) :][:4]
        recent.append(x)
        optimizer.zero_grad()
        gm(x).square().mean().backward()
        optimizer.step()


def watched(recent: deque[Tensor], **options: object) -> tuple[nn.Module, torch.optim.Adam, nrfx.Rejuvenator]:
    gm = net()
    optimizer = torch.optim.Adam(gm.parameters(), lr=1e-3)
    nr = nrfx.Rejuvenator(
        gm,
        optimizer,
        nrfx.Budget.relative(gm, params=1.0),
        trigger=1.0,
        interval=4,
        liveness=liveness.Activation(lambda: list(recent), tau=0.0),
        generator=torch.Generator().manual_seed(0),
        scheme="dense",
        **options,  # type: ignore[arg-type]
    ).attach()
    return gm, optimizer, nr


def test_dormant_units_are_recycled_in_place_with_a_clean_state() -> None:
    recent: deque[Tensor] = deque(maxlen=8)
    gm, optimizer, nr = watched(recent, reallocate=False, max_events=1)
    weight = gm.get_parameter("0.weight")
    trained(gm, optimizer, 4, recent)
    assert isinstance(nr.last, nrfx.Event) and nr.last.r < 1 and nr.lam == 0
    assert gm.get_parameter("0.weight") is weight and weight.shape == (8, 4)
    origins = nr.last.result.origins["0.weight"][0]
    assert origins is not None and origins.tolist() == [3, 4, 5, 6, 7, -1, -1, -1]
    state = optimizer.state[weight]["exp_avg_sq"]
    assert not bool(state[5:].any()) and bool(state[:5].any(1).all())
    trained(gm, optimizer, 4, recent)
    assert bool(optimizer.state[gm.get_parameter("4.weight")]["exp_avg_sq"].any())


def test_without_reallocate_false_the_other_layers_grow() -> None:
    recent: deque[Tensor] = deque(maxlen=8)
    gm, optimizer, nr = watched(recent, max_events=None)
    before = sum(parameter.numel() for parameter in gm.parameters())
    trained(gm, optimizer, 4, recent)
    assert nr.events == 1 and gm.get_submodule("2").out_features > 6
    assert sum(parameter.numel() for parameter in gm.parameters()) <= before


def test_a_measurement_without_an_event_tells_the_same_utilization() -> None:
    gm = net()
    recent = deque([X])
    criterion = liveness.Activation(lambda: list(recent), tau=0.0)
    optimizer = torch.optim.SGD(gm.parameters(), lr=1e-3)
    nr = nrfx.Rejuvenator(
        gm, optimizer, nrfx.Budget.relative(gm, params=1.0), trigger=0.1, interval=2, liveness=criterion
    ).attach()
    trained(gm, optimizer, 2, recent)
    assert isinstance(nr.last, nrfx.Measurement) and nr.last.params.ratio < 1
    assert nr.last.utilization.params == nr.last.params and nr.lam == 0
