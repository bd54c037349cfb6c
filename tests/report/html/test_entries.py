"""The layers of a page: their numbers are those of the result, and what is said of them that of `why`."""

import pytest

import nrfx
from nrfx.analysis.utilization import Utilization
from nrfx.report import widths
from nrfx.report.html.entries import OF_REJUVENATION, OF_UTILIZATION, of_rejuvenation, of_utilization, of_why
from nrfx.report.layer_tree import lines
from nrfx.report.paragraphs import paragraphs
from tests import zoo
from tests.report.networks import measured, traced
from tests.report.test_utilization import hooked


@pytest.mark.parametrize("name", zoo.SMALL)
def test_a_layer_has_the_numbers_of_its_rows(name: str) -> None:
    u = measured(name)
    for entry, line in zip(of_utilization(u), lines(u.rows), strict=True):
        facts = dict(entry.facts)
        assert f"{entry.path}{entry.label}" == line.name and len(entry.cells) == len(OF_UTILIZATION)
        assert facts["Params"].startswith(f"{line.params.live:,} of {line.params.total:,}")
        assert line.flops.total == 0 or facts["Flops"].startswith(f"{line.flops.live:,} of {line.flops.total:,}")
        parts = {part.kind: part.number for part in entry.bar.parts}
        assert sum(parts.values()) == line.main.out and all(parts.values())
        assert parts.get("dead", 0) == line.main.out - line.main.out_live
        assert parts.get("held", 0) == min(line.held, line.main.out_live)


@pytest.mark.parametrize("name", ["resnet", "vgg_bn", "densenet_preact"])
def test_a_rewritten_layer_has_the_widths_of_the_rewrite(name: str) -> None:
    gm = traced(name)
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))
    of = widths(result)
    for entry, line in zip(of_rejuvenation(result), lines(result.before.rows), strict=True):
        parts = {part.kind: part.number for part in entry.bar.parts}
        mine = of[line.main.name]
        assert parts.get("live", 0) == mine.kept and parts.get("new", 0) == mine.fresh
        assert parts.get("gone", 0) == mine.old - mine.kept and len(entry.cells) == len(OF_REJUVENATION)


@pytest.mark.parametrize("name", ["resnet", "mobilenet_se", "densenet_preact"])
def test_what_is_said_of_a_layer_is_what_why_says(name: str) -> None:
    gm = traced(name)
    u = nrfx.utilization(gm)
    for entry, line in zip(of_utilization(u), lines(u.rows), strict=True):
        (told,) = [each for each in entry.told if each.name == line.main.name]
        answer = nrfx.why(gm, line.main.name)
        for mine, asked in zip(told.paragraphs[:3], paragraphs(answer.parts), strict=False):
            assert (mine.axis, mine.state, mine.reason, mine.lead) == (
                asked.axis,
                asked.state,
                asked.reason,
                asked.lead,
            )
            assert mine.facts == asked.facts and mine.chains == asked.chains


def test_a_layer_that_is_not_understood_has_no_ratio_and_its_bar_no_live_part() -> None:
    u: Utilization = hooked(slice(0, 2))
    entry = next(entry for entry in of_utilization(u) if entry.path == "0.0." and entry.label.startswith("0"))
    assert entry.ratio == "?" and entry.width == "?" and entry.bar.label == "not understood"
    assert not [part for part in entry.bar.parts if part.kind == "live"]
    assert any("it has forward hooks" in part.reason for each in entry.told for part in each.paragraphs)


def test_a_container_has_an_answer_for_each_layer_in_it() -> None:
    gm = traced("resnet")
    assert [told.name for told in of_why(nrfx.why(gm, "layer1"))] == [
        each.layer for each in nrfx.why(gm, "layer1").layers
    ]
    assert [told.name for told in of_why(nrfx.why(gm, "fc"))] == ["fc"]
