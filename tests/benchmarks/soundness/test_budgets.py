"""The benchmark of the paper's budgets: it asks for every column, and its checks can fail."""

import dataclasses
from statistics import mean

import pytest

from benchmarks.soundness.budgets import COLUMNS, Row, rows, traced, utilized
from benchmarks.soundness.budgets_page import document
from nrfx.analysis.spaces import channels_of
from nrfx.models import NETWORKS


def test_every_column_that_names_a_cost_is_there_with_the_paper_s_own_miss() -> None:
    misses = {
        (column.network, column.measure, column.classes): round(column.paper_miss, 1)
        for column in COLUMNS
        if column.paper_miss is not None
    }
    assert misses == {
        ("densenet121_postact", "params", 1000): 3.8,
        ("vgg16_imagenet", "params", 1000): -3.4,
        ("resnet18", "params", 1000): 1.7,
        ("resnet34", "params", 1000): 0.5,
        ("resnet50", "params", 1000): 3.1,
        ("resnet101", "params", 1000): 4.7,
        ("densenet121_postact", "flops", 1000): -3.5,
        ("vgg16_imagenet", "flops", 1000): 0.0,
        ("resnet18", "flops", 1000): -4.4,
        ("resnet34", "flops", 1000): -2.7,
        ("resnet50", "flops", 1000): -2.2,
        ("resnet101", "flops", 1000): -3.7,
        ("vgg19_cifar", "params", 10): -0.3,
        ("vgg19_cifar", "params", 100): 0.0,
        ("resnet164_cifar", "params", 10): 3.5,
        ("resnet164_cifar", "params", 100): 6.4,
        ("densenet100_cifar", "params", 10): -0.4,
        ("densenet100_cifar", "params", 100): 3.0,
    }
    assert (
        round(mean(abs(each.paper_miss) for each in COLUMNS if each.table == 2 and each.paper_miss is not None), 1)
        == 2.8
    )
    assert {column.network for column in COLUMNS} == NETWORKS.keys() - {"resnet152"}


@pytest.fixture(scope="module")
def done() -> list[Row]:
    column = next(each for each in COLUMNS if each.network == "mobilenet_v1_025")
    gm = traced(column.network, column.classes)
    channels = channels_of(gm)
    some = list(zip(range(2), rows(column, gm, channels), strict=False))
    assert utilized(gm, channels, "flops") == some[-1][1].r
    return [each for _, each in some]


def test_a_row_meets_its_budget_and_dead_channels_are_drawn_until_the_trigger(done: list[Row]) -> None:
    assert [each.dead for each in done] == ["random 0", "random 1"]
    assert all(each.passed and each.alpha > 1 for each in done)
    assert all(0.49 < each.r < 0.5 for each in done)
    assert done[0].cost != done[1].cost


def test_a_row_that_is_above_too_low_or_not_as_predicted_does_not_pass(done: list[Row]) -> None:
    for broken in ({"miss": 1e-5}, {"miss": -0.6}, {"agrees": False}):
        assert not dataclasses.replace(done[0], **broken).passed


def test_the_page_shows_the_worst_of_each_kind_of_pattern(done: list[Row]) -> None:
    first = dataclasses.replace(done[0], paper_miss=6.4)
    given = dataclasses.replace(first, dead="6 of 10 live", miss=-0.0125)
    text = document([first, dataclasses.replace(first, miss=-0.25), given])
    line = next(line for line in text.splitlines() if "mobilenet_v1_025 |" in line)
    assert line.endswith("| -0.2500 % | -0.0125 % | +6.4 % |")
