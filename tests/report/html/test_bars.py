"""Bars: parts are as their numbers, lengths as the roots of widths."""

import pytest

from nrfx.analysis.utilization import Share
from nrfx.report.html.bars import MEANT, WORDS, bar, of_share


def test_parts_are_as_their_numbers_and_none_is_empty() -> None:
    it = bar([("live", 48), ("held", 0), ("dead", 16)])
    assert [(part.kind, part.number, part.percent) for part in it.parts] == [("live", 48, 75.0), ("dead", 16, 25.0)]
    assert it.label == "48 live, 16 dead" and it.length == 100


@pytest.mark.parametrize(("width", "length"), [(0, 0.0), (16, 25.0), (64, 50.0), (256, 100.0)])
def test_the_length_of_a_bar_is_as_the_root_of_the_width(width: int, length: float) -> None:
    assert bar([("live", width)], 256).length == length


def test_what_is_not_understood_is_a_part_of_what_counts_as_live() -> None:
    it = of_share(Share(70, 100), 30)
    assert [(part.kind, part.number) for part in it.parts] == [("live", 40), ("unseen", 30), ("dead", 30)]


def test_every_kind_of_part_has_a_word_and_a_meaning() -> None:
    assert WORDS.keys() == MEANT.keys()
