"""The benchmark of searches: a run in small, and the lines that it prints."""

from dataclasses import replace

import pytest

from benchmarks.study import search
from nrfx.experiment.data import digits
from nrfx.training.schedule import steps_of_search


def test_a_run_takes_the_delta_lambda_with_which_gammas_are_dead_in_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(search.CONFIG, epochs=2)
    monkeypatch.setattr(search, "CONFIG", config)
    row = search.run(0.9, 0, digits(0))
    assert (row.part, row.seed, row.search, row.event, row.error_before) == (0.9, 0, 67, None, None)
    steps = steps_of_search(config.lr, row.delta_lambda, 20, search.GAMMA, momentum=config.momentum)
    assert abs(steps - int(0.9 * 67)) <= 1


def test_the_row_of_a_run_with_an_event_holds_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "CONFIG", replace(search.CONFIG, epochs=4, trigger=0.99))
    row = search.run(0.1, 0, digits(0))
    assert row.event is not None and row.event % 20 == 0 and row.event <= row.search
    assert row.r is not None and row.r < 0.99
    assert row.alpha is not None and row.alpha > 1
    assert row.error_before == row.error_after != row.final_error


def test_a_line_is_the_mean_of_the_seeds_that_had_an_event() -> None:
    row = search.Search(0.25, 0, 6.6e-4, 1675, 1100, 0.48, 1.4, 15.0, 16.0, 1.0, "2.14", "2026-01-01", "CPU")
    rows = [row, replace(row, seed=1, event=1000, alpha=1.5, error_before=10.0, error_after=10.0, final_error=0.0)]
    rows += [replace(row, seed=2, event=None, r=None, alpha=None, error_before=None, error_after=None)]
    assert list(search.lines(rows)) == [
        ("25% of the search", "6.6e-04", "2 of 3", "1050", "1.45", "12.5 %", "13.0 %", "0.7 %")
    ]
    assert next(iter(search.lines(rows[2:])))[2:6] == ("0 of 1", "-", "-", "-")
