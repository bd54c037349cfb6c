"""The table of the field on tiny networks: what it finds, and that it finds faults."""

import json
from dataclasses import asdict
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nrfx
from benchmarks.coverage.field import hugging, restoration, sequences, vision
from benchmarks.coverage.field.check import Examination, differing
from benchmarks.coverage.field.model import Ids, Model, Real, drawn, image, in_batch
from benchmarks.coverage.field.page import page, summary
from benchmarks.coverage.field.row import Row, row_of
from benchmarks.coverage.field.run import families_first
from nrfx.errors import TraceError
from tests.zoo import cbr


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(cbr(3, 12), cbr(12, 16)), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class OfOneSize(Plain):
    """It takes images of one size alone."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == 16, "images of 16 x 16"
        return super().forward(x)


def examined(kind: type[nn.Module]) -> Row:
    model = image("tests", kind.__name__, "CNN", kind, 16)
    values: dict[str, Any] = {}
    Examination(model, values.update).run()
    return row_of({"model": model.title, "package": "tests", "family": "CNN", "input": "2x3x16x16"} | values)


def test_a_sound_network_passes_every_check() -> None:
    row = examined(Plain)
    assert row.failures == () and row.form == "whole" and row.inside == 1
    assert (row.params_equal, row.flops_equal, row.changed, row.budget_met, row.loaded) == (True,) * 5
    assert row.second == "3x3x16x48" and row.second_size == "equal"
    assert row.difference is not None and row.difference < 1e-12


def test_a_model_of_one_size_is_tried_with_another_batch() -> None:
    row = examined(OfOneSize)
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
    expected = Examination.at_second_size

    def moved(self: Examination, name: str, subject: Any, module: nn.Module) -> None:
        with torch.no_grad():
            next(module.parameters())[0] += 1
        expected(self, name, subject, module)

    monkeypatch.setattr(Examination, "at_second_size", moved)
    assert any(failure.startswith("second size of the result: outputs differ") for failure in examined(Plain).failures)


def test_outputs_are_compared_where_they_are_infinite_or_whole_numbers_too() -> None:
    inf = torch.tensor([1.0, float("inf")])
    assert differing((inf, torch.tensor([1, 2])), (inf, torch.tensor([1, 2]))) == 0
    assert differing((torch.tensor([2, 4]),), (torch.tensor([2, 3]),)) == 0.25
    assert differing((inf,), (inf[:1],)) == float("inf")
    nan = torch.tensor([1.0, float("nan")])
    assert differing((nan,), (nan,)) == 0 and str(differing((nan,), (inf.nan_to_num(),))) == "nan"


def test_inputs_are_drawn_by_their_specs() -> None:
    specs = (Real((2, 3)), Ids((2, 4), below=7))
    real, ids = drawn(in_batch(specs, 5), 0, torch.float64)
    assert real.shape == (5, 3) and real.dtype == torch.float64
    assert ids.shape == (5, 4) and ids.dtype == torch.int64 and int(ids.max()) < 7


def test_the_field_has_250_models_of_60_families_with_names_of_their_own() -> None:
    every = [model for module in (hugging, vision, restoration, sequences) for model in module.models()]
    assert len({model.title for model in every}) == len(every) >= 250
    assert len({model.family for model in every}) >= 60


def test_one_model_of_each_family_comes_first() -> None:
    kinds = {"a": "CNN", "b": "CNN", "c": "ViT"}
    known = {title: Model("p", title, family, Plain, (), ()) for title, family in kinds.items()}
    assert families_first(list(kinds), known) == ["a", "c", "b"]


def test_the_page_names_what_is_refused_what_fails_and_what_is_missing() -> None:
    rows = [
        Row("p:a", "p", "CNN", "2x3", form="whole", changed=True, difference=1e-16, params_equal=True, loaded=True),
        Row("q:b", "q", "ViT", "2x3", form="refused", reason="it looks at values"),
        Row("q:c", "q", "ViT", "2x3", form="parts", failures=("counts: 7 params",)),
    ]
    text = page(rows, 5)
    assert "3 models of 2 families; every check holds for 2 of them. 2 more are not examined yet." in text
    assert "- q:b (refused): it looks at values" in text and "- q:c: counts: 7 params" in text
    assert summary(rows)[-1] == ("all", "3", "2", "2", "1", "1", "1", "1", "1", "0")
    assert row_of(json.loads(json.dumps(asdict(rows[0])))) == rows[0]
