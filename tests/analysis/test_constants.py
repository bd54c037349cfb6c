"""The constants of dead channels: what a norm makes of a constant, and where positions differ."""

import pytest
import torch
from torch import nn

from nrfx.analysis.affine import Affine
from nrfx.analysis.varying import same
from nrfx.labels import spread
from tests.zoo import calibrated

NAN = float("nan")


def test_a_norm_gives_a_constant_what_its_eval_mode_gives_it() -> None:
    (norm,) = calibrated(nn.Sequential(nn.BatchNorm2d(3)))
    dead = torch.tensor([False, True, False])
    affine = Affine(norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps, dead)
    constant = torch.tensor([0.5, 7.0, -2.0], dtype=torch.float64)
    with torch.no_grad():
        expected = norm(constant.view(1, 3, 1, 1).expand(1, 3, 4, 4))[0, :, 0, 0]
        expected[1] = norm.bias[1]
        assert torch.allclose(affine(constant), expected, rtol=1e-12)


@pytest.mark.parametrize("scale", [True, False])
def test_without_running_statistics_only_a_scale_knows_what_it_gives(scale: bool) -> None:
    gamma, beta, dead = torch.tensor([2.0, 2.0]), torch.tensor([0.5, 0.5]), torch.tensor([False, True])
    affine = Affine(gamma, beta, None, None, 1e-5, dead, scale)
    expected = [6.0, 0.0] if scale else [NAN, 0.5]
    assert affine(torch.tensor([3.0, 3.0])).tolist() == pytest.approx(expected, nan_ok=True)


def test_a_channel_is_uniform_where_all_its_positions_hold_one_value() -> None:
    values = torch.tensor([[[1.0, 1.0], [2.0, 3.0], [NAN, 4.0]]], dtype=torch.float64)
    assert same(spread(values, 1)).tolist() == pytest.approx([1.0, NAN, NAN], nan_ok=True)
    assert same(spread(values[:, :, :1], 1)).tolist() == pytest.approx([1.0, 2.0, NAN], nan_ok=True)
