"""What a piece of work takes in memory beyond what lay there before."""

import sys

import pytest
import torch

from benchmarks.speed.child import MIB, answer, measured

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_the_peak_is_what_the_work_takes_and_what_lay_there_before_does_not_count() -> None:
    before = torch.ones(64 * MIB // 4)
    figures = measured(lambda: torch.ones(32 * MIB // 4).sum())
    assert before.numel() and 30 < figures["peak_mib"] < 48


def test_a_process_started_by_a_large_one_does_not_begin_with_its_peak() -> None:
    large = torch.ones(700 * MIB // 4)
    assert large.numel() and answer("benchmarks.speed.growth", "2", "utilization")["peak_mib"] < 100
