"""The code of the documents runs as it stands there."""

import re
import tomllib
import warnings
from pathlib import Path

import pytest

from nrfx.experiment.datasets import DATASETS
from nrfx.experiment.recipe import RECIPES
from nrfx.experiment.recipe_file import names, parse
from nrfx.rules import OPS

DOCS = Path(__file__).parent.parent / "docs"


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), flags=re.S)


def test_the_quickstart_trains_rejuvenates_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    script, *rest = blocks("quickstart.md")
    assert len([line for line in script.splitlines() if line.strip()]) <= 30
    names: dict[str, object] = {}
    exec(compile(script, "quickstart.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "step 100  r = 1.00" in printed and "rejuvenated" in printed
    for block in rest:
        exec(compile(block, "quickstart.md", "exec"), names)
    assert (tmp_path / "digits.safetensors").exists()


def test_the_baselines_run_as_they_stand_there(capsys: pytest.CaptureFixture[str]) -> None:
    """With one epoch in the place of several, which changes the numbers and not the calls."""
    names: dict[str, object] = {}
    for block in blocks("baselines.md"):
        short = re.sub(r"^( *train\(.*, )\d(, .*\))$", r"\g<1>1\2", block, flags=re.M)
        assert ("train(" in block) == (short != block) or "def train" in block
        exec(compile(short, "baselines.md", "exec"), names)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines if ":" in line] == [
        "trained", "slim", "tuned", "squeezed", "from scratch"
    ]  # fmt: skip


def test_liveness_of_ones_own_runs_as_it_stands_there(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for block in blocks("liveness.md"):
        exec(compile(block, "liveness.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "out_features=16, bias=True) False" in printed and "On the batches the outputs moved" in printed
    assert "out_features=24" in printed and printed.rstrip().endswith(
        "Linear(in_features=8, out_features=32, bias=True)"
    )


def test_the_schemes_do_what_their_document_says(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for block in blocks("schemes.md"):
        exec(compile(block, "schemes.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "stay apart: its cross weights do not exist" in printed
    assert "CrossConv2d((16, 16) -> (16, 16), kernel_size=(3, 3)" in printed


def test_the_worked_examples_of_rules_of_ones_own_run(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {"__name__": "extending"}
    known = dict(OPS)
    try:
        for block in blocks("extending.md"):
            exec(compile(block, "extending.md", "exec", dont_inherit=True), names)
    finally:
        for key in OPS.keys() - known.keys():
            del OPS[key]
    assert "nrfx has no rule for quantile" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:.*torch.ao.quantization", "ignore:.*quantized_engine")
def test_the_ways_out_lead_where_their_document_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is printed stands in the text behind each block, but for the last digits of differences."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        for block in blocks("deployment.md"):
            exec(compile(block, "deployment.md", "exec"), names)
    printed = capsys.readouterr().out
    told = re.findall(r"```python\n.*?```\n\n```text\n(.*?)```", (DOCS / "deployment.md").read_text(), flags=re.S)
    assert len(told) == 3
    assert re.sub(r"\S+e-\d\d", "0.0e+00", printed) == "".join(told) + "True\n"


def test_the_readme_links_to_every_page() -> None:
    text = (DOCS.parent / "README.md").read_text()
    assert [page.name for page in DOCS.glob("*.md") if f"](docs/{page.name})" not in text] == []


def test_the_page_on_training_has_every_row_and_dataset_and_a_recipe_that_can_be_read() -> None:
    text = (DOCS / "training.md").read_text()
    assert all(f"| {row} |" in text for row in RECIPES)
    assert all(name in text for name in DATASETS)
    (recipe,) = re.findall(r"```toml\n(.*?)```", text, flags=re.S)
    assert parse(tomllib.loads(recipe)).config.restart
    assert set(re.findall(r"--recipe (\S+) --", text)) <= set(names())


def test_optimizers_and_followers_go_on_as_their_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {"__name__": "optimizers"}
    for block in blocks("optimizers.md"):
        exec(compile(block, "optimizers.md", "exec"), names)
    assert "Muon: its step is orthogonal" in (printed := capsys.readouterr().out)
    assert printed.endswith("True True\n")
