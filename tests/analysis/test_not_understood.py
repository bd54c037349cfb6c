"""What a report must not pass off as healthy: every number that lies where the analysis does not see."""

import torch
from torch import nn
from torch.nn.utils import parametrizations

import nrfx
from tests.rewrite.rewriting import Weird, unit
from tests.tracing.partial.test_partition import detector, images


def told(model: nn.Module) -> nrfx.Utilization:
    return nrfx.utilization(nrfx.trace(model.eval(), torch.zeros(2, 3, 8, 8)))


def test_a_network_that_is_understood_has_none() -> None:
    assert told(nn.Sequential(unit(3, 8), unit(8, 8), nn.Conv2d(8, 4, 3))).not_understood == ()


class Masked(nn.Module):
    """A forward that writes a mask of sizes piece by piece, as window attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = x.new_zeros(x.shape[-2:])
        mask[:4] = 1
        mask[4:] = 2
        return self.conv(x * mask)


def test_a_mask_that_is_written_in_place_hides_nothing() -> None:
    assert told(Masked()).not_understood == ()


class Filled(nn.Module):
    """A forward that writes what it has computed into a tensor of sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        filled = x.new_zeros(x.shape[0], 4, *x.shape[-2:])
        filled[:, 1:, 2:][:, :, :4] = self.conv(x)[:, 1:, 2:6]
        return torch.fft.fft(filled).real


def test_a_tensor_that_data_is_written_into_holds_data() -> None:
    named = {node for entry in told(Filled()).not_understood for node in entry.nodes}
    assert any("setitem" in name for name in named) and any("fft" in name for name in named)


def test_a_hooked_layer_is_named_with_its_params_and_flops() -> None:
    model = nn.Sequential(unit(3, 8), unit(8, 8), nn.Conv2d(8, 4, 3))
    model[1][0].register_forward_hook(nn.Identity())
    u = told(model)
    (entry,) = u.not_understood
    assert (entry.nodes, entry.params, entry.flops, entry.uncounted) == (("1.0",), 8 * 8 * 9 + 8, 8 * 8 * 9 * 64, False)
    row = next(row for row in u.rows if row.name == "1.0")
    assert row.pins == (entry.reason,) and row.out == 0


def test_the_reason_is_one_in_pins_in_rows_and_in_why() -> None:
    model = nn.Sequential(unit(3, 8), unit(8, 8), nn.Conv2d(8, 4, 3))
    model[1][2].register_forward_hook(nn.Identity())
    u, gm = told(model), nrfx.trace(model, torch.zeros(2, 3, 8, 8))
    (entry,) = u.not_understood
    assert [pin.reason for pin in u.pins if pin.space == "1.0"] == [entry.reason]
    assert nrfx.why(gm, "1.0").parts[0].reason == entry.reason
    assert entry.reason in nrfx.why(gm, "2").parts[1].reason


def test_parameters_from_which_a_weight_is_computed_are_its_layer_s() -> None:
    scaled = Weird(
        lambda self, x: torch.nn.functional.conv2d(x, 2 * self.extra[0].weight), nn.Conv2d(8, 8, 3, bias=False)
    )
    normed = nn.Sequential(unit(3, 8), parametrizations.weight_norm(nn.Conv2d(8, 8, 3)), unit(8, 4))
    assert sum(entry.params for entry in told(scaled).not_understood) == 8 * 8 * 9
    entries = told(normed).not_understood
    assert sum(entry.params for entry in entries) == sum(p.numel() for p in normed[1].parameters())
    assert sum(entry.flops for entry in entries) == 8 * 8 * 9 * 36


def test_parameters_that_no_graph_reads_are_named() -> None:
    model = nn.Sequential(unit(3, 8), nn.Conv2d(8, 4, 3))
    model[0].register_parameter("spare", nn.Parameter(torch.zeros(7)))
    (entry,) = told(model).not_understood
    assert (entry.reason, entry.nodes, entry.params) == ("no graph reads it", ("0",), 7)


def test_what_lies_outside_of_the_parts_is_not_understood() -> None:
    u = nrfx.utilization(nrfx.trace(detector(), images(), partial=True))
    (outside,) = [entry for entry in u.not_understood if "outside of the parts" in entry.reason]
    assert "spare" in outside.nodes and outside.params and outside.uncounted
