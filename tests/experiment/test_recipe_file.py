"""Recipe files: one clear error for what is wrong, and that every shipped one is whole."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from torchvision.models import list_models

from nrfx.errors import UsageError
from nrfx.experiment.recipe import RECIPES, recipe
from nrfx.experiment.recipe_file import names, parse, read
from nrfx.models import NETWORKS

LEAST = {"row": "NR", "model": "resnet18"}


@pytest.mark.parametrize(("content", "words"), [
    ({}, "the recipe lacks 'row'"),
    ({"row": "NR"}, "lacks 'model'"),
    ({**LEAST, "colour": 3}, "'colour' is unknown. Known are row, model"),
    ({**LEAST, "bugdet": "params=1.0x"}, "'bugdet' is unknown; close to it: budget"),
    ({**LEAST, "row": "NR-XX"}, "no row 'NR-XX'"),
    ({**LEAST, "seed": date(2024, 5, 1)}, "seed is '2024-05-01'; expected a whole number"),
    ({**LEAST, "seed": True}, "seed is True; expected a whole number"),
    ({**LEAST, "train": 3}, "train is 3; expected a table"),
    ({**LEAST, "train": {"epochs": 2.5}}, r"train\.epochs is 2.5; expected a whole number"),
    ({**LEAST, "train": {"milestones": [30, 6.5]}}, r"train\.milestones\.1 is 6.5; expected a whole number"),
    ({**LEAST, "train": {"lr": float("inf")}}, "the recipe: lr is inf; expected a positive number"),
    ({**LEAST, "train": {"seed": 1}}, r"'train\.seed' is unknown"),
    ({**LEAST, "train": {"milestones": [30]}}, r"the recipe: milestones are \[30\] for schedule 'cosine'"),
    ({**LEAST, "modle": "resnet18"}, "'modle' is unknown; close to it: model"),
    ({**LEAST, "train": {"lr": "fast"}}, "lr is 'fast'; expected a number"),
    ({**LEAST, "train": {"restart": 1}}, "restart is 1; expected true or false"),
    ({**LEAST, "train": {"schedule": "linear"}}, "expected 'cosine' or 'steps'"),
    ({**LEAST, "train": {"milestones": 30}}, r"train\.milestones is 30; expected a list"),
    ({**LEAST, "train": {"max_events": "many"}}, "max_events is 'many'; expected a number or 'unlimited'"),
    ({**LEAST, "train": {"epochs": -1}}, "the recipe: epochs is -1; expected a positive number"),
    ({**LEAST, "train": {"scheme": "dense"}}, "'scheme' is decided by the row"),
    ({**LEAST, "train": {"epochs": 5, "window": 6}}, "window is 6 of 5 epochs"),
    ({**LEAST, "train": {"window": 5, "search": 0.5}}, "no `search` beside it"),
    ({**LEAST, "data": {"root": 3}}, r"data\.root is 3; expected a text"),
    ({**LEAST, "data": {"folder": "x"}}, r"'data\.folder' is unknown. Known are name, root"),
])  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(content: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse(content)


def test_a_file_that_is_not_there_or_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="close to it: table2-resnet50-flops, table2-resnet50-params"):
        read("table2-resnet50")
    with pytest.raises(UsageError, match=r"There is no file mine\.toml; --recipe list"):
        read("mine.toml")
    (tmp_path / "broken.toml").write_text("row = NR")
    with pytest.raises(UsageError, match=r"broken.toml is not TOML: .* line 1"):
        read(tmp_path / "broken.toml")
    for text in ("row = " + "[" * 9_000, "row = 0x" + "f" * 9_000, "row = " + "9" * 9_000):
        (tmp_path / "broken.toml").write_text(text)
        with pytest.raises(UsageError, match=r"broken.toml is not TOML: "):
            read(tmp_path / "broken.toml")
    (tmp_path / "broken.toml").write_bytes(b"row = '\xff'")
    with pytest.raises(UsageError, match=r"broken.toml cannot be read: .*0xff"):
        read(tmp_path / "broken.toml")


def test_a_file_becomes_the_settings_of_its_row(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'row = "NR+DSD"\nmodel = "resnet18"\nseed = 7\n[data]\nname = "shapes"\ncount = 100\n'
        '[train]\nepochs = 90\nwarmup = 7\nschedule = "steps"\nmilestones = [30, 60]\nwindow = 30\n'
        'max_events = "unlimited"\n'
    )
    file = read(tmp_path / "mine.toml")
    config = file.config
    assert (config.seed, config.milestones, config.max_events, config.warmup) == (7, (30, 60), None, 7)
    assert round(config.search * config.epochs) == 30
    assert (config.scheme, config.rescale, config.dsd) == ("attention", True, recipe("NR+DSD").dsd)
    assert (file.data.name, file.data.count, file.budget) == ("shapes", 100, "params=1.0x")


def test_another_row_changes_what_the_row_decides_and_nothing_else() -> None:
    file = parse({**LEAST, "train": {"epochs": 7, "dsd": 0.4}})
    assert file.config.dsd == 0.0
    other = replace(file, row=recipe("NR-IP"))
    assert (other.config.reallocate, other.config.epochs, other.row.name) == (False, 7, "NR-IP")
    assert replace(file, row=recipe("NR+DSD")).config.dsd == 0.4
    assert parse({**LEAST, "row": "NR+DSD", "train": {"dsd": 0.4}}).config.dsd == 0.4


def test_there_is_a_recipe_for_every_row_of_the_paper_s_tables() -> None:
    rows = {f"table1-{name.lower().replace('+', '-')}" for name in RECIPES}
    nets = ("densenet121", "vgg16", "resnet18", "resnet34", "resnet50", "resnet101")
    rows |= {f"table2-{net}-{measure}" for net in nets for measure in ("params", "flops")}
    rows |= {"table3-mobilenet-050", "table3-mobilenet-025"}
    rows |= {f"table4-{net}-c{classes}" for net in ("vgg19", "resnet164", "densenet100") for classes in (10, 100)}
    rows |= {"table5-vgg19-c10", "table5-vgg19-c100"}
    assert {name for name in names() if name.startswith("table")} == rows


@pytest.mark.parametrize("name", names())
def test_every_recipe_that_is_shipped_can_be_read(name: str) -> None:
    file = read(name)
    assert file.row.name in RECIPES
    if name.startswith("table1"):
        assert name == f"table1-{file.row.name.lower().replace('+', '-')}"
        assert file.config.trigger == 0.25
    if name.startswith("table"):
        config = file.config
        assert config.restart and config.delta_lambda == 5e-5 and config.lr == 0.1
        assert (config.penalty, config.weighted, config.spare, config.raise_lambda) == ("sign", "alike", "none", "slow")
        assert (config.gamma_new, config.rescale_limit, config.cross, config.warmup) == (0.5, None, "zero", 0)


def test_every_recipe_names_a_network_that_there_is() -> None:
    for name in names():
        kind, colon, own = read(name).model.partition(":")
        assert own in NETWORKS if kind == "nrfx" else colon or kind in list_models(), name
