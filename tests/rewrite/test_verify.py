"""verify: a wrong rewrite is caught, by numbers or by labels, and inputs that do not fit are named."""

import pytest
import torch
from torch import nn

import nrfx
from nrfx.errors import VerificationError
from nrfx.rewrite.verify import _Axes
from tests.rewrite.rewriting import images, prepared, rewritten, unit
from tests.zoo import with_dead


def test_a_wrong_rewrite_is_caught_by_numbers() -> None:
    _, gm = prepared("vgg_bn")
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme="dense")
    with torch.no_grad():
        result.module.get_submodule("4").weight[0, 0] += 1.0
    with pytest.raises(VerificationError, match="output differs by"):
        nrfx.verify(gm, result, images())


def test_inputs_that_do_not_fit_are_an_error_that_names_both_shapes() -> None:
    _, gm = prepared("vgg_bn")
    result = nrfx.compact(gm)
    with pytest.raises(VerificationError, match=r"\[2, 5, 16, 16\].*\[2, 3, 16, 16\]"):
        nrfx.verify(gm, result, torch.zeros(2, 5, 16, 16, dtype=torch.float64))


def test_verify_compares_labels_where_the_function_changes_on_purpose() -> None:
    _, result = rewritten("vgg_bn", "dense", constants=False)
    _, gm = prepared("vgg_bn")
    assert nrfx.verify(gm, result, images()) == 0.0
    with torch.no_grad():
        conv = result.module.get_submodule("4")
        conv.weight = nn.Parameter(conv.weight[:-1])
    with pytest.raises(VerificationError, match=r"Node _4.*\[2, 11, 8, 8\].*\[2, 12, 8, 8\]"):
        nrfx.verify(gm, result, images())


@pytest.mark.parametrize("partial", [False, True])
def test_a_network_that_writes_into_its_input_is_compared_on_equal_images_and_leaves_them_alone(partial: bool) -> None:
    class Normalises(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(unit(3, 8), unit(8, 8)), nn.Conv2d(8, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.body(x.sub_(0.5).div_(0.25))
            if partial and float(y.sum()) > 1e9:
                y = -y
            return self.head(y.mul_(2.0))

    model = with_dead(Normalises().double().eval(), 0.4)
    gm = nrfx.trace(model, images(), partial=partial)
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme="dense")
    x = images()
    assert result.changed and nrfx.verify(gm, result, x) < 1e-12 and torch.equal(x, images())


def test_the_labels_of_every_pair_of_axes_are_compared() -> None:
    axes, now = _Axes(torch.tensor([5, 7]), set()), torch.tensor([0, 1])
    planned, other = torch.tensor([5, 7]), torch.tensor([7, 5])
    for _ in range(2):
        axes.check("0.weight dim 0", "conv", now, planned)
    with pytest.raises(VerificationError, match="index 0: node conv delivers channel 5, not 7"):
        axes.check("1.weight dim 0", "conv", now, other)
