"""The comparison of advice with full runs: what counts as a gain, and when the advice was right."""

from collections.abc import Sequence

import pytest

from benchmarks.study.advice.advised import Advised
from benchmarks.study.advice.page import BEGIN, END, PAGE, Compared, compared, page, section
from benchmarks.study.advice.runs import Full
from nrfx.plan.advice import Gain

NAME = "resnet, even"


def said(gain: Gain) -> Advised:
    return Advised(
        *(NAME, "params", "200 210", "0.49 0.48", "0.01 0.01", "1.5 1.6", "8-8 9-7", 0.2, 0.8, -8.0, "20 21"),
        *("18 19", gain, "why", 30.0, "2.14", "2026-01-01", "CPU"),
    )


def run(row: str, seed: int, test: float) -> Full:
    return Full(NAME, row, seed, 100, 1000, 0, 1.0, 1.0, 10.0, test, "8 8", 20.0, "2.14", "2026-01-01", "CPU")


def settings(gain: Gain, differences: Sequence[float]) -> list[Compared]:
    runs = [run("BL", seed, 10.0) for seed in range(len(differences))]
    runs += [run("NR", seed, 10.0 + difference) for seed, difference in enumerate(differences)]
    return compared({NAME: said(gain)}, runs)


@pytest.mark.parametrize(
    ("differences", "gained"),
    [((-1.0, -1.1, -0.9), True), ((-1.0, 0.5, -0.9), False), ((1.0, 1.1, 0.9), False)],
)
def test_a_gain_is_a_mean_below_0_whose_interval_does_not_hold_0(differences: tuple[float, ...], gained: bool) -> None:
    (expected,), (not_expected,) = settings("expected", differences), settings("not expected", differences)
    assert expected.gained is not_expected.gained is gained
    assert expected.right is gained and not_expected.right is not gained


def test_what_is_not_known_counts_as_no_gain_expected() -> None:
    assert settings("not known", (0.1, 0.2))[0].right and not settings("not known", (-1.0, -1.1, -0.9))[0].right


def test_a_setting_needs_both_rows_of_two_seeds() -> None:
    assert settings("expected", (-1.0,)) == []
    assert compared({NAME: said("expected")}, [run("BL", 0, 1.0), run("NR", 1, 1.0)]) == []


def test_the_section_counts_what_was_right() -> None:
    text = section(settings("expected", (-1.0, -1.1, -0.9)))
    assert text.startswith("Held back: right on **1 of 1**; 1 of 1 if any mean")
    assert "Who never expects one is right on 0, and 0." in text
    assert (
        "| resnet, even | params | expected | -8 % | 0.20 | 80 % | 8 8 | 8 8 | 3 | 0 | **-1.00 ± 0.25** | yes | right |"
        in text
    )


def test_the_page_keeps_all_that_is_not_a_table() -> None:
    text = page(settings("expected", (-1.0, -1.1, -0.9)))
    before, after = PAGE.read_text().partition(BEGIN)[0], PAGE.read_text().partition(END)[2]
    assert text.startswith(before) and text.endswith(after) and text.count(BEGIN) == text.count(END) == 1
