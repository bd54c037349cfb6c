"""The section on GPUs tells what is missing, until there are files of a run on a GPU."""

from pathlib import Path

from benchmarks.speed.cross_steps import Step
from benchmarks.speed.gpu_checks import Check
from benchmarks.speed.gpu_page import MISSING, section
from benchmarks.table import write_csv

WHERE = ("GPU of 2026", "2.11.0")


def test_without_files_of_a_gpu_the_section_lists_what_is_missing(tmp_path: Path) -> None:
    write_csv(
        [Check("waits", "a step", float("nan"), 0.0, None, "a CPU", "2.11.0", "", "today")],
        tmp_path / "gpu_checks_cpu.csv",
    )
    assert section(tmp_path) == "## On a GPU\n\n" + MISSING.rstrip()


def test_rows_of_a_gpu_become_tables_and_a_check_that_fails_stands_out(tmp_path: Path) -> None:
    checks = [Check("waits", "a step", waits, 0.0, waits <= 0, *WHERE, "3.6.0", "today") for waits in (0.0, 2.0)]
    step = Step(
        "resnet50", "NR-CA", "NHWC", "bfloat16", 1000, 2000, 12.34, 0.02, 1.1, 0.9, 512.0, 256, 7, *WHERE, "today"
    )
    write_csv(checks, tmp_path / "gpu_checks_cuda.csv")
    write_csv([step], tmp_path / "gpu_steps_cuda_bfloat16.csv")
    page = section(tmp_path)
    assert "| waits | a step | 0 | 0 | holds |\n| waits | a step | 2 | 0 | **does not hold** |" in page
    assert "| resnet50 | bfloat16 | NR-CA | 1,000 | 12.3 | 2% | 1.10 | 0.90 | 512 |" in page
    assert "Not measured yet" not in page and "GPU of 2026, torch 2.11.0, today." in page
