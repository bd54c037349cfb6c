"""What keeps a module from the rule of its class, and what its user is told."""

import functools
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.ao import quantization
from torch.nn.utils import parametrizations, prune

import nrfx
from nrfx.analysis.obstacles import obstacle


def log(*_: object) -> None:
    pass


class Logger:
    def __call__(self, *_: object) -> None:
        pass


def hooked(hook: Callable[..., None]) -> nn.Module:
    layer = nn.Conv2d(3, 8, 3)
    layer.register_forward_hook(hook)
    return layer


def weight_normed() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(nn.Conv2d(3, 8, 3))


def prepared(model: nn.Module) -> nn.Module:
    """The model for quantization-aware training."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train().qconfig = quantization.get_default_qat_qconfig("fbgemm")
        return quantization.prepare_qat(model)


@pytest.mark.parametrize(("layer", "words"), [
    (lambda: hooked(log), "forward hooks (log), which may do anything: remove them"),
    (lambda: hooked(functools.partial(log, 1)), "forward hooks (log)"),
    (lambda: hooked(Logger()), "forward hooks (Logger)"),
    (lambda: prune.random_unstructured(nn.Conv2d(3, 8, 3), "weight", 0.5), "prune.remove makes the mask permanent"),
    (lambda: prune.l1_unstructured(nn.BatchNorm2d(8), "weight", 0.5), "prune.remove makes the mask permanent"),
    (weight_normed, "remove_weight_norm"),
    (lambda: nn.utils.spectral_norm(nn.Linear(3, 8)), "remove_spectral_norm"),
    (lambda: parametrizations.orthogonal(nn.Linear(8, 8)).parametrizations.weight, "Orthogonal computes a weight"),
    (lambda: prepared(nn.Sequential(nn.Conv2d(3, 8, 3)))[0], "trace the float model"),
    (lambda: prepared(nn.Sequential(nn.BatchNorm2d(8)))[0], "trace the float model"),
    (lambda: prepared(nn.Sequential(nn.Linear(3, 8)))[0], "trace the float model"),
])  # fmt: skip
def test_an_obstacle_is_told_by_its_kind_with_what_to_do(layer: Callable[[], nn.Module], words: str) -> None:
    assert words in (obstacle(layer()) or "")


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, affine=False), nn.ReLU()])
def test_a_plain_layer_has_none(layer: nn.Module) -> None:
    assert obstacle(layer) is None


def test_a_layer_that_fake_quantizes_is_no_plain_one_though_no_hook_is_left() -> None:
    """Its fake quantizer keeps a scale for each row of the weight, and a rewrite would leave these as they are."""
    model = prepared(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)))
    for module in model.modules():
        module._forward_hooks.clear()
    with torch.no_grad():
        model[1].weight[:4] = 0
    result = nrfx.compact(nrfx.trace(model.eval(), torch.zeros(1, 3, 8, 8)))
    assert not result.changed and "torch.ao.quantization" in result.notes[0]


def test_fused_layers_that_learn_to_be_quantized_are_analysed() -> None:
    """Some of their buffers are empty."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization.fuse_modules_qat(model, [["0", "1", "2"]], inplace=True)
    u = nrfx.utilization(nrfx.trace(prepared(model).eval(), torch.zeros(1, 3, 8, 8)))
    assert u.gammas.can_die == 0 and u.not_understood
