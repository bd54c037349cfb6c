import io
import re

import pytest
import torch
from rich.console import Console
from torchvision.models import get_model

import nrfx
from nrfx.analysis.utilization import Share, Utilization
from nrfx.report import human, pair, rejuvenation_report, render, utilization_report, widths
from nrfx.report.layer_tree import Group, lines, outline
from tests import zoo


def traced(name: str, dead: float = 0.4) -> nrfx.TracedModule:
    return nrfx.trace(zoo.with_dead(zoo.SMALL[name](), dead), torch.zeros(zoo.IMAGE))


def measured(name: str, dead: float = 0.4) -> Utilization:
    return nrfx.utilization(traced(name, dead))


@pytest.mark.parametrize("width", [60, 80, 160])
@pytest.mark.parametrize("name", zoo.SMALL)
def test_no_line_of_a_report_exceeds_its_width_and_the_totals_are_there_in_full(name: str, width: int) -> None:
    u = measured(name)
    text = render(utilization_report(u, name), width)
    assert max(map(len, text.splitlines())) <= width
    for share in (u.params, u.flops):
        assert f"{share.live:,} of {share.total:,}" in text


@pytest.mark.parametrize("width", [60, 80, 160])
def test_no_line_of_a_rejuvenation_exceeds_its_width(width: int) -> None:
    gm = traced("resnet")
    budget = nrfx.Budget.relative(gm, params=1.0)
    text = render(rejuvenation_report(nrfx.rejuvenate(gm, budget), "resnet", budget), width)
    assert max(map(len, text.splitlines())) <= width
    assert "alpha = " in text


def test_names_are_cut_in_the_middle_before_a_column_of_numbers_is() -> None:
    u = measured("resnet")
    table = render(utilization_report(u), 60)
    assert "…" not in table.replace("downsample", "")


def test_every_layer_has_a_line_and_norms_are_folded_into_theirs() -> None:
    text = render(utilization_report(measured("resnet")), 80)
    labels = [line.split()[0] for line in text.splitlines() if "/" in line or "%" in line]
    for label in ("conv1+bn1", "layer1.0", "conv2+bn2", "downsample.0+1", "fc", "total"):
        assert label in labels


def test_widths_and_costs_of_a_line_are_live_of_all() -> None:
    u = measured("vgg_bn")
    line = next(line for line in render(utilization_report(u), 80).splitlines() if line.startswith("4+5"))
    layer = lines(u.rows)[1]
    assert f"{layer.main.out_live}/{layer.main.out}" in line
    assert f"{layer.main.in_live}/{layer.main.in_}" in line
    assert pair(layer.params) in line


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


def test_nothing_dead_is_said_in_a_friendly_sentence_and_nobody_wastes() -> None:
    text = render(utilization_report(measured("resnet", 0.0)), 80)
    assert "all of it is alive" in text
    assert "wasted" not in text


def test_who_wastes_most_is_ranked_by_the_measure_asked_for() -> None:
    u = measured("vgg_bn")
    for cost in ("params", "flops"):
        dead = {line.name: getattr(line, cost).total - getattr(line, cost).live for line in lines(u.rows)}
        ranking = render(utilization_report(u, cost=cost), 80).partition(f"Most wasted {cost}")[2].splitlines()[1]
        assert ranking.split()[0] == max(dead, key=lambda name: dead[name])


def test_held_channels_are_counted_by_reason_and_pins_name_who_pins() -> None:
    u = measured("resnet")
    text = render(utilization_report(u), 80)
    assert re.search(rf"{u.held[0][1]:,}  on a residual stream", text)
    assert f"{u.pins[0].space}  by {u.pins[0].node}: {u.pins[0].reason}" in text


def test_widths_of_a_rejuvenation_are_its_kept_and_new_channels() -> None:
    gm = traced("vgg_bn")
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))
    after = {row.name: row.out for row in result.after.rows}
    for name, of in widths(result).items():
        assert of.kept + of.fresh == of.new == after[name]
        assert of.live <= of.kept
    first = widths(result)["0"]
    origin = result.origins["0.weight"][0]
    assert origin is not None
    assert first.fresh == int((origin < 0).sum()) > 0


def test_an_unchanged_network_says_why() -> None:
    gm = traced("resnet", 0.0)
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))
    text = render(rejuvenation_report(result, "resnet"), 80)
    assert "resnet is unchanged" in text
    assert "Nothing is dead" in text


def test_a_compaction_grows_nothing() -> None:
    text = render(rejuvenation_report(nrfx.compact(traced("vgg_bn")), "vgg_bn"), 80)
    assert "dead channels are dropped" in text
    assert "▒" not in text.partition("R new")[2]
    assert "·" in text.partition("gone")[2]


def test_colours_come_on_a_terminal_only() -> None:
    u = measured("vgg_bn")
    assert "\x1b" not in render(utilization_report(u))
    terminal = io.StringIO()
    Console(file=terminal, force_terminal=True, width=80, color_system="standard", legacy_windows=False).print(
        utilization_report(u)
    )
    assert "\x1b[" in terminal.getvalue()


def test_bars_can_be_written_in_ascii() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    console = Console(file=stream, width=80, legacy_windows=False)
    console.print(utilization_report(measured("vgg_bn")))
    stream.flush()
    assert b"###" in stream.buffer.getvalue()


def test_printing_a_value_prints_its_report() -> None:
    u = measured("vgg_bn")
    assert str(u) == render(utilization_report(u))


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1000, "1.00 K"), (99_950, "100 K"), (10**9 - 1, "1.00 G")]
)
def test_numbers_have_three_digits_and_a_unit(number: int, text: str) -> None:
    assert human(number) == text


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0", "mnasnet0_5"])
def test_networks_with_gates_and_depthwise_convolutions_say_how_many_dead_channels_are_held_and_why(name: str) -> None:
    torch.manual_seed(0)
    gm = nrfx.trace(zoo.with_dead(get_model(name)), torch.zeros(1, 3, 64, 64))
    u = nrfx.utilization(gm)
    text = " ".join(render(utilization_report(u), 160).split())
    kinds = {"is a padded convolution": 0, "on a residual stream": 0, "combines its constant with values that vary": 0}
    for reason, count in u.held:
        kinds[next(kind for kind in kinds if kind in reason)] += count
    assert "Held: gamma-dead channels that are kept, and count as live" in text
    for kind, count in kinds.items():
        assert bool(count) == (kind in text)
        assert not count or re.search(rf"{count:,} [^.]*?{kind}", text)
    assert kinds["combines its constant with values that vary"] or name.startswith("mnasnet")
