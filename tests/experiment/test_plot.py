"""The figure: runs that it refuses, and the curves that it draws."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from nrfx.errors import UsageError
from nrfx.experiment.loop import train
from nrfx.experiment.plot import _draw, plot
from nrfx.experiment.record import read_log
from tests.experiment.test_loop import QUICK, dataset, half_dead, network


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """A plain run, and one with an event."""
    train(network(), dataset(), QUICK, out=tmp_path / "a" / "run")
    gm, budget = half_dead()
    train(gm, dataset(), replace(QUICK, interval=3), budget, tmp_path / "b" / "run")
    return [tmp_path / "a" / "run", tmp_path / "b" / "run"]


def test_without_matplotlib_it_says_how_to_get_it_but_first_which_folder_holds_no_run(
    monkeypatch: pytest.MonkeyPatch, runs: list[Path], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match=r"pip install 'nrfx\[plot\]'"):
        plot(runs, tmp_path / "x.png")
    with pytest.raises(UsageError, match="nothere holds no run"):
        plot([tmp_path / "nothere"], tmp_path / "x.png")


def test_folders_without_a_run_or_an_epoch_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        plot([tmp_path], tmp_path / "x.png")
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(UsageError, match="no epoch yet"):
        plot([tmp_path], tmp_path / "x.png")
    with pytest.raises(UsageError, match="nothing to draw"):
        plot([], tmp_path / "x.png")
    with pytest.raises(UsageError, match="measure is 'time'"):
        plot([tmp_path], tmp_path / "x.png", measure="time")


def test_a_place_that_cannot_be_written_is_named(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        plot(runs, tmp_path / "no" / "x.png")


def test_both_files_are_written_and_name_the_runs(runs: list[Path], tmp_path: Path) -> None:
    png, svg = plot(runs, tmp_path / "figure.pdf")
    assert (png.name, svg.name) == ("figure.png", "figure.svg")
    with Image.open(png) as image:
        assert image.size == (1152, 864)
    drawn = svg.read_text()
    for words in (
        "a/run",
        "b/run",
        "utilization of params, %",
        "validation accuracy, %",
        "epoch (circles: rejuvenations)",
        "with running statistics, which lag behind",
    ):
        assert f"<!-- {words} -->" in drawn, words


def test_a_run_of_an_earlier_version_is_drawn_with_the_one_score_that_it_has(tmp_path: Path) -> None:
    drawn = plot([Path(__file__).parent.parent / "data" / "saved" / "run"], tmp_path / "figure")[1].read_text()
    assert "<!-- validation accuracy, % -->" in drawn and "lag behind" not in drawn


@pytest.mark.parametrize("measure", ["params", "flops"])
def test_both_curves_pass_through_the_event(runs: list[Path], measure: str) -> None:
    axes = Figure().subplots(2, 1)
    log = read_log(runs[1])
    _draw(axes, log, measure, "run", "black", "-")
    (event,) = log.events
    assert event.r == event.r_params != event.r_flops  # the budget is one of params
    before = event.r_params if measure == "params" else event.r_flops
    curve, circle = axes[0].lines[0].get_xydata().tolist(), axes[0].lines[-1].get_xydata().tolist()
    assert circle == [[event.step / log.epochs[0].step, 100 * before]]
    assert circle[0] in curve and len(curve) == len(log.epochs) + 1
    assert axes[1].lines[-1].get_xydata().tolist()[0] in axes[1].lines[0].get_xydata().tolist()
    lagging = {100 - epoch.lagging_error for epoch in log.epochs} | {100 - event.lagging_error_before}
    faint = [line for line in axes[1].lines if line.get_alpha()]
    assert len(faint) == 1 and set(faint[0].get_ydata().tolist()) == lagging != set(axes[1].lines[0].get_ydata())
    ends = {100 - epoch.validation_error for epoch in log.epochs}
    assert ends | {100 - event.validation_error_before} == set(axes[1].lines[0].get_ydata().tolist())
