"""verify: a wrong rewrite is caught, by numbers or by labels, and inputs that do not fit are named."""

import pytest
import torch
from torch import nn

import nrfx
from nrfx.errors import VerificationError
from tests.rewrite.rewriting import images, prepared, rewritten


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
