"""nrfx advise: what is refused, and that JSON and the report say the same."""

import json
from pathlib import Path

import pytest

from nrfx.cli.parser import arguments_parser
from tests.cli.running import printed, refused

NET = "nrfx.experiment.networks:digits_net"
QUICK = ["advise", NET, "--steps", "60", "--batch", "64", "--lr", "0.1", "--penalty", "proximal", "--seeds", "1"]

ADVICE = {
    "neither model nor recipe": ([], "name a MODEL such as resnet18, or a --recipe"),
    "too few steps": ([NET, "--steps", "10"], "steps is 10; expected 60 or more"),
    "no gammas": (["tests.cli.running:gammaless"], "no norm with a gamma"),
    "missing root": ([NET, "--data", "fashion"], "needs the folder that its files are in"),
    "unknown device": ([NET, "--device", "abacus"], "no device 'abacus'"),
    "count of digits": ([NET, "--count", "9"], "--count has no meaning for digits"),
    "budget below what is alive": ([NET, "--budget", "params=x"], "is not a positive amount"),
    "images that do not fit": (["tests.zoo:vgg_bn"], "input was 2x1x8x8, the images of digits"),
}


@pytest.mark.parametrize("case", ADVICE)
def test_advise_exits_2_with_one_line(case: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, words = ADVICE[case]
    assert words in refused(["advise", *arguments], capsys)


def test_json_is_the_advice(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(files.iterdir())
    plain = json.loads(printed([*QUICK, "--json", "--budget", "flops=1.0x"], capsys))
    assert plain["model"] == NET and plain["data"] == "digits" and plain["asked"] == "flops"
    assert plain["gain"] in ("expected", "not expected", "not known") and plain["reason"]
    assert [each["budget"] for each in plain["prospects"]] == ["params", "flops", "both"]
    assert len(plain["trial"]["plain_loss"]) == len(plain["steps"]) == 1
    assert sorted(files.iterdir()) == before


def test_without_a_trial_the_report_has_the_plan_alone(capsys: pytest.CaptureFixture[str]) -> None:
    report = printed([*QUICK, "--no-trial"], capsys)
    assert report.startswith(f"{NET}  a gain over plain training is not ")
    assert "Validation error in the trial" not in report and "params and flops" in report


def test_options_mean_what_they_mean_for_train() -> None:
    train, advise = (vars(arguments_parser().parse_args([name, "net"])) for name in ("train", "advise"))
    assert advise.keys() - train.keys() == {"steps", "seeds", "trial"}
    assert train["lr"] is advise["lr"] is None
