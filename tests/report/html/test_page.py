"""The page: one file with all numbers and all layers, escaped, without anything from outside."""

import re
from collections import OrderedDict
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import DenseNet

import nrfx
from nrfx.analysis.utilization import Utilization
from nrfx.errors import CheckpointError
from nrfx.report.amounts import percent
from nrfx.report.html import cell, page
from nrfx.report.layer_tree import lines
from nrfx.report.told import blind_spots
from tests import zoo
from tests.report.networks import measured, traced
from tests.report.test_utilization import hooked

EVIL = "<img src=x onerror=alert(1)>&'"


class Reader(HTMLParser):
    """The tags, attributes and texts of a page. Raises an AssertionError where a tag is not closed in its place."""

    VOID = ("meta", "input", "path", "circle", "br", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def values(self, attribute: str) -> Iterator[str]:
        return (value for _, attributes in self.tags if (value := attributes.get(attribute)) is not None)


def evil() -> nn.Module:
    return nn.Sequential(
        OrderedDict([(EVIL, nn.Conv2d(3, 4, 1)), ("norm", nn.BatchNorm2d(4)), ("out", nn.Conv2d(4, 2, 1))])
    )


# What must not happen


@pytest.mark.parametrize("name", zoo.SMALL)
def test_nothing_comes_from_outside_and_no_id_is_there_twice(name: str) -> None:
    u = measured(name)
    for text in (page(u, name), cell(u)):
        read = Reader(text)
        assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
        assert not {tag for tag, _ in read.tags} & {
            "img",
            "link",
            "iframe",
            "object",
            "embed",
            "video",
            "audio",
            "base",
        }
        assert not list(read.values("src"))
        ids = list(read.values("id"))
        assert len(ids) == len(set(ids))
        assert {href[1:] for href in read.values("href")} <= set(ids)


def test_names_are_escaped_wherever_they_stand() -> None:
    gm = nrfx.trace(evil(), torch.zeros(zoo.IMAGE))
    for result in (nrfx.utilization(gm), nrfx.why(gm), nrfx.why(gm, EVIL)):
        for text in (page(result, EVIL), cell(result)):
            assert "<img" not in text and EVIL in Reader(text).text
    budget = nrfx.Budget.relative(gm, params=2.0)
    assert "<img" not in page(nrfx.rejuvenate(gm, budget), EVIL)


def test_a_network_that_is_not_understood_does_not_look_healthy() -> None:
    u: Utilization = hooked(slice(None))
    text = Reader(page(u)).text
    assert "alive: there is nothing" not in text and "not understood are 3 of 4 layers" in text
    assert "it has forward hooks (Identity), which may do anything" in text


def test_a_file_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be written: there is no folder"):
        measured("vgg_bn").to_html(tmp_path / "none" / "page.html")


# What is there


@pytest.mark.parametrize("name", zoo.SMALL)
def test_every_layer_is_in_the_graph_the_table_and_the_panel(name: str) -> None:
    u = measured(name)
    read = Reader(page(u, name))
    articles = [attributes["id"] for tag, attributes in read.tags if tag == "article"]
    every = lines(u.rows)
    assert articles == [f"l{index}" for index in range(len(every))]
    links = list(read.values("href"))
    assert all(links.count(f"#l{index}") >= 2 for index in range(len(every)))
    for line in every:
        assert line.label in read.text


@pytest.mark.parametrize("name", zoo.SMALL)
def test_the_numbers_are_those_of_the_utilization(name: str) -> None:
    u = measured(name)
    text = Reader(page(u, name)).text
    for share in (u.params, u.flops):
        assert f"{share.live:,} of {share.total:,}" in text and percent(share.ratio) in text
    assert f"{u.params.total - u.params.live:,} params" in text
    for row in u.rows:
        assert row.name.rpartition(".")[2] in text
    for _, count in u.held[:1]:
        assert f"{count:,}" in text
    for note in (*u.notes, *blind_spots(u)):
        assert " ".join(note.split()) in text


def test_a_rejuvenation_shows_both_networks_alpha_and_by_how_much_the_budget_is_met() -> None:
    gm = traced("resnet")
    budget = nrfx.Budget.relative(gm, params=1.0)
    result = nrfx.rejuvenate(gm, budget)
    text = Reader(page(result, "resnet")).text
    assert budget.params is not None
    assert f"{result.before.params.total:,} before, of which {result.before.params.live:,} alive" in text
    left = budget.params - result.after.params.total
    assert f"The budget of {budget.params:,} is met, {left:,} below it" in text
    assert f"{result.alpha:.4g}" in text and f"{result.after.flops.total:,} after" in text
    for note in result.notes:
        assert " ".join(note.split()) in text


def test_a_cost_that_rises_is_more_than_100_percent_of_what_it_was() -> None:
    gm = traced("resnet")
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.5))
    ratio = 100 * result.after.params.total / result.before.params.total
    assert ratio > 140 and f"({ratio:.1f} %)" in Reader(page(result)).text


def test_an_unchanged_network_says_why() -> None:
    gm = traced("resnet", 0.0)
    text = Reader(page(nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0)))).text
    assert "Why nothing was done" in text and "Nothing is dead" in text


def test_a_compaction_has_no_budget() -> None:
    text = Reader(page(nrfx.compact(traced("vgg_bn")))).text
    assert "Budget none" in text and "its dead channels are dropped" in text and "is met" not in text


def test_results_write_themselves_and_notebooks_show_them(tmp_path: Path) -> None:
    gm = traced("vgg_bn")
    for number, result in enumerate((nrfx.utilization(gm), nrfx.compact(gm), nrfx.why(gm))):
        path = tmp_path / f"{number}.html"
        result.to_html(path, title="a network")
        assert path.read_text(encoding="utf-8") == page(result, "a network")
        assert result._repr_html_() == cell(result)


@pytest.mark.parametrize("name", ["resnet", "vgg_bn"])
def test_the_output_of_a_cell_styles_nothing_but_itself(name: str) -> None:
    text = cell(measured(name))
    styles = text.partition("<style>")[2].partition("</style>")[0]
    assert Reader(text).tags[0] == ("div", {"class": "nrfx-cell"})
    for selectors in re.findall(r"(?:^|})\s*([^{}]+){", styles):
        assert all(selector.strip().startswith(".nrfx-cell") for selector in re.split(r",(?![^(]*\))", selectors))
    assert "<script" not in text


def test_a_page_grows_with_the_number_of_layers_alone() -> None:
    """DenseNet's concatenations have one part for each layer before: told one by one they would grow as its square."""
    sizes = []
    for depth in (4, 8):
        torch.manual_seed(0)
        model = zoo.with_dead(DenseNet(4, (depth,), 8, num_classes=5))
        sizes.append(len(page(nrfx.utilization(nrfx.trace(model, torch.zeros(1, 3, 32, 32))))) / depth)
    assert sizes[1] < sizes[0]
