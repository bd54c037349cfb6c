"""The law of the meter: what it reads is what nrfx.utilization says, whatever the gammas are."""

import copy

import torch

import nrfx
from nrfx.analysis.meter import Meter
from nrfx.rules import op_of
from tests.laws.trial import Trial

ALIVE = (0.9, 0.5, 0.1)


def a_meter_reads_what_utilization_says(trial: Trial) -> None:
    twin = copy.deepcopy(trial.gm)
    meter = Meter(twin, residual=trial.how.residual)
    generator = torch.Generator().manual_seed(3)
    for alive in ALIVE:
        _draw_norms(twin, alive, generator)
        expected = nrfx.utilization(twin, residual=trial.how.residual)
        read = meter.read()
        assert (read.params, read.flops) == (expected.params, expected.flops)


@torch.no_grad()
def _draw_norms(module: torch.nn.Module, alive: float, generator: torch.Generator) -> None:
    """Gammas of which a share is 0, and betas of which half are."""
    for layer in module.modules():
        op = op_of(layer)
        if op is not None and op.norm and layer.weight is not None:
            draw = torch.rand(3, *layer.weight.shape, generator=generator, dtype=torch.float64)
            layer.weight.copy_(draw[0] * (draw[1] < alive))
            if getattr(layer, "bias", None) is not None:
                layer.bias.copy_((draw[2] - 0.5) * (draw[0] < 0.5))
