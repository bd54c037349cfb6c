"""Layers that no longer fit the graph that was traced of them."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import nrfx
from nrfx.errors import TraceError
from nrfx.tracing.graph.staleness import check_dtypes, check_layers
from tests.zoo import IMAGE, SMALL


def traced() -> nrfx.TracedModule:
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=4), nn.ReLU())
    return nrfx.trace(nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)), torch.zeros(IMAGE))


@pytest.mark.parametrize(("path", "module", "message"), [
    ("0", nn.Conv2d(3, 9, 3), "0 .Conv2d. takes 3 channels and gives 9, and in the graph 3 and 8"),
    ("1", nn.BatchNorm2d(9), "1 .BatchNorm2d. normalises 9 channels, and the graph gives it 8"),
    ("2", nn.Conv2d(4, 8, 3, groups=4), "2 .Conv2d. takes 4 channels"),
    ("6", nn.Linear(8, 3), "6 .Linear. takes 8 channels and gives 3, and in the graph 8 and 2"),
])  # fmt: skip
def test_a_layer_of_another_width_is_named_with_both_widths(path: str, module: nn.Module, message: str) -> None:
    gm = traced()
    gm.set_submodule(path, module)
    with pytest.raises(TraceError, match=message):
        check_layers(gm)


def test_running_statistics_of_another_width_are_a_norm_of_another_width() -> None:
    gm = traced()
    gm.get_submodule("1").running_var = torch.ones(7)
    with pytest.raises(TraceError, match="normalises 7 channels"):
        check_layers(gm)


@pytest.mark.parametrize(
    "convert", [lambda gm: gm.get_submodule("2").half(), lambda gm: gm.get_submodule("6").double()]
)
def test_a_layer_of_another_dtype_is_named_with_both_dtypes(convert: Callable[[nn.Module], nn.Module]) -> None:
    gm = traced()
    kind = str(convert(gm).weight.dtype).removeprefix("torch.")
    with pytest.raises(TraceError, match=f"reads float32 and its weight is {kind}"):
        check_dtypes(gm)


@pytest.mark.parametrize("name", SMALL)
def test_a_network_fits_the_graph_that_was_traced_of_it(name: str) -> None:
    gm = nrfx.trace(SMALL[name](), torch.zeros(IMAGE))
    check_layers(gm)
    check_dtypes(gm)


def test_a_layer_of_the_same_width_may_take_the_place_of_another() -> None:
    gm = traced()
    gm.set_submodule("2", nn.Conv2d(8, 8, 5, groups=2))
    check_layers(gm)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm")
def test_a_weight_that_a_hook_computes_has_the_dtype_of_its_parameters() -> None:
    """Until the first call it is what it was before the model was converted."""
    model = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()
    x = torch.randn(IMAGE, dtype=torch.float64)
    assert torch.equal(nrfx.trace(model, x)(x), model(x))
