"""What only a region without gradients reads does not learn: none of its channels come, and no penalty moves it."""

import torch
from torch import Tensor, nn

import nrfx
from nrfx.analysis.liveness import prunable_gammas
from nrfx.analysis.taught import taught
from tests import zoo


class Frozen(nn.Module):
    """A stem that learns, and a branch that does not; `scale` is read in both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = zoo.cbr(3, 8), zoo.cbr(3, 8), nn.Conv2d(16, 4, 1)
        self.scale, self.apart = nn.Parameter(torch.ones(8, 1, 1)), nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.branch(x) * self.scale * self.apart
        return self.head(torch.cat([self.stem(x) * self.scale, y], 1))


def test_parameters_that_only_a_region_without_gradients_reads_do_not_learn() -> None:
    gm = nrfx.trace(Frozen(), torch.zeros(1, 3, 8, 8))
    gm.stem[0].weight.requires_grad_(False)
    model = Frozen()
    model(torch.randn(2, 3, 8, 8)).mean().backward()
    learns = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert taught(gm) == learns - {"stem.0.weight"}


def test_their_channels_may_go_and_none_may_come() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = model, nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                y = self.body(x)
            return self.head(y)  # type: ignore[no-any-return]

    gm = nrfx.trace(Net().eval(), torch.zeros(2, 3, 8, 8))
    with torch.no_grad():
        gm.body[1].weight[:3] = 0
    assert not prunable_gammas(gm)
    assert "8 channels, not to widen: body.0.weight is frozen" in str(nrfx.why(gm, "body.0"))
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme="dense")
    assert result.module.get_submodule("body.0").weight.shape[0] == 5
    assert nrfx.verify(gm, result, torch.randn(2, 3, 8, 8)) < 1e-5


def test_what_such_a_region_reads_from_outside_is_pinned() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.gate, self.head = zoo.cbr(3, 8), nn.Linear(8, 8), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(x)
            with torch.no_grad():
                gate = self.gate(y.mean((2, 3)))[..., None, None]
            return self.head(y * gate)  # type: ignore[no-any-return]

    pins = nrfx.utilization(nrfx.trace(Net(), torch.zeros(1, 3, 8, 8))).pins
    assert "a region without gradients reads it without teaching it" in [pin.reason for pin in pins]
