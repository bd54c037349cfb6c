"""The benchmark of models that are traced in parts: it covers what it says, and its checks can fail."""

import dataclasses

import pytest
from torchvision import models

from benchmarks.soundness.partial import CASES, checked


def test_every_model_beside_classification_segmentation_and_video_is_a_case() -> None:
    groups = (models.detection, models.optical_flow, models.quantization)
    assert CASES.keys() == {name for group in groups for name in models.list_models(group)}


@pytest.mark.filterwarnings("ignore")
def test_a_row_says_what_was_checked() -> None:
    row = checked("quantized_shufflenet_v2_x0_5", CASES["quantized_shufflenet_v2_x0_5"])
    assert row.passed
    assert row.form == "whole"
    assert row.live < 0.9 < row.after
    for broken in ({"difference": 1e-3}, {"traced_equal": False}, {"refuses_quantized": False}, {"form": "refused"}):
        assert not dataclasses.replace(row, **broken).passed
