"""The examination of models of torchvision and timm on tiny networks: what it finds, and that it finds faults."""

import gc
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from torch import Tensor, nn

import nrfx
from benchmarks.coverage.model import Model, Real
from benchmarks.coverage.row import row_of
from benchmarks.coverage.vision import check
from benchmarks.coverage.vision.row import WholeRow


@pytest.fixture(autouse=True, scope="module")
def frozen() -> Iterator[None]:
    """Keeps imported objects out of the garbage collections that the checks run often."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def unit(in_width: int, width: int, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_width, width, kernel, padding=kernel // 2, groups=groups)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())


class Residual(nn.Module):
    """A stem, a block with a grouped convolution on its stream, three plain units and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 12)
        self.inner = unit(12, 12, groups=3)
        self.outer = unit(12, 12, kernel=1)
        self.last = nn.Sequential(unit(12, 16), unit(16, 20), unit(20, 16, kernel=1))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.last(x + self.outer(self.inner(x)))
        return self.head(x.mean((2, 3)))


class Refusing(Residual):
    """Its control flow depends on values: no trace."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 1e9 else super().forward(-x)


def examined(build: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> WholeRow:
    monkeypatch.setattr(check, "REPEATS", 1)
    model = Model("torchvision", build.__name__, "ResNet", build, (Real((2, 3, 8, 8)),))
    values: dict[str, Any] = {"model": model.title, "package": "torchvision", "family": "ResNet", "input": "3x8x8"}
    check.WholeExamination(model, values.update).run()
    return row_of(WholeRow, values)


def test_dropped_constants_are_found_and_named_with_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nrfx, "rejuvenate", partial(nrfx.rejuvenate, constants=False))
    row = examined(Residual, monkeypatch)
    assert len(row.failures) == 6 and row.cases == 0
    assert all("outputs differ by" in failure for failure in row.failures)


def test_a_model_that_cannot_be_traced_is_a_row_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    row = examined(Refusing, monkeypatch)
    assert row.params is not None and (row.nodes, row.cases) == (None, 0)
    assert row.failures[0].startswith("trace: TraceError: ")


def test_a_sound_network_passes_every_check(monkeypatch: pytest.MonkeyPatch) -> None:
    row = examined(Residual, monkeypatch)
    assert row.failures == ()
    assert (row.params_equal, row.flops_equal, row.uncounted) == (True, True, 0)
    assert row.cases == 6 and row.free == row.mortal == 1
    assert row.r_coupled is not None and row.r_live is not None and row.r_coupled < row.r_live < 1
