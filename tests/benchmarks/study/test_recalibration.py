"""The benchmark of recalibration: runs in small, and the lines that it prints."""

from dataclasses import replace

import pytest

from benchmarks.study import recalibration
from nrfx.experiment.data import digits


def test_both_runs_have_one_function_at_the_event_and_other_statistics_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        recalibration, "CONFIG", replace(recalibration.CONFIG, delta_lambda=0.1, interval=5, trigger=0.99)
    )
    plain, calibrated = (list(recalibration.after_the_event(0, way, digits(0), steps=(0, 3))) for way in (False, True))
    assert [sight.step for sight in plain] == [sight.step for sight in calibrated] == [0, 3]
    assert calibrated[0].loss == pytest.approx(plain[0].loss, rel=1e-4)
    assert calibrated[1].loss != plain[1].loss


def test_a_line_holds_the_means_of_both_ways() -> None:
    sight = recalibration.Sight(False, 0, 5, 0.25, 4.0, "2.14", "2026-01-01", "CPU")
    others = [replace(sight, seed=1, loss=0.75, error=6.0), replace(sight, calibrated=True, loss=0.125)]
    assert list(recalibration.lines([sight, *others])) == [("5", "0.500", "5.0 %", "0.125", "4.0 %")]
