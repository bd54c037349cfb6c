"""The loss of each head: what is refused, what it equals, and a loop that changes by one line."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD

import nrfx
from nrfx.errors import RewriteError, TrainingError
from tests.zoo import IMAGE, norms, resnet, vgg_bn


def rejuvenated(model: nn.Module | None = None) -> nrfx.TracedModule:
    torch.manual_seed(0)
    gm = nrfx.trace(vgg_bn() if model is None else model, torch.zeros(IMAGE))
    kill(gm)
    return nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme="removed").module


@torch.no_grad()
def kill(gm: nn.Module) -> None:
    for norm in norms(gm):
        norm.weight[::2] = 0


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(5, (16,), generator=generator)
    return torch.randn(16, *IMAGE[1:], generator=generator) + y.view(-1, 1, 1, 1), y


def test_a_criterion_that_is_none_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"criterion is 0\.5; expected a function"):
        nrfx.HeadLoss(0.5)  # type: ignore[arg-type]


def test_a_network_with_heads_inside_another_module_is_refused_with_the_way_to_wrap_it() -> None:
    gm = rejuvenated()
    for wrapped in (nn.Sequential(gm), torch.fx.GraphModule(gm, gm.graph)):
        with pytest.raises(RewriteError, match=r"13 is inside a \w+.*torch\.compile\(nrfx\.heads\(nr\.module\)\)"):
            nrfx.HeadLoss(F.cross_entropy)(wrapped, *batch())


def test_without_heads_it_is_the_criterion() -> None:
    x, y = batch()
    for module in (vgg_bn(), nn.Sequential(vgg_bn()), nrfx.trace(vgg_bn(), x)):
        assert torch.equal(nrfx.HeadLoss(F.cross_entropy)(module.eval(), x, y), F.cross_entropy(module(x), y))


def test_with_heads_it_is_the_sum_of_their_losses_wrapped_or_not() -> None:
    gm, (x, y) = rejuvenated().eval(), batch()
    heads = nrfx.heads(gm)
    expected = sum(F.cross_entropy(output, y) for output in heads(x))
    assert expected > F.cross_entropy(gm(x), y)
    for module in (gm, heads, nn.Sequential(heads)):
        assert torch.equal(nrfx.HeadLoss(F.cross_entropy)(module, x, y), expected)


def test_several_inputs_are_a_tuple() -> None:
    class Sum(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

    loss = nrfx.HeadLoss(F.mse_loss)(Sum(), (torch.ones(2), torch.ones(2)), torch.zeros(2))
    assert loss == 4.0


@pytest.mark.parametrize("events", [1, 2])
def test_a_loop_with_one_other_line_trains_all_heads_across_events(events: int) -> None:
    torch.manual_seed(0)
    gm = nrfx.trace(resnet(), torch.zeros(IMAGE))
    optimizer = SGD(gm.parameters(), lr=0.05, momentum=0.9)
    nr = nrfx.Rejuvenator(gm, optimizer, nrfx.Budget.relative(gm, params=1.0), trigger=0.9, interval=1,
                          max_events=events, scheme="removed", residual="coupled",
                          generator=torch.Generator().manual_seed(0))  # fmt: skip
    head_loss, losses = nrfx.HeadLoss(F.cross_entropy), []
    x, y = batch()
    for step in range(24):
        if step in range(4, 4 + 8 * events, 8):
            kill(nr.module)
        loss = head_loss(nr.module, x, y)  # was: criterion(nr.module(x), y)
        optimizer.zero_grad()
        loss.backward()
        nr.penalize()
        optimizer.step()
        nr.step()
        losses.append(float(loss.detach()))
    assert nr.events == events
    shares = nrfx.heads(nr.module)(x)
    assert len(shares) == events + 1
    chance = float(torch.tensor(5.0).log())
    assert all(float(F.cross_entropy(share, y).detach()) < chance for share in shares), losses
    (weight,) = nr.module.get_submodule("fc").weights.values()
    assert weight in {p for group in optimizer.param_groups for p in group["params"]}
    assert optimizer.state[weight]["momentum_buffer"].shape == weight.shape


def test_the_momentum_of_the_output_layer_follows_it_into_its_heads() -> None:
    torch.manual_seed(0)
    gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE))
    optimizer = SGD(gm.parameters(), lr=0.01, momentum=0.9)
    nr = nrfx.Rejuvenator(gm, optimizer, nrfx.Budget.relative(gm, params=1.0), trigger=0.9, interval=1,
                          scheme="removed", rescale=False)  # fmt: skip
    F.cross_entropy(nr.module(batch()[0]), batch()[1]).backward()
    optimizer.step()
    before = optimizer.state[gm.get_parameter("13.weight")]["momentum_buffer"].clone()
    kill(gm)
    event = nr.step()
    assert isinstance(event, nrfx.Event)
    (weight,) = nr.module.get_submodule("13").weights.values()
    after, places = optimizer.state[weight]["momentum_buffer"], event.result.origins["13.weights.0"][1]
    kept = places >= 0
    assert kept.any() and not kept.all()
    assert torch.equal(after[:, kept], before[:, places[kept]]) and not after[:, ~kept].any()
