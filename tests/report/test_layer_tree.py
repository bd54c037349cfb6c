"""The tree of layers: every line once, and no group of one."""

import pytest
import torch
from torch import nn

import nrfx
from nrfx.analysis.utilization import Share
from nrfx.report.layer_tree import Group, Line, lines, outline
from tests import zoo
from tests.report.networks import measured


@pytest.mark.parametrize("name", zoo.SMALL)
def test_lines_and_the_top_groups_add_up_to_the_total(name: str) -> None:
    u = measured(name)
    tops = [placed.item for placed in outline(lines(u.rows)) if placed.depth == 0]
    for measure in ("params", "flops"):
        total = getattr(u, measure)
        for parts in (lines(u.rows), tops):
            shares = [getattr(part, measure) for part in parts]
            assert Share(sum(s.live for s in shares), sum(s.total for s in shares)) == total


@pytest.mark.parametrize("name", zoo.SMALL)
def test_no_group_holds_a_single_entry(name: str) -> None:
    for placed in outline(lines(measured(name).rows)):
        assert not isinstance(placed.item, Group) or len(placed.item.children) > 1


@pytest.mark.parametrize("name", zoo.SMALL)
def test_every_row_stands_in_one_line_and_the_outline_shows_every_line(name: str) -> None:
    rows = measured(name).rows
    assert [row for line in lines(rows) for row in line.rows] == list(rows)
    shown = [row for placed in outline(lines(rows)) if isinstance(placed.item, Line) for row in placed.item.rows]
    assert sorted(row.name for row in shown) == sorted(row.name for row in rows)


def test_a_norm_belongs_to_the_layer_before_it_and_a_first_norm_to_the_layer_after_it() -> None:
    preact = torch.nn.Sequential(
        torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 2, 1), torch.nn.BatchNorm2d(2)
    )
    rows = nrfx.utilization(nrfx.trace(preact, torch.zeros(zoo.IMAGE))).rows
    assert [(line.label, line.main.op, line.main.name) for line in lines(rows)] == [
        ("0+1", "Conv2d", "1"), ("2+3", "Conv2d", "2")
    ]  # fmt: skip


def test_a_module_of_one_layer_takes_no_line_of_its_own() -> None:
    model = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1)), zoo.cbr(4, 4), zoo.cbr(4, 2))
    rows = nrfx.utilization(nrfx.trace(model, torch.zeros(zoo.IMAGE))).rows
    assert [(placed.label, placed.depth) for placed in outline(lines(rows))] == [("0.0", 0), ("1.0+1", 0), ("2.0+1", 0)]


def test_a_norm_behind_a_layer_that_is_not_understood_is_folded_into_it() -> None:
    units = [nn.Sequential(nn.Conv2d(width, 4, 1), nn.BatchNorm2d(4)) for width in (3, 4)]
    model = nn.Sequential(*units[0], *units[1], nn.Conv2d(4, 2, 1))
    model[0].register_forward_hook(nn.Identity())
    rows = nrfx.utilization(nrfx.trace(model, torch.zeros(2, 3, 4, 4))).rows
    assert [line.label for line in lines(rows)] == ["0+1", "2+3", "4"]
