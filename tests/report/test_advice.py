"""Advice in the terminal: it fits its width, and every number is one of the advice."""

import pytest

from nrfx.plan.advice import Advice
from nrfx.report import advice_report, render
from tests.plan.test_advice import MOVED, advice, trial


def text(told: Advice, width: int = 80) -> str:
    return render(advice_report(told, "net"), width)


@pytest.mark.parametrize("width", [60, 80, 160])
def test_no_line_exceeds_its_width(width: int) -> None:
    told = advice(MOVED, (12, 16, 24), trial=trial(-0.2, -0.2))
    assert max(map(len, text(told, width).splitlines())) <= width


def test_the_verdict_comes_first_and_the_reason_behind_it() -> None:
    lines = text(advice(MOVED, MOVED, trial=trial(-0.2, -0.2))).splitlines()
    assert lines[0] == "net  a gain over plain training is expected"
    assert lines[2].startswith("Why: within its params, in 300 steps from scratch the planned network had a loss")
    assert "Validation error in the trial: 20.0 % as it is, 18.0 % as planned." in lines


def test_layers_that_starve_and_waste_are_named_with_their_widths() -> None:
    found = text(advice(MOVED, (12, 16, 24)))
    assert "a starves." in found and "c wastes." in found
    row = next(line for line in found.splitlines() if line.startswith("b (+1)"))
    assert row.split() == ["b", "(+1)", "16", "8", "16"]
    assert next(line for line in found.splitlines() if line.startswith("a   ")).split()[-2:] == ["12-16", "starves"]


def test_a_plan_from_gammas_that_still_live_says_so() -> None:
    assert "takes gammas below 0.30 of the largest" in " ".join(text(advice(MOVED, threshold=0.3)).split())
    assert "takes gammas below" not in text(advice(MOVED))


def test_one_seed_says_nothing_of_steadiness() -> None:
    assert "agree by" not in text(advice(MOVED)) and "agree by" in text(advice(MOVED, MOVED))


def test_a_wide_terminal_shows_widths_as_bars() -> None:
    wide = text(advice(MOVED), 160)
    assert "█ stays ▒ comes · goes" in wide and "▒" in wide.splitlines()[-3] and "·" in wide.splitlines()[-1]


def test_printing_an_advice_prints_its_report() -> None:
    told = advice(MOVED)
    assert str(told) == render(advice_report(told))
