"""Movements."""

import torch
from torch import Tensor, nn

import nrfx
from nrfx.analysis.spaces import channels_of
from nrfx.rules import tensors


class InPlace(nn.Module):
    """A dim comes and goes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.last = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.fc(x)) * 2
        return self.last(y.unsqueeze_(1).squeeze_(1))


def test_a_dim_that_comes_in_place_changes_no_labels_of_the_nodes_before() -> None:
    torch.manual_seed(0)
    model = InPlace().eval()
    with torch.no_grad():
        model.norm.weight[:2] = 0
    gm = nrfx.trace(model, torch.zeros(3, 4))
    for step in channels_of(gm).steps:
        assert [labels.shape for labels in tensors(step.effect.out)] == [step.node.meta["val"].shape], step.node.name
    small = nrfx.compact(gm).module
    assert small.get_submodule("fc").weight.shape == (4, 4)
    x = torch.randn(5, 4)
    torch.testing.assert_close(small.eval()(x), model(x))
