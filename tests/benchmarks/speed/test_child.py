"""What a piece of work takes in memory beyond what lay there before."""

import sys

import pytest
import torch

from benchmarks.speed.child import MIB, measured


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_is_what_the_work_takes_and_what_lay_there_before_does_not_count() -> None:
    before = torch.ones(64 * MIB // 4)
    figures = measured(lambda: torch.ones(32 * MIB // 4).sum())
    assert before.numel() and 30 < figures["peak_mib"] < 48
