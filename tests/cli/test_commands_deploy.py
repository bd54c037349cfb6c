"""The commands on the way out: compact, export, and the time of a forward."""

import json
from pathlib import Path

import pytest
import torch

from nrfx.cli.commands import COMMANDS
from nrfx.models.names import resolve
from tests.cli.running import IMAGE, printed, refused

WASTEFUL = ["tests.cli.running:wasteful", *IMAGE]


def test_compact_and_export_are_commands() -> None:
    assert {"compact", "export"} <= COMMANDS.keys()


def test_a_compacted_network_is_saved_and_exported(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command takes what the one before wrote, as a file of weights."""
    report = printed(["compact", *WASTEFUL, "-o", "small.safetensors"], capsys)
    plain = json.loads(printed(["compact", *WASTEFUL, "--verify", "--json"], capsys))
    assert "compacted  its dead channels are dropped" in report and "Saved to small.safetensors" in report
    assert f"{plain['after']['params']['total']:,}" in report and plain["budget"] is None and plain["difference"] < 1e-4
    widths = plain["widths"]["layer1.0.conv1"]
    assert widths["new"] == widths["kept"] < widths["old"] and widths["fresh"] == 0

    exported = ["export", "tests.zoo:resnet", "--weights", "small.safetensors", "-o", "small.pt2", "--free", "sizes"]
    plain = json.loads(printed([*exported, "--json"], capsys))
    assert (plain["path"], plain["inputs"]) == ("small.pt2", ["x [batch, 3, x_2, x_3] float32"])
    assert plain["difference"] < 1e-4 and len(plain["compared"]) > 3
    module = resolve("tests.zoo:resnet", weights="small.safetensors").module.eval()
    x = torch.randn(4, 3, 20, 24)
    torch.testing.assert_close(torch.export.load("small.pt2").module()(x), module(x))


def test_a_file_that_is_not_compared_says_so(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(["export", "tests.zoo:vgg_bn", "--input", "2,3,16,16", "-o", "x.pt2", "--no-check"], capsys)
    assert "x.pt2 (torch.export)\n  in   input [batch, 3, 16, 16] float32\n  out  output\n" in out
    assert "The file was not compared with the network: check=False." in out and Path("x.pt2").exists()


def test_nothing_to_compact_exits_2_with_the_reason(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Nothing is dead" in refused(["compact", "tests.zoo:vgg_bn", *IMAGE, "-o", "x.safetensors"], capsys)
    assert not Path("x.safetensors").exists()


@pytest.mark.parametrize("width", ["80", "160"])
def test_the_time_of_a_forward_stands_below_the_flops(
    width: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setattr("nrfx.deploy.latency.MOST", 20)
    report = printed(["inspect", *WASTEFUL, "--latency"], capsys).splitlines()
    assert max(map(len, report)) <= int(width)
    (row,) = (index for index, line in enumerate(report) if line.startswith("time "))
    assert report[row - 1].startswith("flops ") and "middle half of 20 runs: " in report[row]
    assert "1x3x16x16 on cpu, " in report[row + 1] and "flops a second" in report[row + 1]


def test_the_time_of_a_forward_is_in_the_json_in_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nrfx.deploy.latency.MOST", 20)
    plain = json.loads(printed(["inspect", *WASTEFUL, "--latency", "--device", "cpu", "--json"], capsys))["latency"]
    assert 0 < plain["low"] <= plain["median"] <= plain["high"] < 10
    assert (plain["runs"], plain["device"], plain["inputs"]) == (20, "cpu", [[1, 3, 16, 16]])


LATENCY = {
    "a device without a measurement": (["--device", "cpu"], "--device says where --latency measures"),
    "no such device": (["--latency", "--device", "nowhere"], "There is no device 'nowhere' here"),
}


@pytest.mark.parametrize("case", LATENCY)
def test_a_wrong_device_is_named(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, words = LATENCY[case]
    assert words in refused(["inspect", *WASTEFUL, *arguments], capsys)
