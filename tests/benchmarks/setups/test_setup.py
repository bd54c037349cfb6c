"""How a set-up ends: works, refused, warned, stopped, silent, fails or absent; and the table of all."""

import warnings
from collections.abc import Callable

import pytest

from benchmarks.setups.page import BEGIN, END, table, with_table
from benchmarks.setups.setup import FILES, GOOD, Row, Setup, _ended, all_setups
from benchmarks.setups.training import Silent, Training, expect
from nrfx.errors import TrainingError, TrainingWarning


def raising(error: Exception) -> Callable[[], str]:
    def run() -> str:
        raise error

    return run


def warning() -> str:
    warnings.warn("two words", TrainingWarning, stacklevel=1)
    raise Silent("and more")


@pytest.mark.parametrize(("one", "outcome", "detail"), [
    (Setup("a", "g", lambda: "seen"), "works", "seen"),
    (Setup("a", "g", raising(TrainingError("no"))), "refused", "TrainingError: no"),
    (Setup("a", "g", warning), "warned", "two words"),
    (Setup("a", "g", raising(Silent("not held"))), "silent", "not held"),
    (Setup("a", "g", raising(RuntimeError("size"))), "fails", "RuntimeError: size"),
    (Setup("a", "g", raising(RuntimeError("size")), stops=True), "stopped", "RuntimeError: size"),
    (Setup("a", "g", raising(ValueError("size")), stops=True), "fails", "ValueError: size"),
    (Setup("a", "g", lambda: "seen", needs=("no-such-package",)), "absent", "no-such-package is not installed"),
])  # fmt: skip
def test_a_set_up_ends_in_one_of_seven_ways(one: Setup, outcome: str, detail: str) -> None:
    assert _ended(one) == (outcome, detail)
    assert (outcome in GOOD) == (outcome in ("works", "refused", "warned", "stopped"))


def test_there_are_two_hundred_set_ups_in_eleven_files_and_the_usual_loop_works() -> None:
    assert len(FILES) == 11 and len(all_setups()) > 150
    assert "8 parameters held, 2 holders agree" in Training().train().checked()


def test_what_does_not_hold_is_found() -> None:
    one = Training().train(event=99)
    with pytest.raises(Silent, match="no event in 14 steps"):
        one.checked(event=4)
    one = Training().train()
    one.optimizer.param_groups[0]["params"].pop()
    with pytest.raises(Silent, match="of 8 parameters 7 are held"):
        one.checked()
    with pytest.raises(Silent, match="a Sequential gives other outputs"):
        Training().train().checked([Training().model])
    with pytest.raises(Silent, match="words"):
        expect(False, "words")


def test_a_table_counts_outcomes_and_breaks_no_cell() -> None:
    rows = [Row("a group", "x | y", "works", "seen", 0.1, "2"), Row("a group", "<z>", GOOD[1], "said " * 99, 0.1, "2")]
    lines = table(rows).splitlines()
    assert lines[0] == "2 set-ups with torch 2: 1 works, 1 refused."
    assert "| x \\| y | works | seen |" in lines and lines[-1].endswith("… |") and "&lt;z&gt;" in lines[-1]
    assert with_table(f"a\n{BEGIN}\nold\n{END}\nb", rows) == f"a\n{BEGIN}\n{table(rows)}\n{END}\nb"
