"""The code of the documents runs as it stands there, and the commands in them exist."""

import re
import tomllib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import resnet18

from nrfx.cli.commands import main
from nrfx.experiment.datasets import DATASETS
from nrfx.experiment.recipe import RECIPES
from nrfx.experiment.recipe_file import names, parse
from nrfx.rules import OPS
from tests import zoo
from tests.documents import (
    PAGES,
    ROOT,
    blocks_of,
    check_command,
    check_mention,
    commands_of,
    mentions_of,
    name_of,
    runs,
)
from tests.many import in_processes

DOCS = ROOT / "docs"
NETWORK = """
import torch
from torch import nn

import nrfx

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
images, labels = torch.randn(8, 1, 8, 8), torch.randint(10, (8,))
example_inputs, loader, criterion = images[:1], [(images, labels)] * 3, nn.CrossEntropyLoss()
"""
GRAPH = """
gm = nrfx.trace(model, example_inputs)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
budget = nrfx.Budget.relative(gm, params=1.0)
"""

COMMANDS: Mapping[str, int] = {"README.md": 5, "docs/deployment.md": 1, "docs/report.md": 3}
"""Pages whose commands are run, and how many of them at least."""
LONG = r"nrfx (advise|train|demo|plot|export) |\.onnx|my_package|--help"
"""Commands that are only parsed: they train, run for long, or need a file of the reader's own."""


@dataclass(frozen=True)
class Run:
    """How the code of a page is run.

    Attributes:
        given: what its first block takes for granted.
        shorter: regular expression -> what it is replaced by, so that less is computed; the calls stay. Each matches.
        prints: what must be among the printed lines.
        elsewhere: sections, or "all" of them, whose code another test runs.
        mask: what differs from machine to machine in the printed text, as a regular expression.
    """

    given: str = ""
    shorter: Mapping[str, str] | None = None
    prints: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    mask: str = r"\d\.\d+e-\d\d"


RUNS: Mapping[str, Run] = {
    "README.md": Run(
        f"{NETWORK}\nbatches = [images]\n",
        {r"layer1\.0\.conv2": "0", r"small\.onnx": "small.pt2"},
        prints=("all of it is alive",),
    ),
    "docs/index.md": Run(NETWORK),
    "docs/baselines.md": Run(
        shorter={r"^( *train\(.*, )\d(, .*\))$": r"\g<1>1\2"},  # one epoch, which changes the numbers
        prints=("trained: ", "slim: ", "tuned: ", "squeezed: ", "from scratch: "),
    ),
    "docs/quickstart.md": Run(prints=("step 100  r = 1.00", "rejuvenated", "dies after")),
    "docs/liveness.md": Run(
        prints=("out_features=16, bias=True) False", "On the batches the outputs moved", "out_features=24"),
    ),
    "docs/advise.md": Run(prints=("a gain over plain training is not known",)),
    "docs/schemes.md": Run(
        prints=("stay apart: its cross weights do not exist", "CrossConv2d((16, 16) -> (16, 16), kernel_size=(3, 3)"),
    ),
    "docs/extending.md": Run(prints=("nrfx has no rule for quantile",)),
    "docs/optimizers.md": Run(prints=("Muon: its step is orthogonal", "True True")),
    "docs/tutorial.md": Run(mask=r"\S+\.(?:md|py):\d+", prints=("rejuvenated", "1 False")),
    "docs/training.md": Run(
        f"{NETWORK}{GRAPH}\nbatches = [images]\n\n\ndef evaluate(model):\n    return model(images)\n"
    ),
    "docs/report.md": Run(f"{NETWORK}{GRAPH}"),
    "docs/integrations.md": Run(
        f"{NETWORK}{GRAPH}",
        elsewhere=("Lightning", "transformers", "accelerate", "timm"),  # integrations/test_documents
    ),
    "docs/from_nothing.md": Run(elsewhere=("all",)),  # test_docs_from_nothing.py
    "docs/many_processes.md": Run(elsewhere=("all",)),  # below, in two processes
}


def code_of(page: Path) -> list[tuple[str, int, str | None]]:
    """The code blocks of a page that are run here, each with its line and the output that is shown behind it."""
    elsewhere = RUNS.get(name_of(page), Run()).elsewhere
    python = [block for block in blocks_of(page) if block.language == "python"]
    return [(block.code, block.line, block.output) for block in python if not {block.section, "all"} & {*elsewhere}]


def shortened(page: Path, codes: list[str]) -> list[str]:
    for pattern, replacement in (RUNS.get(name_of(page), Run()).shorter or {}).items():
        assert any(re.search(pattern, code, flags=re.M) for code in codes), (
            f"{pattern} stands nowhere on {name_of(page)}"
        )
        codes = [re.sub(pattern, replacement, code, flags=re.M) for code in codes]
    return codes


@pytest.fixture
def known_ops() -> Iterator[None]:
    """What pages say of ops of their own is forgotten behind them."""
    known = dict(OPS)
    yield
    for key in OPS.keys() - known.keys():
        del OPS[key]


@pytest.mark.parametrize("page", [page for page in PAGES if code_of(page)], ids=name_of)
@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:.*torch.ao.quantization", "ignore:.*quantized_engine")
@pytest.mark.usefixtures("known_ops")
def test_the_code_of_a_page_runs_and_prints_what_stands_behind_it(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = RUNS.get(name_of(page), Run())
    blocks = code_of(page)
    codes = shortened(page, [code for code, _, _ in blocks])
    variables: dict[str, object] = {"__name__": page.stem}
    printed = ""
    with warnings.catch_warnings():  # a page may set filters of its own
        exec(compile(run.given, f"given to {name_of(page)}", "exec", dont_inherit=True), variables)
        for code, (written, line, output) in zip(codes, blocks, strict=True):
            exec(compile("\n" * (line - 1) + code, name_of(page), "exec", dont_inherit=True), variables)
            new = capsys.readouterr().out
            printed += new
            if output is not None and code == written:
                assert re.sub(run.mask, "...", new) == re.sub(run.mask, "...", output)
    assert [text for text in run.prints if text not in printed] == []


def test_the_quickstart_is_a_script_of_thirty_lines() -> None:
    script = code_of(DOCS / "quickstart.md")[0][0]
    assert len([line for line in script.splitlines() if line.strip()]) <= 30


def test_no_code_hides_in_a_block_of_text() -> None:
    """Such a block would not be run."""
    hidden = [
        f"{name_of(page)}:{block.line}"
        for page in PAGES
        for block in blocks_of(page)
        if block.language not in ("python", "sh", "toml", "diff")
        and (block.language != "text" or re.search(r"^(?!\$).*\bnrfx\.\w+\(", block.code, flags=re.M))
    ]
    assert hidden == []


@pytest.mark.parametrize("page", [page for page in PAGES if [*commands_of(page), *mentions_of(page)]], ids=name_of)
def test_the_commands_of_a_page_exist_with_their_options(page: Path) -> None:
    for line in commands_of(page):
        for words in runs(line):
            check_command(words)
    for line in mentions_of(page):
        if line != "nrfx inspect --no-such-option":  # docs/speed.md measures how soon it is refused
            check_mention(line.split())


@pytest.mark.parametrize("page", COMMANDS, ids=str)
def test_the_commands_of_a_page_do_what_they_say(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a ResNet-18, half of whose channels are dead, in the files that the page names."""
    monkeypatch.chdir(tmp_path)
    model = zoo.with_dead(resnet18()).state_dict()
    for name in ("trained.pt", "checkpoint.pt", "resnet18.pt"):
        torch.save(model, name)
    torch.save({"model": model, "ema": model}, "both.pt")
    ran = 0
    for line in commands_of(ROOT / page):
        short = (
            line.replace("resnet50", "resnet18").replace("conv3", "conv2").replace("checkpoint.pt:ema", "both.pt:ema")
        )
        if short.startswith("nrfx ") and not re.search(LONG, short):
            (words,) = runs(short)
            assert main(words[1:]) == 0, capsys.readouterr().err
            ran += 1
    assert ran >= COMMANDS[page]


@pytest.mark.parametrize("command", ["why resnet18 fc", "why resnet18 layer2"])
def test_the_answers_of_why_are_those_on_its_page(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "96")
    assert main(command.split()) == 0
    lines = re.compile(r"(?<=\.py:)\d+")  # other versions of torchvision have the code in other lines
    page = [lines.sub("N", block.code) for block in blocks_of(DOCS / "why.md")]
    assert f"$ nrfx {command}\n{lines.sub('N', capsys.readouterr().out)}" in page


def step(rank: int, given: str, code: str) -> tuple[int, bool]:
    """Runs code that makes `gm`, `optimizer` and `nr`, makes a step, and says how many steps the Rejuvenator counts."""
    variables: dict[str, Any] = {"__name__": "many_processes"}
    exec(given, variables)
    exec(code, variables)
    network = variables.get("ddp", variables["gm"])
    network(variables["example_inputs"]).square().mean().backward()
    variables["optimizer"].step()
    return variables["nr"].steps, variables["nr"].searching


@pytest.mark.parametrize("kind", ["DistributedDataParallel(gm)", "fully_shard(gm)"])
def test_the_code_on_many_processes_runs_in_two(kind: str) -> None:
    (code,) = (block.code for block in blocks_of(DOCS / "many_processes.md") if kind in block.code)
    given = """
from collections import OrderedDict

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import nrfx

torch.manual_seed(0)
block = nn.Sequential(OrderedDict(conv1=nn.Conv2d(8, 8, 3), bn1=nn.BatchNorm2d(8)))
layers = {"conv1": nn.Conv2d(3, 8, 3), "bn1": nn.BatchNorm2d(8), "layer1": nn.Sequential(block), "flat": nn.Flatten()}
model = nn.Sequential(OrderedDict(layers, fc=nn.Linear(8, 2)))
example_inputs = torch.randn(2, 3, 5, 5)
"""
    assert in_processes(step, given, code) == [(1, True), (1, True)]


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
