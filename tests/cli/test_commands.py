"""The commands: one line on stderr and exit code 2 for a mistake, a report or JSON otherwise."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from nrfx.cli.commands import main
from tests.cli.running import IMAGE, printed, refused

ERRORS = {
    "unknown model": (["resnet81"], "resnet18"),
    "unreadable file": (["tests.zoo:vgg_bn", "--weights", "garbage.pt"], "garbage.pt cannot be read"),
    "absent file": (["tests.zoo:vgg_bn", "--weights", "absent.pt"], "no such file"),
    "mismatched weights": (["tests.zoo:vgg_bn", "--weights", "wider.pt"], "8.weight is [20, 12, 3, 3]"),
    "cannot be traced": (["tests.cli.running:Branching"], "--input gives another"),
    "wrong input": (["tests.zoo:vgg_bn", "--input", "1,3,32,32"], "input was 1x3x32x32"),
    "no shape": (["tests.zoo:vgg_bn", "--input", "1,3,-2"], "is no shape"),
    "NaN in a gamma": (["tests.cli.running:diverged", *IMAGE], "5.weight[3] is nan"),
    "no gamma at all": (["tests.cli.running:without_gamma", *IMAGE], "gamma"),
    "threshold out of range": (["tests.zoo:vgg_bn", *IMAGE, "--threshold", "2"], "threshold is 2.0"),
    "unknown option": (["tests.zoo:vgg_bn", "--wieghts", "x"], "--wieghts"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_inspect_exits_2_with_one_line(case: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, words = ERRORS[case]
    assert words in refused(["inspect", *arguments], capsys)


MISTYPED = {
    "nrfx inspect resnet18 --wieghts=x": "--wieghts=x; close to it: --weights (see nrfx inspect --help)",
    "nrfx inspct resnet18": "; close to it: inspect (see nrfx --help)",
    "nrfx why resnet18 --residual cupled": "; close to it: coupled (see nrfx why --help)",
    "nrfx --vresion": "unrecognized arguments: --vresion; close to it: --version (see nrfx --help)",
    "nrfx plot runs/a --zzz": "unrecognized arguments: --zzz (see nrfx plot --help)",
}


@pytest.mark.parametrize("command", MISTYPED)
def test_what_is_mistyped_is_told_with_what_is_close_and_the_help_of_the_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(command.split()[1:], capsys).endswith(f"{MISTYPED[command]}\n")


@pytest.mark.parametrize("case", ERRORS)
def test_rejuvenate_exits_2_with_one_line_and_writes_nothing(
    case: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, words = ERRORS[case]
    before = sorted(files.iterdir())
    line = refused(["rejuvenate", *arguments, "--budget", "params=1.0x", "-o", "out.safetensors"], capsys)
    assert words in line
    assert sorted(files.iterdir()) == before


BUDGETS = {
    "params=0": "params=0",
    "flops=-1.0x": "flops=-1.0x",
    "params=nan": "params=nan",
    "params=infx": "params=infx",
    "params=": "params=",
    "params=0.1": "positive integer",
    "memory=1M": "memory=1M",
    "params=1M,params=2M": "params=2M",
    "params=0.01x": "The live channels alone cost",
    "params=1K": "budget is 1,000 params",
}


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_budget_that_is_none_or_too_small_exits_2_and_writes_nothing(
    budget: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(files.iterdir())
    arguments = ["rejuvenate", "tests.cli.running:wasteful", *IMAGE, "--budget", budget, "-o", "out.safetensors"]
    assert BUDGETS[budget] in refused(arguments, capsys)
    assert sorted(files.iterdir()) == before


def test_a_missing_budget_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--budget params=11.7M" in refused(["rejuvenate", "tests.zoo:vgg_bn", *IMAGE], capsys)


@pytest.mark.parametrize("output", ["no/such/folder/x.safetensors", "."])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    output: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(["rejuvenate", "not_even_looked:at", "--budget", "params=1.0x", "-o", output], capsys)
    assert output in line and "not_even_looked" not in line


def test_nothing_to_rejuvenate_exits_2_with_the_reason(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["rejuvenate", "tests.zoo:vgg_bn", *IMAGE, "--budget", "params=1.0x", "-o", "out.safetensors"]
    assert "Nothing is dead" in refused(arguments, capsys)
    assert not (files / "out.safetensors").exists()


def test_nothing_dead_is_no_error_to_inspect(capsys: pytest.CaptureFixture[str]) -> None:
    assert "all of it is alive" in printed(["inspect", "tests.zoo:vgg_bn", *IMAGE], capsys)


def test_a_model_whose_name_is_known_is_inspected(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(["inspect", "resnet18"], capsys)
    assert "resnet18 (untrained)" in out
    assert "11,689,512 of 11,689,512" in out
    assert "1,814,073,344 of 1,814,073,344" in out


@pytest.mark.parametrize("width", ["80", "160"])
def test_the_report_has_the_numbers_of_the_json_and_fits_the_terminal(
    width: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    report = printed(["inspect", "tests.cli.running:wasteful", *IMAGE], capsys)
    plain = json.loads(printed(["inspect", "tests.cli.running:wasteful", *IMAGE, "--json"], capsys))
    assert max(map(len, report.splitlines())) <= int(width)
    for measure in ("params", "flops"):
        live, total, ratio = (plain[measure][key] for key in ("live", "total", "ratio"))
        assert f"{live:,} of {total:,}" in report
        assert f"{100 * ratio:.1f} %" in report
        assert live == sum(row[f"{measure}_live"] for row in plain["rows"]) < total
    for reason, count in plain["held"]:
        assert f"{count:,}  {reason}" in report


def test_a_rejuvenated_model_is_saved_verified_and_read_again(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "rejuvenate",
        "tests.cli.running:wasteful",
        *IMAGE,
        "--budget",
        "params=1.0x,flops=2.0x",
        "--verify",
    ]
    report = printed([*arguments, "-o", "out.safetensors"], capsys)
    plain = json.loads(printed([*arguments, "--json"], capsys))
    assert f"alpha = {plain['alpha']:.4g}" in report
    assert f"{plain['after']['params']['total']:,}" in report and f"{plain['after']['flops']['total']:,}" in report
    assert "Saved to out.safetensors" in report and "Verified" in report
    assert "the model and the traced network on" in report
    assert plain["after"]["params"]["total"] <= plain["budget"]["params"] == plain["before"]["params"]["total"]
    assert plain["difference"] < 1e-3 and plain["output"] is None
    again = json.loads(
        printed(["inspect", "tests.cli.running:wasteful", *IMAGE, "--weights", "out.safetensors", "--json"], capsys)
    )
    assert again["params"]["total"] == plain["after"]["params"]["total"]


def test_every_report_on_a_model_is_also_written_as_a_page(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["tests.cli.running:wasteful", *IMAGE]
    commands = {
        "inspect": (["inspect", *model], "layers work with dead channels"),
        "rejuvenate": (["rejuvenate", *model, "--budget", "params=1.0x"], "is met"),
        "compact": (["compact", *model], "its dead channels are dropped"),
        "why": (["why", model[0], "layer1.0.conv2", *IMAGE], "on a stream"),
    }
    for name, (arguments, words) in commands.items():
        out = printed([*arguments, "--html", f"{name}.html"], capsys)
        assert out.splitlines()[-1] == f"The page is {name}.html."
        page = (files / f"{name}.html").read_text(encoding="utf-8")
        assert page.startswith("<!DOCTYPE html>") and words in page and "tests.cli.running:wasteful" in page
    assert json.loads(printed(["inspect", *model, "--json", "--html", "inspect.html"], capsys))["rows"]


@pytest.mark.parametrize("command", [["inspect"], ["why"], ["compact"], ["rejuvenate", "--budget", "params=1.0x"]])
def test_a_page_that_cannot_be_written_is_refused_before_the_work(
    command: list[str], files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused([*command, "tests.zoo:vgg_bn", *IMAGE, "--html", "absent/page.html"], capsys)
    assert "absent/page.html cannot be written: there is no folder absent" in line


def test_what_is_inspected_is_compared_with_the_model_at_several_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["inspect", "tests.cli.running:wasteful", *IMAGE, "--verify"]
    plain = json.loads(printed([*arguments, "--json"], capsys))
    assert plain["difference"] < 1e-4 and not plain["refused"]
    assert sum("the model and the traced network" in line for line in plain["compared"]) == len(plain["compared"]) > 3
    report = printed(arguments, capsys)
    assert "Verified: the traced network and the model differ by" in report
    assert all(f"network on {size}: " in report for size in ("[2, 3, 16, 16]", "[1, 3, 24, 16]"))


def test_a_traced_network_that_is_not_its_model_is_told_and_its_size_with_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = refused(["inspect", "tests.cli.running:keyed", *IMAGE, "--verify"], capsys)
    assert "On [1, 3, 24, 16]: output differs by" in told and told.startswith("nrfx: error:")
    assert "keyed" in printed(["inspect", "tests.cli.running:keyed", *IMAGE], capsys)


def test_a_size_that_a_traced_network_refuses_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    plain = json.loads(printed(["inspect", "tests.cli.running:branching", *IMAGE, "--verify", "--json"], capsys))
    assert [line.partition(":")[0] for line in plain["refused"]] == ["[1, 3, 24, 16]", "[1, 3, 24, 24]"]


def test_the_same_seed_gives_the_same_network(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        printed(["rejuvenate", "tests.cli.running:wasteful", *IMAGE, "--budget", "params=1.0x", "-o", name], capsys)
    assert (files / "a").read_bytes() == (files / "b").read_bytes()


def test_options_reach_the_rewrite(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["rejuvenate", "tests.cli.running:wasteful", *IMAGE, "--budget", "params=1.0x", "--json"]
    options = ["--scheme", "dense", "--round-to", "4", "--residual", "coupled", "--no-rescale"]
    plain = json.loads(printed([*arguments, *options], capsys))
    assert {row["op"] for row in plain["after"]["rows"]} == {"Conv2d", "BatchNorm2d", "Linear"}
    assert plain["after"]["residual"] == "coupled"


def test_runs_are_plotted(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["train", "nrfx.experiment.networks:digits_net", "--epochs", "1", "--batch", "200", "--out", "run", "--json"]
    assert main(run) == 0
    capsys.readouterr()
    plain = json.loads(printed(["plot", "run", "-o", "figure.png", "--json"], capsys))
    assert plain["files"] == ["figure.png", "figure.svg"]
    assert all((files / name).stat().st_size > 1_000 for name in plain["files"])
    assert "holds no run" in refused(["plot", "absent"], capsys)


def test_the_demo_writes_to_the_folder_asked_for(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["demo", "--data", "digits", "--epochs", "1", "--seeds", "2", "--jobs", "1", "--out", "here", "--json"])
        == 0
    )
    assert {"data", "seeds", "interval", "verdict"} <= json.loads(capsys.readouterr().out).keys()
    assert all(
        (files / "here" / f"seed-{seed}" / row / "log.jsonl").exists() for seed in (0, 1) for row in ("plain", "nr")
    )
    assert "absent cannot be read" in refused(["demo", "--data-root", "absent"], capsys)


@pytest.mark.parametrize(
    "command", ["inspect", "why", "rejuvenate", "compact", "export", "train", "plot", "demo", "doctor"]
)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"example:\n  nrfx {command}" in capsys.readouterr().out


def test_the_version_is_printed_by_the_module_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["nrfx", "--version"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("nrfx", run_name="__main__")
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("nrfx ")


def test_a_defect_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("nrfx.models.resolve", broken)
    with pytest.raises(ZeroDivisionError):
        main(["inspect", "tests.zoo:vgg_bn"])


def test_an_interruption_exits_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nrfx.models.resolve", interrupted)
    assert main(["inspect", "tests.zoo:vgg_bn"]) == 130
    assert capsys.readouterr().err == "nrfx: interrupted\n"


def test_why_tells_the_chain_of_a_layer_and_its_json_holds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["why", "tests.zoo:resnet", "layer1.0.conv2", *IMAGE]
    out = printed(arguments, capsys)
    assert out.startswith("layer1.0.conv2  Conv2d of tests.zoo:resnet") and "zoo.py:" in out
    plain = json.loads(printed([*arguments, "--json"], capsys))
    assert plain["model"] == "tests.zoo:resnet" and plain["layer"] == "layer1.0.conv2"
    chains = {part["axis"]: [link["node"] for link in part["chain"]] for part in plain["parts"]}
    assert chains == {"out": ["layer1_0_conv2", "layer1_0_bn2", "iadd"], "in": []}


def test_why_without_a_layer_tells_every_layer_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(["why", "tests.zoo:vgg_bn", *IMAGE], capsys)
    assert [line.split()[0] for line in out.splitlines()[4:8]] == ["0", "4", "8", "13"]


def test_why_takes_the_options_of_the_analysis(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["why", "tests.zoo:resnet", "layer1.0.conv2", *IMAGE, "--residual"]
    assert "on a stream" in printed([*arguments, "fixed"], capsys)
    assert "on a stream" not in printed([*arguments, "coupled"], capsys)
    assert "threshold is 1.5" in refused([*arguments, "live", "--threshold", "1.5"], capsys)


def test_why_offers_the_names_that_are_close(capsys: pytest.CaptureFixture[str]) -> None:
    assert "close to it: layer1.0.conv2" in refused(["why", "tests.zoo:resnet", "layer1.0.con2", *IMAGE], capsys)
