"""What an optimizer holds after an event in place; the rest is in test_rejuvenator_in_place.py."""

import torch
from torch import nn
from torch.optim import Adam

from nrfx.training.in_place import hold_instead


def trained() -> tuple[nn.Linear, Adam]:
    linear = nn.Linear(2, 3)
    optimizer = Adam(linear.parameters(), lr=0.1)
    linear(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return linear, optimizer


def test_an_optimizer_holds_other_objects_in_the_same_places_with_their_state() -> None:
    linear, optimizer = trained()
    other, state = nn.Parameter(torch.ones(3)), optimizer.state[linear.bias]
    hold_instead(optimizer, {linear.bias: other})
    assert [p is q for p, q in zip(optimizer.param_groups[0]["params"], (linear.weight, other), strict=True)] == [
        True
    ] * 2
    assert optimizer.state[other] is state and linear.bias not in optimizer.state
