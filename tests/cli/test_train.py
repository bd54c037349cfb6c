"""nrfx train: what is refused, what a recipe and its row decide, and that a run goes on from its folder."""

import json
from pathlib import Path

import pytest

from nrfx.cli.commands import main
from nrfx.cli.parser import arguments_parser
from nrfx.cli.train import asked
from nrfx.experiment.record import Folder
from tests.cli.running import printed, refused
from tests.experiment.test_fashion import write


def test_training_leaves_a_run_that_can_be_inspected(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = "nrfx.experiment.networks:digits_net"
    arguments = ["train", model, "--epochs", "1", "--batch", "64", "--budget", "params=1.0x", "--out", "run", "--json"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "\ndigits_net  1/1  loss " in captured.err
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
    "warmup and no budget": (["tests.zoo:vgg_bn", "--warmup", "9"], "--warmup has no meaning for BL"),
    "trigger and no budget": (["tests.zoo:vgg_bn", "--trigger", "0.3"], "--trigger has no meaning for BL"),
    "missing root": (["tests.zoo:vgg_bn", "--data", "cifar10"], "needs the folder that its files are in"),
    "absent root": (["tests.zoo:vgg_bn", "--data", "folder", "--data-root", "absent"], "no folder absent"),
    "no files of fashion": (
        ["tests.zoo:vgg_bn", "--data", "fashion", "--data-root", "."],
        "fashion is not in .: expected train-images-idx3-ubyte.gz",
    ),
    "count of digits": (["tests.zoo:vgg_bn", "--count", "9"], "--count has no meaning for digits: leave it out"),
    "unknown device": (["nrfx.experiment.networks:digits_net", "--device", "abacus"], "no device 'abacus'"),
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
        'row = "NR-CR"\nmodel = "nrfx.experiment.networks:digits_net"\n[train]\nepochs = 9\ninterval = 2\nlr = 0.05\n'
    )
    over = ["--row", "NR-IP", "--epochs", "1", "--batch", "200", "--seed", "3"]
    assert main(["train", "--recipe", "own.toml", *over, "--out", "run", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["row"] == "NR-IP"
    assert "A gamma of 0.5, of a channel of mean cost, that the loss has no use for dies after" in " ".join(
        captured.err.split()
    )
    told = json.loads((files / "run" / "config.json").read_text())
    assert (told["reallocate"], told["epochs"], told["batch_size"], told["seed"]) == (False, 1, 200, 3)
    assert (told["lr"], told["interval"], told["row"]) == (0.05, 2, "NR-IP")


def test_fashion_is_trained_from_its_files_by_options_or_by_a_recipe(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(files / "data")
    model, sizes = "nrfx.experiment.networks:digits_net", ["--size", "14", "--count", "64"]
    options = ["--data", "fashion", "--data-root", "data", *sizes]
    (files / "own.toml").write_text(f'row = "BL"\nmodel = "{model}"\n[data]\nname = "fashion"\nroot = "data"\n')
    for name, job in {"a": [model, *options], "b": ["--recipe", "own.toml", *sizes]}.items():
        assert main(["train", *job, "--epochs", "1", "--batch", "32", "--out", name, "--json"]) == 0
        capsys.readouterr()
        told = json.loads((files / name / "config.json").read_text())["data"]
        assert (told["name"], told["root"], told["size"], told["count"]) == ("fashion", "data", 14, 64)
    assert (files / "a" / "model.safetensors").read_bytes() == (files / "b" / "model.safetensors").read_bytes()


def test_the_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    plain = json.loads(printed(["train", "--recipe", "list", "--json"], capsys))
    assert plain["table3-mobilenet-025"]["row"] == "NR-CA-BR"
    assert "table5-vgg19-c100" in printed(["train", "--recipe", "list"], capsys)


@pytest.mark.parametrize("row", ["NR", "BL-CA"])
def test_a_run_that_was_broken_off_goes_on_from_its_folder_alone(
    row: str, files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = "nrfx.experiment.networks:digits_net"
    arguments = ["train", model, "--epochs", "3", "--batch", "200", "--row", row, "--json"]
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


def test_the_trainings_in_the_help_can_start(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The device is checked last, so an error about it means that the model and the images fit."""
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    examples = capsys.readouterr().out.partition("example:")[2].strip().splitlines()
    assert len(examples) == 2
    for example in examples:
        assert "no device 'abacus'" in refused([*example.split()[1:], "--device", "abacus"], capsys)


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
    arguments = arguments_parser().parse_args(["train", "resnet18", *options])
    assert asked(vars(arguments)).recipe.row.name == row
