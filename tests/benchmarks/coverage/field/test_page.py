"""The page of the field, and the models on it."""

from benchmarks.coverage.field import models
from benchmarks.coverage.field.page import page, summary
from benchmarks.coverage.field.row import FieldRow


def test_the_field_has_490_models_of_250_families_with_names_of_their_own() -> None:
    every = list(models())
    assert len({model.title for model in every}) == len(every) >= 490
    assert len({model.family for model in every}) >= 250


def test_the_page_names_what_is_refused_what_fails_and_what_is_missing() -> None:
    rows = [
        FieldRow(
            "p:a", "p", "CNN", "2x3", form="whole", changed=True, difference=1e-16, params_equal=True, loaded=True
        ),
        FieldRow("q:b", "q", "ViT", "2x3", form="refused", reason="it looks at values"),
        FieldRow("q:c", "q", "ViT", "2x3", form="parts", failures=("counts: 7 params",)),
    ]
    text = page(rows, 2)
    assert "3 models of 2 families; every check holds for 2 of them. 2 more are not examined yet." in text
    assert "- q:b (refused): it looks at values" in text and "- q:c: counts: 7 params" in text
    assert summary(rows)[-1] == ("all", "3", "2", "2", "1", "1", "1", "1", "1", "0")
