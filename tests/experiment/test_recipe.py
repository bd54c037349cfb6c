"""The rows of Table 1: their names, and the options that each means."""

from typing import Any

import pytest

import nrfx
from nrfx.errors import UsageError
from nrfx.experiment.recipe import RECIPES

TABLE_1 = ["BL", "BL-CA", "NR-CR", "NR-FS", "NR", "NR-BR", "NR-CA", "NR-CA-BR", "NR-IP", "NR+DSD"]


@pytest.mark.parametrize(
    ("wrong", "words"), [("NR-XX", "Its rows: BL, BL-CA"), ("nr-ca-br", "close to it: NR-CA-BR"), (["NR"], "no row")]
)
def test_a_name_that_is_not_in_the_table_is_refused_with_those_that_are(wrong: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        nrfx.recipe(wrong)


def test_the_rows_are_those_of_table_1_in_its_order() -> None:
    assert list(RECIPES) == TABLE_1
    assert [nrfx.recipe(name).name for name in TABLE_1] == TABLE_1


def test_each_row_is_nr_with_the_changes_that_its_caption_names() -> None:
    plain = nrfx.recipe("NR").options
    assert plain == {"scheme": "dense", "rescale": False, "reallocate": True, "reinitialize": "rejuvenated"}
    changes = {name: dict(nrfx.recipe(name).options.items() - plain.items()) for name in TABLE_1 if name[:2] == "NR"}
    both = {"scheme": "attention", "rescale": True}
    assert changes == {
        "NR-CR": {"scheme": "removed"},
        "NR-FS": {"reinitialize": "all"},
        "NR": {},
        "NR-BR": {"rescale": True},
        "NR-CA": {"scheme": "attention"},
        "NR-CA-BR": both,
        "NR-IP": {"reallocate": False},
        "NR+DSD": both,
    }
    assert [name for name in TABLE_1 if nrfx.recipe(name).dsd] == ["NR+DSD"]
    assert [name for name in TABLE_1 if not nrfx.recipe(name).rejuvenates] == ["BL", "BL-CA"]
    assert [name for name in TABLE_1 if nrfx.recipe(name).attends] == ["BL-CA"]
