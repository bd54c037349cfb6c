"""The examination of models of the field on tiny networks: what it finds, and that it finds faults."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nrfx
from benchmarks.coverage.field.check import FieldExamination
from benchmarks.coverage.field.row import FieldRow
from benchmarks.coverage.model import image
from benchmarks.coverage.row import row_of
from nrfx.errors import TraceError
from tests.zoo import cbr


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(cbr(3, 12), cbr(12, 16)), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


def examined(kind: type[nn.Module]) -> FieldRow:
    model = image("tests", kind.__name__, "CNN", kind, 16)
    values: dict[str, Any] = {"model": model.title, "package": "tests", "family": "CNN", "input": "2x3x16x16"}
    FieldExamination(model, values.update).run()
    return row_of(FieldRow, values)


def test_a_sound_network_passes_every_check() -> None:
    row = examined(Plain)
    assert row.failures == () and row.form == "whole" and row.inside == 1
    assert (row.params_equal, row.flops_equal, row.changed, row.budget_met, row.loaded) == (True,) * 5
    assert row.second == "3x3x16x48" and row.second_size == "equal"
    assert row.difference is not None and row.difference < 1e-12


class Odd(Plain):
    """It takes images of one size alone, and changes its input in place."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == 16, "images of 16 x 16"
        return super().forward(x.mul_(2.0))


def test_a_model_may_change_its_input_and_one_of_one_size_is_tried_with_another_batch() -> None:
    row = examined(Odd)
    assert row.failures == () and row.flops_equal and row.loaded
    assert row.second == "3x3x16x16" and row.second_size == "equal"


def test_dropped_constants_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nrfx, "rejuvenate", partial(nrfx.rejuvenate, constants=False))
    assert [failure for failure in examined(Plain).failures if failure.startswith("rewrite: outputs differ by")]


def test_a_refusal_has_its_reason_and_a_foreign_error_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: Exception) -> Any:
        def trace(*_: Any, **__: Any) -> None:
            raise error

        return trace

    monkeypatch.setattr(nrfx, "trace", raising(TraceError("it looks at values.")))
    refused = examined(Plain)
    assert (refused.form, refused.reason, refused.failures) == ("refused", "it looks at values.", ())
    monkeypatch.setattr(nrfx, "trace", raising(KeyError("weight")))
    assert examined(Plain).failures == ("trace: KeyError: 'weight'",)


def test_a_rewritten_network_that_another_size_breaks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = FieldExamination.at_second_size

    def moved(self: FieldExamination, name: str, model: nn.Module, module: nn.Module, others: Any) -> str:
        if name.endswith("of the result"):
            with torch.no_grad():
                next(module.parameters())[0] += 1
        return expected(self, name, model, module, others)

    monkeypatch.setattr(FieldExamination, "at_second_size", moved)
    assert any(failure.startswith("second size of the result: outputs differ") for failure in examined(Plain).failures)
