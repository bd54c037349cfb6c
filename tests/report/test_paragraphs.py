"""The paragraphs of `why`: parts with nothing of their own to say share one, and what does not fit is counted."""

import torch
from torch import Tensor, nn
from torchvision.models import DenseNet

import nrfx
from nrfx.report.paragraphs import PARTS, paragraphs
from tests import zoo
from tests.report.networks import traced


def test_parts_that_say_the_same_share_a_paragraph() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.arms, self.head = nn.ModuleList(zoo.cbr(3, 4) for _ in range(3)), nn.Conv2d(12, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(torch.cat([arm(x) for arm in self.arms], 1))
            return y

    answer = nrfx.why(nrfx.trace(Forked(), torch.zeros(zoo.IMAGE)), "head")
    out, in_ = paragraphs(answer.parts)
    assert (in_.lead, in_.state, in_.facts) == (
        "12 channels in 3 spaces, ",
        "free",
        ("born in arms.0.0, arms.1.0, arms.2.0",),
    )
    assert out.reason == ": the network's output" and [link.node for link in out.chains[0].links] == ["head", "output"]


def test_spaces_without_room_are_counted() -> None:
    model = zoo.with_dead(DenseNet(4, (8,), 8, num_classes=5))
    answer = nrfx.why(nrfx.trace(model, torch.zeros(1, 3, 32, 32)), "classifier")
    told = [each for each in paragraphs(answer.parts) if each.axis == "in"]
    assert len(told) == PARTS and told[-1].state is None
    assert told[-1].lead.startswith(f"{len(answer.parts) - 1 - (PARTS - 1)} more spaces: ")


def test_held_channels_come_with_their_reason_and_with_a_chain_of_their_own() -> None:
    answer = nrfx.why(traced("mobilenet_se"), "1.0.0")
    (out,) = [each for each in paragraphs(answer.parts) if each.axis == "out"]
    assert sum(chain.held for chain in out.chains) > 0 and all(chain.links for chain in out.chains)


def test_held_channels_are_said_to_be_among_the_live_ones() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1, groups=6))
    model.extend([nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)])
    with torch.no_grad():
        model[1].weight[:3], model[1].bias[1:3] = 0, 1  # the last two vary at the border
    facts = {
        each.axis: each.facts for each in paragraphs(nrfx.why(nrfx.trace(model, torch.zeros(zoo.IMAGE)), "0").parts)
    }
    assert "1 are dead and can go, 5 are live, those held below among them" in facts["out"]
    facts = {each.axis: each.facts for each in paragraphs(nrfx.why(traced("vgg_bn"), "0").parts)}
    assert "3 are dead and can go, 5 are live" in facts["out"]
