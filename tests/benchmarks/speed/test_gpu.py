"""The script for a GPU, on the CPU: rows are kept as they come, and nothing starts when the time is over."""

from pathlib import Path

import pytest
import torch

from benchmarks.speed import gpu
from benchmarks.speed.gpu_checks import Check, check, differences
from benchmarks.table import read_csv


def test_rows_are_in_the_file_after_each_case(tmp_path: Path) -> None:
    sheet = gpu.Sheet(tmp_path / "gpu_checks_cpu.csv")
    for number in (1, 2):
        sheet.add([check("figure", str(number), 0.5, 1.0, torch.device("cpu"))])
        assert [row.case for row in read_csv(Check, sheet.path)] == ["1", "2"][:number]


def test_a_figure_without_a_limit_or_that_could_not_be_measured_is_no_verdict() -> None:
    figures = [(0.5, 1.0), (2.0, 1.0), (0.5, float("inf")), (float("nan"), 1.0)]
    assert [check("", "", *each, torch.device("cpu")).holds for each in figures] == [True, False, None, None]


def test_the_kernels_of_this_device_agree_with_float64() -> None:
    rows = list(differences(torch.device("cpu"), quick=True))
    assert len(rows) >= 6 and all(row.holds for row in rows)


def test_what_has_no_time_left_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(gpu.Run, "check", lambda self: None)
    assert gpu.main(["--device", "cpu", "--quick", "--seconds", "0", "--to", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "Out of time: training steps of resnet50 (1)" in said and "0 of 0 checks do not hold." in said
    assert list(tmp_path.iterdir()) == []
