import json
import math
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.cli.commands import _parser, main
from nrfx.cli.train import asked
from nrfx.errors import BudgetError
from nrfx.experiment.record import Folder
from nrfx.plan.budget_request import parse_budget
from tests import zoo

IMAGE = ["--input", "1,3,16,16"]


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


def wasteful() -> nn.Module:
    return zoo.with_dead(zoo.resnet())


def diverged() -> nn.Module:
    model = zoo.vgg_bn()
    with torch.no_grad():
        zoo.norms(model)[1].weight[3] = math.nan
    return model


def without_gamma() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 2))


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line on stderr of a command that must exit 2 and print nothing else."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("nrfx: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a file that is no weights and one that fits another model."""
    (tmp_path / "garbage.pt").write_bytes(b"nothing of the kind")
    torch.save(zoo.vgg_bn(widths=(8, 12, 20)).state_dict(), tmp_path / "wider.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


ERRORS = {
    "unknown model": (["resnet81"], "resnet18"),
    "unreadable file": (["tests.zoo:vgg_bn", "--weights", "garbage.pt"], "garbage.pt cannot be read"),
    "absent file": (["tests.zoo:vgg_bn", "--weights", "absent.pt"], "no such file"),
    "mismatched weights": (["tests.zoo:vgg_bn", "--weights", "wider.pt"], "8.weight is [20, 12, 3, 3]"),
    "cannot be traced": (["tests.cli.test_commands:Branching"], "--input gives another"),
    "wrong input": (["tests.zoo:vgg_bn", "--input", "1,3,32,32"], "input was 1x3x32x32"),
    "no shape": (["tests.zoo:vgg_bn", "--input", "1,3,-2"], "is no shape"),
    "NaN in a gamma": (["tests.cli.test_commands:diverged", *IMAGE], "5.weight[3] is nan"),
    "no gamma at all": (["tests.cli.test_commands:without_gamma", *IMAGE], "gamma"),
    "threshold out of range": (["tests.zoo:vgg_bn", *IMAGE, "--threshold", "2"], "threshold is 2.0"),
    "unknown option": (["tests.zoo:vgg_bn", "--wieghts", "x"], "--wieghts"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_inspect_exits_2_with_one_line(case: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, words = ERRORS[case]
    assert words in refused(["inspect", *arguments], capsys)


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
    arguments = ["rejuvenate", "tests.cli.test_commands:wasteful", *IMAGE, "--budget", budget, "-o", "out.safetensors"]
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
    report = printed(["inspect", "tests.cli.test_commands:wasteful", *IMAGE], capsys)
    plain = json.loads(printed(["inspect", "tests.cli.test_commands:wasteful", *IMAGE, "--json"], capsys))
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
        "tests.cli.test_commands:wasteful",
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
    assert plain["after"]["params"]["total"] <= plain["budget"]["params"] == plain["before"]["params"]["total"]
    assert plain["difference"] < 1e-3 and plain["output"] is None
    again = json.loads(
        printed(
            ["inspect", "tests.cli.test_commands:wasteful", *IMAGE, "--weights", "out.safetensors", "--json"], capsys
        )
    )
    assert again["params"]["total"] == plain["after"]["params"]["total"]


def test_the_same_seed_gives_the_same_network(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        printed(
            ["rejuvenate", "tests.cli.test_commands:wasteful", *IMAGE, "--budget", "params=1.0x", "-o", name], capsys
        )
    assert (files / "a").read_bytes() == (files / "b").read_bytes()


def test_options_reach_the_rewrite(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["rejuvenate", "tests.cli.test_commands:wasteful", *IMAGE, "--budget", "params=1.0x", "--json"]
    options = ["--scheme", "dense", "--round-to", "4", "--residual", "coupled", "--no-rescale"]
    plain = json.loads(printed([*arguments, *options], capsys))
    assert {row["op"] for row in plain["after"]["rows"]} == {"Conv2d", "BatchNorm2d", "Linear"}
    assert plain["after"]["residual"] == "coupled"


def test_training_leaves_a_run_that_can_be_inspected(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = "nrfx.experiment.demo:digits_net"
    arguments = ["train", model, "--epochs", "1", "--batch", "64", "--budget", "params=1.0x", "--out", "run", "--json"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "\ndigits_net  epoch   1/1" in captured.err
    plain = json.loads(captured.out)
    assert plain["epochs"] == 1 and plain["out"] == "run"
    u = json.loads(printed(["inspect", model, "--weights", "run/model.safetensors", "--json"], capsys))
    assert u["params"]["total"] == plain["params"]


TRAININGS = {
    "neither model nor recipe": ([], "name a MODEL such as resnet18, or a --recipe"),
    "unknown recipe": (["--recipe", "digit"], "close to it: digits"),
    "unknown row": (["--recipe", "digits", "--row", "NR-BL"], "no row 'NR-BL'"),
    "scheme and row": (["--recipe", "digits", "--scheme", "dense"], "the row decides the scheme"),
    "budget of a baseline": (
        ["tests.zoo:vgg_bn", "--row", "BL", "--budget", "params=1.0x"],
        "--budget has no meaning for BL",
    ),
    "trigger and no budget": (["tests.zoo:vgg_bn", "--trigger", "0.3"], "--trigger has no meaning for BL"),
    "missing root": (["tests.zoo:vgg_bn", "--data", "cifar10"], "needs the folder that its files are in"),
    "absent root": (["tests.zoo:vgg_bn", "--data", "folder", "--data-root", "absent"], "no folder absent"),
    "unknown device": (["nrfx.experiment.demo:digits_net", "--device", "abacus"], "no device 'abacus'"),
    "nothing to resume": (["--resume", "absent"], "absent holds no run"),
    "changed and resumed": (["--resume", "absent", "--epochs", "3"], "--epochs cannot be changed"),
    "images that do not fit": (["tests.zoo:vgg_bn"], "input was 2x1x8x8, the images of digits; --channels and --size"),
}


@pytest.mark.parametrize("case", TRAININGS)
def test_train_exits_2_with_one_line_and_writes_nothing(
    case: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(files.iterdir())
    arguments, words = TRAININGS[case]
    assert words in refused(["train", *arguments], capsys)
    assert sorted(files.iterdir()) == before


def test_a_recipe_is_trained_with_the_row_and_the_options_given_over_it(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "own.toml").write_text(
        'row = "NR-CR"\nmodel = "nrfx.experiment.demo:digits_net"\n[train]\nepochs = 9\ninterval = 2\nlr = 0.05\n'
    )
    over = ["--row", "NR-IP", "--epochs", "1", "--batch", "200", "--seed", "3"]
    assert main(["train", "--recipe", "own.toml", *over, "--out", "run", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["row"] == "NR-IP"
    assert "A gamma of 0.5 that the loss has no use for dies after" in " ".join(captured.err.split())
    told = json.loads((files / "run" / "config.json").read_text())
    assert (told["reallocate"], told["epochs"], told["batch_size"], told["seed"]) == (False, 1, 200, 3)
    assert (told["lr"], told["interval"], told["row"]) == (0.05, 2, "NR-IP")


def test_the_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    plain = json.loads(printed(["train", "--recipe", "list", "--json"], capsys))
    assert plain["table3-mobilenet-025"]["row"] == "NR-CA-BR"
    assert "table5-vgg19-c100" in printed(["train", "--recipe", "list"], capsys)


@pytest.mark.parametrize("row", ["NR", "BL-CA"])
def test_a_run_that_was_broken_off_goes_on_from_its_folder_alone(
    row: str, files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["train", "nrfx.experiment.demo:digits_net", "--epochs", "3", "--batch", "200", "--row", row, "--json"]
    assert main([*arguments, "--out", "whole"]) == 0
    whole = json.loads(capsys.readouterr().out)
    put, kept = Folder.checkpoint, []

    def breaks_off(self: Folder, *of: object) -> None:
        put(self, *of)
        kept.append(of)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "checkpoint", breaks_off)
        assert main([*arguments, "--out", "broken"]) == 130
    capsys.readouterr()
    assert len(kept) == 1
    assert main(["train", "--resume", "broken", "--json"]) == 0
    resumed = json.loads(capsys.readouterr().out)
    for result in (whole, resumed):
        del result["seconds"], result["out"]
    assert resumed == whole
    assert "the run in it is over" in refused(["train", "--resume", "broken"], capsys)


def test_runs_are_plotted(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["train", "nrfx.experiment.demo:digits_net", "--epochs", "1", "--batch", "200", "--out", "run", "--json"]
    assert main(run) == 0
    capsys.readouterr()
    plain = json.loads(printed(["plot", "run", "-o", "figure.png", "--json"], capsys))
    assert plain["files"] == ["figure.png", "figure.svg"]
    assert all((files / name).stat().st_size > 1_000 for name in plain["files"])
    assert "holds no run" in refused(["plot", "absent"], capsys)


def test_the_demo_writes_to_the_folder_asked_for(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--epochs", "1", "--out", "here", "--json"]) == 0
    assert {"plain", "rejuvenated"} <= json.loads(capsys.readouterr().out).keys()
    assert (files / "here" / "plain" / "log.jsonl").exists()


@pytest.mark.parametrize("command", ["inspect", "why", "rejuvenate", "train", "plot", "demo"])
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"example:\n  nrfx {command}" in capsys.readouterr().out


def test_the_trainings_in_the_help_can_start(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Models and images fit, for the device is the last that is looked at before a training."""
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    examples = capsys.readouterr().out.partition("example:")[2].strip().splitlines()
    assert len(examples) == 2
    for example in examples:
        assert "no device 'abacus'" in refused([*example.split()[1:], "--device", "abacus"], capsys)


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


@pytest.mark.parametrize(
    ("text", "params", "flops"),
    [("params=11.7M", 11_700_000, None), ("flops=4.1G,params=250000", 250_000, 4_100_000_000)],
)
def test_absolute_budgets_are_exact(text: str, params: int, flops: int | None) -> None:
    gm = nrfx.trace(zoo.vgg_bn(), torch.zeros(zoo.IMAGE))
    assert parse_budget(text).of(gm) == nrfx.Budget(params=params, flops=flops)


def test_absolute_and_relative_budgets_mix() -> None:
    gm = nrfx.trace(zoo.vgg_bn(), torch.zeros(zoo.IMAGE))
    total = nrfx.utilization(gm).flops.total
    assert parse_budget("params=3K,flops=0.5x").of(gm) == nrfx.Budget(params=3000, flops=total // 2)


def test_no_budget_is_an_error() -> None:
    with pytest.raises(BudgetError, match="There is no budget"):
        parse_budget(None)


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


@pytest.mark.parametrize(
    "options, row",
    [
        ([], "BL"),
        (["--budget", "params=1.0x"], "NR-CA-BR"),
        (["--budget", "params=1.0x", "--scheme", "dense"], "NR-BR"),
        (["--budget", "params=1.0x", "--scheme", "removed"], "NR-CR"),
    ],
)
def test_a_scheme_without_a_row_means_the_row_of_the_paper_that_has_it(options: list[str], row: str) -> None:
    arguments = _parser().parse_args(["train", "resnet18", *options])
    assert asked(vars(arguments)).recipe.row.name == row
