"""The benchmark of exports on a network that takes seconds."""

from pathlib import Path

from torch import nn

from benchmarks.networks import Network
from benchmarks.soundness import exports
from benchmarks.timing import Environment


def test_a_row_says_how_files_and_class_agree(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())

    row = exports.examine("small", Network(build, side=8), "compact", tmp_path, Environment.here())
    assert row.passed and 0 < row.onnx < exports.ROUNDING and row.pt2 == row.own_class == 0
    assert 0 < row.megabytes < 1 and (row.model, row.scheme) == ("small", "compact")
    assert {path.suffix for path in tmp_path.iterdir()} == {".onnx", ".pt2"}
