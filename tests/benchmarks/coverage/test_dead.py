"""Dead channels come in every way, and norms get the statistics that go with them."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

import nrfx
from benchmarks.coverage.dead import WAYS, calibrate_traced, plant
from benchmarks.networks import calibrate
from nrfx.analysis.spaces import channels_of
from tests.benchmarks.coverage.vision.test_check import Residual


def test_dead_sets_hit_streams_whole_groups_and_single_gammas() -> None:
    traced = nrfx.trace(Residual(), torch.zeros(2, 3, 8, 8))
    channels = channels_of(traced)
    dead: list[Mapping[str, Tensor]] = []
    for seed in range(20):
        plant(traced, channels, torch.Generator().manual_seed(seed))
        dead.append({name: traced.get_parameter(name) == 0 for name in ("stem.1.weight", "outer.1.weight")})
        groups = (traced.get_parameter("inner.1.weight") == 0).view(3, 4).float().mean(1)
        dead[-1]["groups"] = groups  # type: ignore[index]
    whole = [bool(((d["groups"] == 0) | (d["groups"] == 1)).all()) for d in dead]
    alike = [torch.equal(d["stem.1.weight"], d["outer.1.weight"]) for d in dead]
    assert 0 < sum(whole) < 20 and 0 < sum(alike) < 20
    assert 0.4 < float(torch.stack([d["stem.1.weight"].float().mean() for d in dead]).mean()) < 0.6
    assert all(0.45 < tied + (1 - tied) * loose < 0.55 for _, tied, loose in WAYS.values())


class Own(nn.BatchNorm2d):
    """A norm with a forward of its own, which is traced into."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def test_norms_that_were_traced_into_are_calibrated_as_modules_are() -> None:
    torch.manual_seed(0)
    convs = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
    net = nn.Sequential(convs[0], Own(8, momentum=0.3), nn.ReLU(), convs[1], nn.BatchNorm2d(4)).double()
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    traced = copy.deepcopy(nrfx.trace(net, images))
    assert not any(node.op == "call_module" and node.target == "1" for node in traced.graph.nodes)
    calibrate_traced(traced, channels_of(traced), images)
    calibrate(net, lambda model: model.train()(images))
    for name in ("1.running_mean", "1.running_var", "4.running_mean", "4.running_var"):
        torch.testing.assert_close(traced.get_buffer(name), net.get_buffer(name), rtol=1e-9, atol=1e-12)
